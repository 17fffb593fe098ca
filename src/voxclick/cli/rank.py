"""`voxclick rank`: which scans to annotate next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    DEFAULT_CACHE,
    BackendName,
    BackendOption,
    CacheDiskGibOption,
    CacheDtype,
    CacheDtypeOption,
    CacheGibOption,
    CacheGpuGibOption,
    CombinationName,
    DeviceOption,
    EnsembleOption,
    InferenceOverrides,
    ModelsOption,
    cache_settings,
    choose_model,
)
from voxclick.cli.progress import case_progress
from voxclick.datasets import Case, is_dataset, read_case_images, read_dataset, read_images
from voxclick.errors import DatasetError, UsageError, VoxclickError
from voxclick.evaluation.results import write_table
from voxclick.hardware import saying_when_memory_is_full
from voxclick.model_files import Model, ModelSettings
from voxclick.runs import refuse_other_names, with_channels_of
from voxclick.session import InteractiveSession
from voxclick.sliding_window import CacheSettings, InferenceSettings


@dataclass(frozen=True)
class RankedCase:
    """One row of the table.

    Attributes:
        case: the case's name.
        image: its file; of several channels the first, or the one that all are resampled onto
            (`Case.grid`).
        uncertainty: of the whole volume, without clicks; see `InteractiveSession.uncertainty`.
        foreground_ml: predicted, on the network's grid.
        places: how many there are to click, see `InteractiveSession.proposals`.
        voxel: the first of them as ``i,j,k`` of the image, as `segment` takes it; empty if there
            is none.
    """

    case: str
    image: Path
    uncertainty: float
    foreground_ml: float
    places: int
    voxel: str


def rank(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="an nnU-Net folder, dataset.json or list file, a folder of images, or image files"
        ),
    ],
    model: ModelsOption,
    out: Annotated[Path, typer.Option("--out", help="the table to write (.csv)")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only so many cases")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="cases that have a label already are ranked, too")
    ] = False,
    ensemble: EnsembleOption = CombinationName.mean,
    overrides: InferenceOverrides = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="as everywhere; ranking draws nothing at random")
    ] = 0,
    device: DeviceOption = "auto",
    backend: BackendOption = BackendName.torch,
    cache_dtype: CacheDtypeOption = CacheDtype.float32,
    cache_gib: CacheGibOption = DEFAULT_CACHE.host_gib,
    cache_gpu_gib: CacheGpuGibOption = DEFAULT_CACHE.gpu_gib,
    cache_disk_gib: CacheDiskGibOption = DEFAULT_CACHE.disk_gib,
) -> None:
    """Rank the scans of DATA that have no label by how uncertain MODEL is of them.

    OUT has the most uncertain scan first: of those to annotate next, the one to begin with.
    """
    torch.manual_seed(seed)
    _check_out(out, data)
    cache = cache_settings(cache_dtype, cache_gib, cache_gpu_gib, cache_disk_gib)
    chosen = choose_model(model, ensemble, device, backend, overrides)
    cases = choose_cases(data, chosen.model.settings, every=every)[:limit]
    out.parent.mkdir(parents=True, exist_ok=True)

    ranked: list[RankedCase] = []
    failures: list[str] = []
    with case_progress("ranking", len(cases)) as on_case:
        for case in cases:
            try:
                with saying_when_memory_is_full():
                    ranked.append(rank_case(case, chosen.model, chosen.inference, cache))
            except (VoxclickError, OSError) as error:
                failures.append(f"{case.name}: {error}")
            else:
                # after every case, so that an interrupted run leaves what it knows
                write_table(ranking_table(ranked), out)
            on_case()
    if ranked:
        plain_console().print(f"{len(ranked)} cases -> {out}")
    if failures:
        listed = "\n  ".join(failures)
        raise DatasetError(f"{len(failures)} of {len(cases)} cases were not ranked:\n  {listed}")


def rank_case(
    case: Case,
    model: Model,
    inference: InferenceSettings | None = None,
    cache: CacheSettings | None = None,
) -> RankedCase:
    """Read one case and ask the model what it is sure of.

    Raises:
        UnsupportedImageError: an image cannot be read.
        GeometryError: not the model's number of images, or images on different grids.
    """
    volumes = read_case_images(case)
    survey = InteractiveSession(model, volumes, inference, cache).survey(count=1)
    return RankedCase(
        case=case.name,
        image=case.grid or case.images[0],
        uncertainty=survey.uncertainty,
        foreground_ml=survey.foreground_ml,
        places=survey.places,
        voxel=",".join(str(x) for proposal in survey.proposals for x in proposal.index),
    )


def ranking_table(ranked: Sequence[RankedCase]) -> pd.DataFrame:
    """One row per case, the most uncertain first; equals by name."""
    table = pd.DataFrame([asdict(case) for case in ranked])
    return table.sort_values(["uncertainty", "case"], ascending=[False, True])


def choose_cases(data: Sequence[Path], settings: ModelSettings, *, every: bool) -> tuple[Case, ...]:
    """The cases of a data set that have no label, or bare images.

    Args:
        data: one data set, or images and folders of them.
        settings: of the model.
        every: take the labelled cases, too.

    Raises:
        DatasetError: there are none, or the data set declares other channels than the model's.
    """
    if len(data) > 1 or not is_dataset(data[0]):
        return read_images(data, len(settings.channels))
    dataset = with_channels_of(read_dataset(data[0], labels_required=False), settings)
    refuse_other_names(data[0], "channels", dataset.channels, settings.channels)
    cases = (*dataset.train, *dataset.test)
    chosen = tuple(case for case in cases if every or case.label is None)
    if not chosen:
        raise DatasetError(
            f"{data[0]}: none of its {len(cases)} cases is without a label, so none is left to "
            "annotate; --all ranks those that have one"
        )
    return chosen


def _check_out(out: Path, data: Sequence[Path]) -> None:
    """Say before the work what would make it fail in the end, or cost a list of cases."""
    if out.suffix.lower() != ".csv" or out.is_dir():
        raise UsageError(f"--out {out}: expected the name of a .csv file")
    if any(out.exists() and path.exists() and out.samefile(path) for path in data):
        raise UsageError(f"--out {out}: is the list that goes in; name another file")
