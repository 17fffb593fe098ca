"""A case, and a data set of cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None = None


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
