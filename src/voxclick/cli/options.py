"""Options that several commands share."""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated

import typer

from voxclick.errors import UsageError
from voxclick.sliding_window import CacheSettings


class BackendName(str, Enum):
    """`voxclick.model_files.Backend`, for the command line."""

    torch = "torch"
    openvino = "openvino"


class CacheDtype(str, Enum):
    """`CacheSettings.dtype`, for the command line."""

    float32 = "float32"
    float16 = "float16"


DEFAULT_CACHE = CacheSettings()
_CACHE_PANEL = "Results of windows that are kept"

DeviceOption = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one"),
]
BackendOption = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        help="what computes the network; openvino is faster on many CPUs, an extra to install",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="the same seed gives the same result")
]
InferenceOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="another way through the network than the model's own, e.g. inference.overlap=0.5; "
        "may be repeated",
    ),
]
CacheDtypeOption = Annotated[
    CacheDtype,
    typer.Option(
        "--cache-dtype",
        help="of the results; float16 takes half the room and rounds them",
        rich_help_panel=_CACHE_PANEL,
    ),
]
CacheGibOption = Annotated[
    float,
    typer.Option(
        "--cache-gib", min=0, help="GiB of main memory for them", rich_help_panel=_CACHE_PANEL
    ),
]
CacheGpuGibOption = Annotated[
    float,
    typer.Option(
        "--cache-gpu-gib",
        min=0,
        help="GiB of the GPU's memory, which is filled first",
        rich_help_panel=_CACHE_PANEL,
    ),
]
CacheDiskGibOption = Annotated[
    float,
    typer.Option(
        "--cache-disk-gib",
        min=0,
        help="GiB of files for what does not fit in memory, in the folder for temporary files "
        "(TMPDIR)",
        rich_help_panel=_CACHE_PANEL,
    ),
]


def cache_settings(
    dtype: CacheDtype, host_gib: float, gpu_gib: float, disk_gib: float
) -> CacheSettings:
    """What the four options of the cache say.

    Raises:
        UsageError: a budget that is not finite.
    """
    budgets = {
        "--cache-gib": host_gib,
        "--cache-gpu-gib": gpu_gib,
        "--cache-disk-gib": disk_gib,
    }
    for option, gib in budgets.items():
        if not math.isfinite(gib):
            raise UsageError(f"{option} {gib}: expected a number of GiB, 0 or more")
    return CacheSettings(dtype=dtype.value, host_gib=host_gib, gpu_gib=gpu_gib, disk_gib=disk_gib)
