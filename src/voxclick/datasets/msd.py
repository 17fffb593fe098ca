"""``dataset.json`` of the Medical Segmentation Decathlon, as MONAI uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset, refuse_problems, with_unique_names
from voxclick.datasets.dataset_json import channel_names, labels_by_index, read_json
from voxclick.datasets.nnunet import FIRST_CHANNEL, stem
from voxclick.errors import DatasetError


def read_msd(
    path: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read a data set that lists its cases in JSON.

    ``training`` (and ``validation``, which is trained on or held out as our own split says) hold
    ``{"image": FILE or [FILE, …], "label": FILE}``, and if wanted ``name`` and ``group``
    (patient); ``test`` holds the same or bare image files.
    Paths are relative to the JSON file. ``labels`` and ``modality`` name labels and channels. An
    image with its channels in a fourth dimension is refused when it is read.

    Args:
        path: the JSON file.
        labels: names by index; None takes the file's own, else background and tumor.
        labels_required: refuse training cases without label.

    Raises:
        DatasetError: not of this form, or training cases without label; all of them are named.
    """
    content = read_json(path)
    if labels is None:
        labels = DEFAULT_LABELS
        if "labels" in content:
            labels = labels_by_index(path, content["labels"])
    problems: list[str] = []
    train = [
        _read_entry(path, entry, problems, label_required=labels_required)
        for entry in (*_entries(path, content, "training"), *_entries(path, content, "validation"))
    ]
    test = [
        _read_entry(path, entry, problems, label_required=False)
        for entry in _entries(path, content, "test")
    ]
    refuse_problems(path, problems)
    channels = channel_names(path, content)
    count = max((len(case.images) for case in (*train, *test)), default=1)
    if len(channels) != count:
        channels = ("image",) if count == 1 else tuple(f"channel {i}" for i in range(count))
    train, test = with_unique_names(train), with_unique_names(test)
    return Dataset(path, _sorted(train), _sorted(test), tuple(labels), channels)


def _entries(path: Path, content: dict[str, Any], part: str) -> list[Any]:
    entries = content.get(part, [])
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: expected a list of cases under {part!r}, got {entries!r}")
    return entries


def _read_entry(path: Path, entry: Any, problems: list[str], *, label_required: bool) -> Case:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or "image" not in entry:
        raise DatasetError(f"{path}: expected a case as {{'image': …, 'label': …}}, got {entry!r}")
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    names = [*images, *(entry.get(key) or "" for key in ("label", "name", "group"))]
    if not images or not all(images) or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f"{path}: expected the image as a file name or a list of them, and label, name and "
            f"group as text, got {entry!r}"
        )
    files = tuple(path.parent / image for image in images)
    label = path.parent / entry["label"] if entry.get("label") else None
    name = entry.get("name") or stem(files[0]).removesuffix(FIRST_CHANNEL)
    if label is None and label_required:
        problems.append(f"{name} has no label")
    try:
        return Case(name, files, label, group=entry.get("group") or None)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def _sorted(cases: list[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.name))
