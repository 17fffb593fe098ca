"""Half precision where the hardware gains by it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""``auto``: bfloat16 on a CPU that multiplies it in hardware and on GPUs that have it, float16
on older GPUs, float32 elsewhere."""


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype that the network's convolutions run in on this device."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        # is_bf16_supported() would count emulation too
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    # CPUs without these instructions emulate bfloat16 and are slower with it than in float32.
    # PyTorch before 2.9 cannot be asked; float32 is the safe answer there.
    get_capabilities = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
