"""Which cases of a data set a model is measured on, and whether they fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from voxclick.config import RunConfig, load_config
from voxclick.datasets import DEFAULT_LABELS, Case, Dataset, read_dataset, select_channels
from voxclick.errors import DatasetError, UsageError
from voxclick.model_files import ModelSettings
from voxclick.runs.data import split_of_run
from voxclick.training.run_folder import RunFolder


class Split(str, Enum):
    """Which cases of the data set."""

    test = "test"
    validation = "validation"
    train = "train"
    all = "all"


def load_run(models: Sequence[Path]) -> RunConfig:
    """The configuration of the run that has left a model.

    Raises:
        UsageError: several models, or one without its run's config.yaml.
    """
    config = folder_of_run(models).config
    if len(models) > 1 or not config.is_file():
        raise UsageError(
            "--split validation needs one --model, of folds one after the other, with the "
            "config.yaml of its run beside it, which says what was held back; got "
            f"{', '.join(map(str, models))}"
        )
    return load_config(config)


def folder_of_run(models: Sequence[Path]) -> RunFolder:
    """Where the run lies that has left the first model."""
    return RunFolder(models[0] if models[0].is_dir() else models[0].parent)


def refuse_another_split(data: Path, cases: Sequence[Case], folder: RunFolder) -> None:
    """A split is drawn from all cases: when some came or went, others that were learnt are in it.

    A run without its checkpoint cannot tell.

    Raises:
        DatasetError: these are not the cases that the run has validated on.
        TrainingError: its checkpoint is damaged.
    """
    progress = folder.progress()
    if progress is None or progress.cases is None:
        return
    moved = sorted({case.name for case in cases} ^ set(progress.cases.validation))
    if moved:
        raise DatasetError(
            f"{data}: expected the data set as it was when {folder.path} was trained, but cases "
            f"came or went since, and other ones would be validated on ({', '.join(moved[:5])}); "
            "name that data set, or list the cases to evaluate and take --split all"
        )


def choose_cases(
    data: Path,
    split: Split,
    settings: ModelSettings,
    held_out_by: RunConfig | None = None,
    labels: tuple[str, ...] | None = None,
) -> tuple[Case, ...]:
    """The labelled cases of one split.

    Args:
        data: the data set.
        split: which part of it.
        settings: of the model.
        held_out_by: for the validation cases, the run that was validated on them.
        labels: of the data set, by index, which are the model's; None takes what that run, or the
            data set, says.

    Raises:
        DatasetError: there are none, or the data set declares other labels or channels than the
            model's; labels in another order are other ones.
        UsageError: `labels` are not the model's.
    """
    if labels not in (None, settings.labels):
        raise UsageError(
            f"--labels {','.join(labels)}: the labels of --model are {','.join(settings.labels)}"
        )
    if labels is None and held_out_by is not None:
        labels = held_out_by.data.labels
    dataset = with_channels_of(read_dataset(data, labels), settings)
    remedy = f"if the same values mean the same, say --labels {','.join(settings.labels)}"
    refuse_other_names(data, "labels", dataset.labels, settings.labels, remedy)
    refuse_other_names(data, "channels", dataset.channels, settings.channels)
    cases = {
        Split.test: dataset.test,
        Split.train: dataset.train,
        Split.all: (*dataset.train, *dataset.test),
        Split.validation: () if held_out_by is None else split_of_run(dataset, held_out_by)[1],
    }[split]
    labelled = tuple(case for case in cases if case.label is not None)
    if not labelled:
        raise DatasetError(
            f"{data}: the split {split.value!r} holds no labelled case ({len(cases)} cases in "
            "all); --split validation takes what the training held out, --split all every "
            "labelled case"
        )
    return labelled


def with_channels_of(dataset: Dataset, settings: ModelSettings) -> Dataset:
    """The model's channels in its order, where the data set names them or has more.

    Raises:
        DatasetError: the data set has more channels and does not name all of the model's.
    """
    if dataset.channels == settings.channels:
        return dataset
    has_more = len(dataset.channels) > len(settings.channels)
    names, expected = ({c.lower() for c in s.channels} for s in (dataset, settings))
    return select_channels(dataset, settings.channels) if has_more or names == expected else dataset


def refuse_other_names(
    data: Path,
    kind: str,
    declared: tuple[str, ...],
    expected: tuple[str, ...],
    remedy: str = "correct what the data set says of itself",
) -> None:
    """Refuse a data set that declares other labels, or other channels, than the model's.

    A model that was trained on one channel without a name takes any.

    Raises:
        DatasetError: with both; here names in another order are other ones.
    """
    takes_any = len(expected) == len(declared) == 1 and not _is_declared(expected)
    if declared != expected and _is_declared(declared) and not takes_any:
        raise DatasetError(
            f"{data}: its {kind} are {', '.join(declared)}, but the model expects "
            f"{', '.join(expected)}, in this order; {remedy}, or take another model"
        )


def _is_declared(names: tuple[str, ...]) -> bool:
    """Whether a data set says so itself: what it does not say has names of ours."""
    numbered = tuple(f"channel {index}" for index in range(len(names)))
    return names not in (DEFAULT_LABELS, numbered, ("image",))
