"""What the figures were taken on, and what is said where its memory does not suffice."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from voxclick.errors import NotEnoughMemoryError


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@contextmanager
def saying_when_memory_is_full() -> Iterator[None]:
    """Make one sentence of the ways in which Python and PyTorch run out of memory.

    Raises:
        NotEnoughMemoryError: in the block, memory did not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemoryError(
            "the GPU's memory is full; use a smaller inference.window_batch or "
            f"training.batch_size, or the device cpu ({_first_line(error)})"
        ) from error
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no class for it on a CPU
        if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise NotEnoughMemoryError(
            "main memory is full; close other programs, or keep fewer results of windows "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
