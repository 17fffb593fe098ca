"""The cases that a run learns from, and those that it is validated on."""

from __future__ import annotations

from pathlib import Path

from voxclick.config import RunConfig
from voxclick.datasets import (
    Case,
    Dataset,
    first_by_name,
    k_folds,
    read_dataset,
    read_splits_final,
    select_channels,
    train_validation_split,
)
from voxclick.errors import UsageError


def read_run_dataset(data: Path, run: RunConfig) -> Dataset:
    """The data set with the labels and the channels that the run says.

    Raises:
        DatasetError: not a data set, or without these channels.
    """
    dataset = read_dataset(data, run.data.labels)
    if run.data.channels is not None:
        dataset = select_channels(dataset, run.data.channels)
    return dataset


def split_of_run(dataset: Dataset, run: RunConfig) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Training and validation cases of a run.

    Raises:
        UsageError: a fold that is not there.
    """
    cases = tuple(case for case in dataset.train if case.label is not None)
    if run.data.limit is not None:
        cases = first_by_name(cases, run.data.limit)
    if run.data.splits is not None:
        splits = read_splits_final(run.data.splits, cases)
        if run.data.fold >= len(splits):
            raise UsageError(
                f"{run.data.splits}: holds {len(splits)} folds, but data.fold says {run.data.fold}"
            )
        return splits[run.data.fold]
    if run.data.folds is not None:
        return k_folds(cases, run.data.folds, run.seed)[run.data.fold]
    return train_validation_split(cases, run.data.validation_fraction, run.seed)
