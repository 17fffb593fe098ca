"""Masks that were made elsewhere, by another tool or a person, scored against labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxclick.datasets.nnunet import FIRST_CHANNEL, image_files, stem
from voxclick.errors import GeometryError, UnsupportedImageError, UsageError
from voxclick.evaluation.results import rounded
from voxclick.evaluation.scoring import METRICS, OF_LESION_FREE, CaseScorer, CaseScores
from voxclick.io import ANY_LABELS, IMAGE_SUFFIXES, read_geometry, read_label_map
from voxclick.volume import LabelMap


@dataclass(frozen=True)
class MaskPair:
    """A mask and the label that it is scored against.

    Attributes:
        name: of the mask; the case's, or that of one of its annotations.
        label: the file of the label.
        prediction: the file of the mask.
    """

    name: str
    label: Path
    prediction: Path


@dataclass(frozen=True)
class Mismatch:
    """A file that could not be scored.

    Attributes:
        name: of the case, or of the annotation.
        problem: why, in a sentence.
    """

    name: str
    problem: str


@dataclass(frozen=True)
class ScoredMask:
    """Attributes:
    name: of the mask.
    scores: against its label.
    """

    name: str
    scores: CaseScores


def label_files(labels: Path) -> dict[str, Path]:
    """The labels of a folder, or one file, by their names without image suffix.

    Raises:
        UsageError: there is no such file or folder, or no image in it.
    """
    _check_images("LABELS", labels)
    return {stem(path): path for path in (image_files(labels) if labels.is_dir() else [labels])}


def match_masks(
    labels: Path, predictions: Path, annotations: Mapping[str, str] | None = None
) -> tuple[tuple[MaskPair, ...], tuple[Mismatch, ...]]:
    """Pair the masks of two folders by their names without image suffix.

    ``NAME_0000`` is NAME where the other folder has no ``NAME_0000``.

    Args:
        labels: a folder, or one file.
        predictions: a folder, or one file, which then belongs to that label whatever its name.
        annotations: which case a mask of another name belongs to, by that name.

    Returns:
        The pairs, in the order of the labels and of their masks' names, and what has no
        counterpart, or more than one.

    Raises:
        UsageError: one of the two is not there, has no image in it, or is a file where the other
            is a folder.
    """
    _check_images("LABELS", labels)
    _check_images("PREDICTIONS", predictions)
    if labels.is_dir() != predictions.is_dir():
        raise UsageError(
            f"LABELS {labels} and PREDICTIONS {predictions}: expected two folders or two files, "
            "got one of each"
        )
    if not labels.is_dir():
        return (MaskPair(stem(labels), labels, predictions),), ()
    mismatches: list[Mismatch] = []
    label_files = _by_name(labels, {stem(path) for path in image_files(predictions)}, mismatches)
    mask_files = _by_name(predictions, label_files.keys(), mismatches)
    case_of = {name: name for name in label_files}
    pairs = [
        MaskPair(name, label_files[case], mask_files.pop(name))
        for name, case in sorted({**(annotations or {}), **case_of}.items())
        if name in mask_files and case in label_files
    ]
    mismatches += [
        Mismatch(name, f"{path}: has no label of this name in {labels}")
        for name, path in mask_files.items()
    ]
    predicted = {pair.label for pair in pairs}
    mismatches += [
        Mismatch(name, f"{path}: has no mask of this name in {predictions}")
        for name, path in label_files.items()
        if path not in predicted
    ]
    return tuple(sorted(pairs, key=lambda pair: (pair.label, pair.name))), tuple(mismatches)


def score_masks(
    pairs: Sequence[MaskPair], labels: tuple[str, ...], on_mask: Callable[[], object]
) -> tuple[tuple[ScoredMask, ...], tuple[Mismatch, ...]]:
    """Score masks; those that cannot be scored do not stop the others.

    Args:
        pairs: from `match_masks`.
        labels: names by value, background first.
        on_mask: told that one mask more is done.

    Returns:
        The scores, and why the other masks have none: a file that is no label map, has values
        beyond the labels, or lies on another grid than its label.
    """
    scored: list[ScoredMask] = []
    mismatches: list[Mismatch] = []
    for label_file, of_label in groupby(pairs, key=lambda pair: pair.label):
        scorer: CaseScorer | None = None
        for pair in of_label:
            try:
                _refuse_another_grid(label_file, pair.prediction)
                mask = read_mask(pair.prediction, labels)
                scorer = scorer or CaseScorer(read_mask(label_file, labels))
                scored.append(ScoredMask(pair.name, scorer.score(mask)))
            except (UnsupportedImageError, GeometryError) as error:
                mismatches.append(Mismatch(pair.name, str(error)))
            on_mask()
    return tuple(scored), tuple(mismatches)


def read_mask(path: Path, labels: tuple[str, ...]) -> LabelMap:
    """Read a label map as `read_label_map` does.

    Raises:
        UnsupportedImageError: as there; for values beyond the labels, it says how to name them.
    """
    try:
        return read_label_map(path, labels)
    except UnsupportedImageError as error:
        try:
            values = np.unique(read_label_map(path, ANY_LABELS).voxels).tolist()
        except UnsupportedImageError:
            raise error from None  # more labels would not make a label map of it
    beyond = [value for value in values if value >= len(labels)]
    shown = ", ".join(map(str, beyond[:5])) + (", …" if len(beyond) > 5 else "")
    raise UnsupportedImageError(
        f"{path}: holds values without a label: {shown}; name the labels of all values from 0 on, "
        f"in their order, with --labels {','.join(labels)},NAME"
    )


def _refuse_another_grid(label: Path, prediction: Path) -> None:
    """Refuse a mask that does not lie on its label's grid.

    Raises:
        GeometryError: with both shapes, or with how far apart they are.
        UnsupportedImageError: one of the two cannot be read.
    """
    expected, got = read_geometry(label), read_geometry(prediction)
    if expected.matches(got):
        return
    if expected.shape != got.shape:
        differing = f"expected {expected.shape} voxels, got {got.shape}"
    else:
        apart_mm = float(np.abs(expected.corners_mm - got.corners_mm).max())
        differing = f"the shapes are the same, but corners lie up to {apart_mm:.4g} mm apart"
    raise GeometryError(
        f"{prediction}: lies on another grid than {label}: {differing}; resample it to the label's"
    )


def masks_table(scored: Sequence[ScoredMask]) -> pd.DataFrame:
    """One row per mask: ``case``, its name, and the columns of `CaseScores.row`."""
    return pd.DataFrame([{"case": mask.name, **mask.scores.row()} for mask in scored])


def summarise_masks(table: pd.DataFrame, mismatches: Sequence[Mismatch]) -> dict[str, Any]:
    """Mean, spread and median of every score; cases without any foreground apart.

    Args:
        table: from `masks_table`; may be empty.
        mismatches: masks without scores, and why.

    Returns:
        What docs/how-to/metrics.md says of `summary.json`.
    """
    summary: dict[str, Any] = {
        "masks": len(table),
        "mismatches": [asdict(mismatch) for mismatch in mismatches],
    }
    if table.empty:
        return summary
    with_lesions, lesion_free = table.loc[~table.empty_label], table.loc[table.empty_label]
    summary |= {metric: _spread(with_lesions[metric]) for metric in METRICS}
    labels = [column.removeprefix("has_") for column in table if column.startswith("has_")]
    if labels:
        summary["per_label"] = {
            label: _of_label(table.loc[table[f"has_{label}"]], label) for label in labels
        }
    if len(lesion_free):
        summary["lesion_free"] = {
            "masks": len(lesion_free),
            **{metric: _spread(lesion_free[metric]) for metric in OF_LESION_FREE},
        }
    return summary


def _check_images(what: str, path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{what} {path}: there is no such file or folder")
    if path.is_dir() and not image_files(path):
        raise UsageError(f"{what} {path}: holds no image ({', '.join(IMAGE_SUFFIXES)})")


def _by_name(folder: Path, others: Collection[str], mismatches: list[Mismatch]) -> dict[str, Path]:
    """The images of a folder by what the other folder calls them; of two of one name the first."""
    found: dict[str, Path] = {}
    for path in image_files(folder):
        name = stem(path)
        if name not in others:
            name = name.removesuffix(FIRST_CHANNEL)
        if name in found:
            problem = f"{path}: has the name of {found[name].name}, which was taken instead"
            mismatches.append(Mismatch(name, problem))
        found.setdefault(name, path)
    return found


def _of_label(rows: pd.DataFrame, label: str) -> dict[str, Any]:
    """Over the cases that have the label."""
    return {metric: _spread(rows[f"{metric}_{label}"]) for metric in METRICS}


def _spread(values: pd.Series) -> dict[str, float | None]:
    """NaN, which a score is where it is undefined, counts in none of them."""
    defined = values.dropna().to_numpy(dtype=np.float64)
    if len(defined) == 0:
        return {"mean": None, "std": None, "median": None}
    return {
        "mean": rounded(defined.mean()),
        "std": rounded(defined.std()),
        "median": rounded(float(np.median(defined))),
    }
