"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from voxclick.config import override_inference
from voxclick.errors import UsageError
from voxclick.model_files import Model, load_ensemble
from voxclick.runs import models_of
from voxclick.sliding_window import CacheSettings, InferenceSettings


class BackendName(str, Enum):
    """`voxclick.model_files.Backend`, for the command line."""

    torch = "torch"
    openvino = "openvino"


class CombinationName(str, Enum):
    """`voxclick.model_files.Combination`, for the command line."""

    mean = "mean"
    vote = "vote"


class CacheDtype(str, Enum):
    """`CacheSettings.dtype`, for the command line."""

    float32 = "float32"
    float16 = "float16"


DEFAULT_CACHE = CacheSettings()
_CACHE_PANEL = "Results of windows that are kept"

ModelsOption = Annotated[
    list[Path],
    typer.Option(
        "--model",
        help="a model.safetensors, or the folder of a run; several of them, or a run of "
        "`train --folds`, answer as one",
    ),
]
EnsembleOption = Annotated[
    CombinationName,
    typer.Option(
        "--ensemble", help="how several models' answers become one: mean (of their logits) or vote"
    ),
]
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


@dataclass(frozen=True, eq=False)
class ChosenModel:
    """What --model, --ensemble and --set say.

    Attributes:
        model: one model, or several as one.
        inference: its way through volumes.
        described: for the summary of a run: the files, and how they answer together.
    """

    model: Model
    inference: InferenceSettings
    described: dict[str, Any]


def choose_model(
    paths: Sequence[Path],
    ensemble: CombinationName,
    device: str | torch.device,
    backend: BackendName,
    overrides: Sequence[str] | None,
) -> ChosenModel:
    """Load what the options name.

    Args:
        paths: of --model.
        ensemble: how several models answer as one; of a single one it changes nothing.
        overrides: of --set.

    Raises:
        ModelFileError: a file or a folder that holds no model, or models that do not agree.
        UsageError: one file twice, or windows that the model does not take.
    """
    files = [file for path in paths for file in models_of(path)]
    described: dict[str, Any] = {"model": str(files[0]), "backend": backend.value}
    if len(files) > 1:
        described |= {"model": [str(file) for file in files], "ensemble": ensemble.value}
    model = load_ensemble(files, device, backend.value, ensemble.value)
    inference = override_inference(model.settings, overrides)
    model.check_inference(inference)
    return ChosenModel(model, inference, described)


def label_names(said: str | None) -> tuple[str, ...] | None:
    """What --labels says: names by value, background first; None where it says nothing.

    Raises:
        UsageError: fewer than two, an empty or a repeated one.
    """
    if said is None:
        return None
    names = tuple(name.strip() for name in said.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"--labels {said!r}: expected different names with commas between, background first, "
            "like background,tumor"
        )
    return names


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
