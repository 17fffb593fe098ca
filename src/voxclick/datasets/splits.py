"""Splits of cases: seeded, by group, whatever order the cases come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from voxclick.datasets.case import Case
from voxclick.errors import DatasetError, UsageError

Split = tuple[tuple[Case, ...], tuple[Case, ...]]
"""Training cases and validation cases."""


def train_validation_split(cases: Sequence[Case], validation_fraction: float, seed: int) -> Split:
    """Hold a share of the groups back.

    Args:
        cases: to be split.
        validation_fraction: share of the groups, rounded, that is validated on; 0 for none.
        seed: the same seed gives the same split.

    Raises:
        UsageError: nothing would be left to train on.
    """
    groups = _shuffled_groups(cases, seed)
    count = round(len(groups) * validation_fraction)
    if cases and count >= len(groups):
        raise UsageError(
            f"a validation fraction of {validation_fraction} leaves none of {len(groups)} patients "
            "to train on"
        )
    return _split(cases, set(groups[:count]))


def k_folds(cases: Sequence[Case], folds: int, seed: int) -> list[Split]:
    """Cross-validation: every case is validated on in exactly one fold.

    Raises:
        UsageError: fewer groups than folds.
    """
    groups = _shuffled_groups(cases, seed)
    if not 2 <= folds <= len(groups):
        raise UsageError(f"{folds} folds need as many patients, got {len(groups)}")
    return [_split(cases, set(groups[fold::folds])) for fold in range(folds)]


class _Fold(BaseModel):
    train: frozenset[str]
    val: frozenset[str]


def read_splits_final(path: Path, cases: Sequence[Case]) -> list[Split]:
    """The folds of nnU-Net's ``splits_final.json``, as they are published with a data set.

    The file holds ``[{"train": [NAME, …], "val": [NAME, …]}, …]``, one entry a fold. Names that no
    case here has are passed over, so that a part of a data set has the folds of the whole.

    Args:
        path: the JSON file.
        cases: to be split; groups are kept together as far as the file does.

    Raises:
        DatasetError: not of this form; a case that a fold has in neither part or in both; or a
            fold with nothing to train on.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file of folds")
    try:
        folds = TypeAdapter(list[_Fold]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise DatasetError(
            f'{path}: expected [{{"train": [NAME, …], "val": [NAME, …]}}, …] '
            f"({error.errors()[0]['msg']})"
        ) from error
    for number, fold in enumerate(folds):
        lost = sorted(c.name for c in cases if (c.name in fold.train) == (c.name in fold.val))
        if lost:
            raise DatasetError(
                f"{path}: expected every case in one part of fold {number}, but {len(lost)} are "
                f"in neither or in both: {', '.join(lost[:5])}"
            )
        if not any(case.name in fold.train for case in cases):
            raise DatasetError(f"{path}: fold {number} has none of these cases to train on")
    by_name = sorted(cases, key=lambda case: case.name)
    return [
        (
            tuple(case for case in by_name if case.name in fold.train),
            tuple(case for case in by_name if case.name in fold.val),
        )
        for fold in folds
    ]


def first_by_name(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """The first cases by name."""
    return tuple(sorted(cases, key=lambda case: case.name)[:count])


def _group(case: Case) -> str:
    return case.name if case.group is None else case.group


def _shuffled_groups(cases: Sequence[Case], seed: int) -> list[str]:
    groups = sorted({_group(case) for case in cases})
    order = np.random.default_rng(seed).permutation(len(groups))
    return [groups[place] for place in order]


def _split(cases: Sequence[Case], held_back: set[str]) -> Split:
    by_name = sorted(cases, key=lambda case: case.name)
    training = tuple(case for case in by_name if _group(case) not in held_back)
    validation = tuple(case for case in by_name if _group(case) in held_back)
    return training, validation
