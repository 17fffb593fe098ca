"""`voxclick challenge`: what a container of the autoPET challenges does with its input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import CombinationName, DeviceOption, EnsembleOption
from voxclick.cli.progress import window_progress
from voxclick.clicks import read_clicks
from voxclick.datasets import Case, Dataset, read_case_images, select_channels
from voxclick.datasets.autopet import CT, PET
from voxclick.datasets.autopet_challenge import (
    ChallengeEdition,
    challenge_clicks,
    challenge_mask,
    is_autopet_challenge,
    read_autopet_challenge,
    refuse_shared_clicks,
)
from voxclick.errors import DatasetError, ModelFileError
from voxclick.io import write_label_map
from voxclick.model_files import Model, ModelSettings, load_ensemble
from voxclick.runs import models_of, refuse_other_names, with_channels_of
from voxclick.session import InteractiveSession
from voxclick.training.run_folder import RunFolder


def challenge(
    data: Annotated[
        Path, typer.Option("--input", help="images/pet, images/ct and lesion-clicks.json")
    ] = Path("/input"),
    out: Annotated[
        Path, typer.Option("--output", help="gets images/tumor-lesion-segmentation")
    ] = Path("/output"),
    model: Annotated[
        Path,
        typer.Option(
            "--model", help="a model.safetensors, or a folder with one or, for an ensemble, several"
        ),
    ] = Path("/opt/ml/model"),
    edition: Annotated[
        ChallengeEdition, typer.Option("--edition", help="decides where the mask belongs")
    ] = ChallengeEdition.autopet4,
    ensemble: EnsembleOption = CombinationName.mean,
    device: DeviceOption = "auto",
) -> None:
    """Segment the case in a challenge's input folder with its clicks.

    The mask is written as .mha where the challenge looks for it.
    """
    if not is_autopet_challenge(data):
        raise DatasetError(f"{data}: expected a PET in {data / 'images' / 'pet'}, found none")
    dataset = read_autopet_challenge(data)
    refuse_shared_clicks(dataset)
    loaded = load_ensemble(_members(model), device, combination=ensemble.value)
    for case in _cases(dataset, loaded.settings):
        session = _session(loaded, data, case)
        with window_progress(f"segmenting {case.name}") as on_window:
            prediction = session.predict(on_window)
        mask = challenge_mask(out, case, edition)
        write_label_map(prediction.label_map, mask)
        plain_console().print(
            f"{case.name}: {len(session.clicks)} clicks, {prediction.seconds:.1f} s -> {mask}"
        )


def _members(model: Path) -> list[Path]:
    """The model files that a folder stands for, however deep they were packed."""
    members = _models_below(model) if model.is_dir() else models_of(model)
    if not members:
        raise ModelFileError(f"{model}: expected a model.safetensors in this folder, found none")
    return members


def _models_below(folder: Path) -> list[Path]:
    """Of a run or its folds, what `segment` takes; else the files in a folder, or those below it.

    A run has more files than its model, and copies of it are no members of their own. Hidden files
    are passed over: archivers and editors leave ones that are no models.
    """
    run = RunFolder(folder)
    if run.folds or run.config.is_file():
        return models_of(folder)
    below = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in below if path.suffix == ".safetensors" and path.is_file()]
    return files or [file for path in below if path.is_dir() for file in _models_below(path)]


def _cases(dataset: Dataset, settings: ModelSettings) -> tuple[Case, ...]:
    """The cases with the model's channels."""
    if len(settings.channels) == 1 and settings.channels[0].upper() != CT:
        return select_channels(dataset, (PET,)).test  # whatever its training called it
    selected = with_channels_of(dataset, settings)
    refuse_other_names(dataset.root, "channels", selected.channels, settings.channels)
    return selected.test


def _session(model: Model, data: Path, case: Case) -> InteractiveSession:
    session = InteractiveSession(model, read_case_images(case))
    clicks = challenge_clicks(data, case)
    if clicks is None:
        plain_console().print(f"note: {case.name}: there are no clicks in {data}")
    else:
        session.add(read_clicks(clicks))
    return session
