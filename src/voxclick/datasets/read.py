"""Which layout a path holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxclick.datasets.case import Dataset
from voxclick.datasets.dataset_json import read_json
from voxclick.datasets.list_file import LIST_SUFFIXES, read_list_file
from voxclick.datasets.msd import read_msd
from voxclick.datasets.nnunet import read_nnunet
from voxclick.errors import DatasetError


def read_dataset(
    path: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read the cases of a data set, whatever its layout.

    Args:
        path: an nnU-Net-style folder (`read_nnunet`), a MONAI/MSD ``dataset.json`` or the folder
            that holds it (`read_msd`), or a list file (`read_list_file`).
        labels: names by index, background first, for data sets that do not declare theirs, or
            instead of what they declare.
        labels_required: refuse training cases without label.

    Raises:
        DatasetError: none of these layouts, or files that are missing; all of them are named.
    """
    path = Path(path)
    if _is_nnunet_folder(path):
        listed = path / "dataset.json"
        # Medical Segmentation Decathlon folders list their cases, nnU-Net's count them
        if listed.is_file() and isinstance(_training_of(listed), list):
            return read_msd(listed, labels, labels_required=labels_required)
        return read_nnunet(path, labels, labels_required=labels_required)
    if path.is_dir() and (path / "dataset.json").is_file():
        return read_msd(path / "dataset.json", labels, labels_required=labels_required)
    if path.suffix == ".json" and path.is_file():
        return read_msd(path, labels, labels_required=labels_required)
    if path.suffix in LIST_SUFFIXES and path.is_file():
        return read_list_file(path, labels, labels_required=labels_required)
    if not path.exists():
        raise DatasetError(f"{path}: there is no such data set")
    raise DatasetError(
        f"{path}: not a data set; expected a folder with imagesTr/ and labelsTr/, a dataset.json, "
        f"or a list file ({', '.join(LIST_SUFFIXES)})"
    )


def is_dataset(path: Path) -> bool:
    """Whether `read_dataset` would take a path for one of its layouts."""
    if path.is_dir():
        return _is_nnunet_folder(path) or (path / "dataset.json").is_file()
    return path.is_file() and path.suffix in (".json", *LIST_SUFFIXES)


def _is_nnunet_folder(path: Path) -> bool:
    return path.is_dir() and any((path / part).is_dir() for part in ("imagesTr", "imagesTs"))


def _training_of(path: Path) -> object:
    return read_json(path).get("training")
