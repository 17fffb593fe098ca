"""A case, and a data set of cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from voxclick.errors import DatasetError

DEFAULT_LABELS = ("background", "tumor")
"""The labels of a data set that declares none."""


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        name: unique in its data set.
        images: one file per channel, in the order of the data set's channels.
        label: file of label indices; None where the case is not annotated.
        group: cases of one group (a patient) never come into different parts of a split; None for
            a group of its own.
        grid: the image file onto whose grid the other images and the label are resampled when
            they are read, and which masks lie on; None where all files share one grid.

    Raises:
        DatasetError: no file can have that name.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None = None
    grid: Path | None = None

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise DatasetError(
                f"{self.images[0]}: its case is called {self.name!r}, but files of masks and "
                "scores are called so, too; expected one without / and \\"
            )


@dataclass(frozen=True)
class Dataset:
    """Attributes:
    root: the folder, or the file that lists the cases.
    train: cases to train on, sorted by name.
    test: cases to evaluate on, sorted by name.
    labels: names by index, background first.
    channels: names of the image channels.
    """

    root: Path
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    labels: tuple[str, ...]
    channels: tuple[str, ...]


def refuse_problems(where: Path, problems: Sequence[str]) -> None:
    """Say all that is wrong with a data set at once.

    Raises:
        DatasetError: there is something.
    """
    if problems:
        raise DatasetError(f"{where}: {len(problems)} problem(s): " + "; ".join(problems))


def with_unique_names(cases: Sequence[Case]) -> list[Case]:
    """Cases that share a name get their folder's in front: ``p0/SUV.nii`` becomes ``p0_SUV``."""
    count = Counter(case.name for case in cases)
    return [
        case
        if count[case.name] == 1
        else replace(case, name=f"{case.images[0].parent.name}_{case.name}")
        for case in cases
    ]
