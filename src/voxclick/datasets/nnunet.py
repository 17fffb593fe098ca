"""nnU-Net-style folders: ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from voxclick.datasets.autopet import autopet_channels, autopet_patient, pet_alone
from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset, refuse_problems
from voxclick.datasets.dataset_json import channel_names, labels_by_index, read_json
from voxclick.io import IMAGE_SUFFIXES

FIRST_CHANNEL = "_0000"
"""Ends the names of images, also of those of one channel; tools may call masks so, too."""

_CHANNEL = re.compile(r"^(?P<name>.+)_(?P<channel>\d{4})$")


def read_nnunet(
    root: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read an nnU-Net-style folder.

    Images are ``NAME_0000.nii.gz``, ``NAME_0001.nii.gz`` … for the channels, or ``NAME.nii.gz``
    for one channel; labels are ``NAME.nii.gz``; any suffix that `voxclick.io` reads will do.
    A ``dataset.json`` in nnU-Net's form may name labels (``labels``) and channels
    (``channel_names``, or ``modality`` in version 1).

    Where the cases are called as autoPET's (`voxclick.datasets.autopet`), their patients are the
    groups, and the channels are CT and PET, or PET where there are no other files than ``_0001``.

    Args:
        root: the folder.
        labels: names by index; None takes those of dataset.json, else background and tumor.
        labels_required: refuse training images without label.

    Raises:
        DatasetError: training images without label, labels without image, channels that are
            missing; all of them are named.
    """
    declared = read_json(root / "dataset.json") if (root / "dataset.json").is_file() else {}
    if labels is None:
        labels = DEFAULT_LABELS
        if "labels" in declared:
            labels = labels_by_index(root / "dataset.json", declared["labels"])
    problems: list[str] = []
    train = _read_part(
        root / "imagesTr", root / "labelsTr", problems, labels_required=labels_required
    )
    test = _read_part(root / "imagesTs", root / "labelsTs", problems, labels_required=False)
    refuse_problems(root, problems)
    cases = (*train, *test)
    channels = channel_names(root / "dataset.json", declared)
    if cases and all(case.group for case in cases):
        channels = autopet_channels([case.images for case in cases], channels)
    if not channels:
        count = max((len(case.images) for case in cases), default=1)
        channels = ("image",) if count == 1 else tuple(f"channel {i}" for i in range(count))
    return Dataset(root, train, test, tuple(labels), channels)


def _read_part(
    images: Path, labels: Path, problems: list[str], *, labels_required: bool
) -> tuple[Case, ...]:
    label_files = files_by_name(image_files(labels), problems)
    files = image_files(images)
    by_name = pet_alone(files) or channels_by_name(files, label_files.keys(), problems)
    cases: list[Case] = []
    for name, channels in sorted(by_name.items()):
        label = label_files.pop(name, None)
        if label is None and labels_required:
            problems.append(f"{images.name}/{name} has no label in {labels.name}")
        cases.append(Case(name, channels, label, autopet_patient(name)))
    problems += [
        f"{labels.name}/{path.name} has no image in {images.name}" for path in label_files.values()
    ]
    return tuple(cases)


def files_by_name(files: Collection[Path], problems: list[str]) -> dict[str, Path]:
    """Files by their names without suffix; `problems` is told of those that are there twice."""
    known: dict[str, Path] = {}
    for path in files:
        note_file(path, stem(path), known, problems)
    return known


def note_file(path: Path, name: str, known: dict[str, Path], problems: list[str]) -> None:
    """Put a file under its name; `problems` is told if there is another one already."""
    if name in known:
        problems.append(f"{path.parent.name}/{path.name} and {known[name].name} are the same image")
    known[name] = path


def channels_by_name(
    files: Collection[Path], labelled: Collection[str], problems: list[str]
) -> dict[str, tuple[Path, ...]]:
    """The channels of each case, by its name.

    Args:
        files: images of one folder, in any order.
        labelled: names of the cases that have a label.
        problems: is told of channels that are missing or there twice.
    """
    numbered: dict[str, dict[int, Path]] = defaultdict(dict)
    stems = {stem(path) for path in files}
    for path in files:
        name, channel = _name_and_channel(stem(path), stems, labelled)
        if channel in numbered[name]:
            problems.append(
                f"{path.parent.name}/{path.name} and {numbered[name][channel].name} are the same "
                "channel"
            )
        numbered[name][channel] = path
    for name, channels in numbered.items():
        missing = sorted(set(range(max(channels) + 1)) - set(channels))
        if missing:
            folder = next(iter(channels.values())).parent.name
            problems.append(f"{folder}/{name} lacks channel(s) {missing}")
    return {name: tuple(c[i] for i in sorted(c)) for name, c in numbered.items()}


def _name_and_channel(
    of_file: str, stems: Collection[str], labelled: Collection[str]
) -> tuple[str, int]:
    """Case and channel of an image file, by its stem.

    ``BRATS_0007`` is channel 7 of BRATS where there is a label BRATS or an image BRATS_0000;
    otherwise it is the one channel of a case whose name ends in a number.
    """
    match = _CHANNEL.match(of_file)
    if match is None or (of_file in labelled and match["name"] not in labelled):
        return of_file, 0
    if match["name"] in labelled or f"{match['name']}{FIRST_CHANNEL}" in stems:
        return match["name"], int(match["channel"])
    return of_file, 0


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, by name; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(tuple(IMAGE_SUFFIXES)) and not path.name.startswith(".")
    )


def stem(path: Path) -> str:
    """The file's name without its image suffix (``.nii.gz`` is one suffix)."""
    suffixes = [suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix)]
    return path.name[: len(path.name) - max(map(len, suffixes), default=0)]
