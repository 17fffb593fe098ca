"""Peak memory of one phase of the work."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes in clear_refs to begin a new peak (proc_pid_clear_refs(5))."""


def reset_peak(device: torch.device) -> None:
    """Begin a new peak, without what the C library holds of memory that nobody uses any more.

    Where the system cannot begin one, the peak stays that of the process so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)


def peak_bytes(device: torch.device) -> int | None:
    """The most memory held since `reset_peak`: on a GPU what PyTorch held there, else the
    process's resident memory; None on systems without /proc."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kibibytes = next(line for line in lines if line.startswith("VmHWM:")).split()[1]
    return int(kibibytes) * 1024
