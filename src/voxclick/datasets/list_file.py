"""List files: one case a line, in CSV or TSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset, refuse_problems, with_unique_names
from voxclick.datasets.nnunet import FIRST_CHANNEL, stem
from voxclick.errors import DatasetError

LIST_SUFFIXES = (".csv", ".tsv")
_IMAGE, _OTHERS = "image", ("label", "name", "split", "group")
_BEYOND = ""
"""The column of what stands beyond the header's; spreadsheets end lines with empty ones."""


def read_list_file(
    path: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read a table with a header line.

    Columns: ``image`` (or, for several channels, ``image_CT``, ``image_PET``, … in that order),
    ``label`` (may be empty), and if wanted ``name``, ``split`` (``train`` or ``test``; train when
    empty) and ``group`` (patient). Paths are relative to the list file.

    Args:
        path: a CSV (commas) or TSV (tabs).
        labels: names by index; None takes background and tumor.
        labels_required: refuse training cases without label.

    Raises:
        DatasetError: columns or entries that are missing or unknown; all lines are named.
    """
    columns, rows = _read_table(path)
    image_columns = [c for c in columns if c == _IMAGE or c.startswith(f"{_IMAGE}_")]
    unknown = [c for c in columns if c not in (*image_columns, *_OTHERS)]
    if not rows or not image_columns or unknown:
        raise DatasetError(
            f"{path}: expected the columns image (or image_NAME per channel), label and if wanted "
            f"name, split, group; got {', '.join(columns) if rows else 'no line below a header'}"
        )
    parts: dict[str, list[Case]] = {"train": [], "test": []}
    problems: list[str] = []
    for line, row in enumerate(rows, start=2):
        beyond = row.pop(_BEYOND, None) or ()
        if not any(row.values()) and not any(beyond):
            continue  # spreadsheets save lines that nothing stands in
        split = row.get("split") or "train"
        empty = [column for column in image_columns if not row[column]]
        if any(beyond):
            problems.append(f"line {line}: has more entries than the header has columns")
        elif split not in parts:
            problems.append(f"line {line}: split must be train or test, got {split!r}")
        elif empty:
            problems.append(f"line {line}: {', '.join(empty)} is empty")
        elif labels_required and split == "train" and not row.get("label"):
            problems.append(f"line {line}: a training case needs a label")
        else:
            try:
                parts[split].append(_case(path.parent, row, image_columns))
            except DatasetError as error:
                problems.append(f"line {line}: {error}")
    refuse_problems(path, problems)
    parts = {part: with_unique_names(cases) for part, cases in parts.items()}
    channels = tuple(c.removeprefix(f"{_IMAGE}_") for c in image_columns)
    return Dataset(
        path,
        tuple(sorted(parts["train"], key=lambda case: case.name)),
        tuple(sorted(parts["test"], key=lambda case: case.name)),
        tuple(labels or DEFAULT_LABELS),
        channels,
    )


def _read_table(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Columns and lines; a line may have a list of entries beyond the columns, in `_BEYOND`."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restkey=_BEYOND, delimiter=delimiter)
            columns = [column for column in table.fieldnames or () if column != _BEYOND]
            return columns, list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path}: is no table in UTF-8 ({error}); save it as CSV UTF-8 and try again"
        ) from error


def _case(folder: Path, row: dict[str, str], image_columns: Sequence[str]) -> Case:
    images = tuple(folder / row[column] for column in image_columns)
    label = folder / row["label"] if row.get("label") else None
    name = row.get("name") or stem(images[0]).removesuffix(FIRST_CHANNEL)
    return Case(name, images, label, row.get("group") or None)
