"""Which layout a path holds."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from voxclick.datasets.autopet_challenge import is_autopet_challenge, read_autopet_challenge
from voxclick.datasets.case import Dataset
from voxclick.datasets.dataset_json import read_json
from voxclick.datasets.fdg_pet_ct_lesions import is_fdg_pet_ct_lesions, read_fdg_pet_ct_lesions
from voxclick.datasets.hecktor import is_hecktor, read_hecktor
from voxclick.datasets.list_file import LIST_SUFFIXES, read_list_file
from voxclick.datasets.msd import read_msd
from voxclick.datasets.nnunet import read_nnunet, stem
from voxclick.errors import DatasetError


def read_dataset(
    path: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read the cases of a data set, whatever its layout.

    Args:
        path: an nnU-Net-style folder (`read_nnunet`), a MONAI/MSD ``dataset.json`` or the folder
            that holds it (`read_msd`), a list file (`read_list_file`), or the folder of HECKTOR
            2022 (`read_hecktor`), of FDG-PET-CT-Lesions (`read_fdg_pet_ct_lesions`) or of an
            autoPET challenge's input (`read_autopet_challenge`).
        labels: names by index, background first, for data sets that do not declare theirs, or
            instead of what they declare.
        labels_required: refuse training cases without label.

    Raises:
        DatasetError: none of these layouts, or files that are missing; all of them are named.
    """
    path = Path(path)
    if is_hecktor(path):
        return read_hecktor(path, labels, labels_required=labels_required)
    if _is_nnunet_folder(path) and not _lists_its_cases(path):
        return read_nnunet(path, labels, labels_required=labels_required)
    if path.is_dir() and (path / "dataset.json").is_file():
        return read_msd(path / "dataset.json", labels, labels_required=labels_required)
    if path.suffix.lower() == ".json" and path.is_file():
        return read_msd(path, labels, labels_required=labels_required)
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        return read_list_file(path, labels, labels_required=labels_required)
    if is_fdg_pet_ct_lesions(path):
        return read_fdg_pet_ct_lesions(path, labels)
    if is_autopet_challenge(path):
        return read_autopet_challenge(path, labels)
    if not path.exists():
        raise DatasetError(f"{path}: there is no such data set")
    raise DatasetError(
        f"{path}: not a data set; expected a folder with imagesTr/ and labelsTr/, a dataset.json, "
        f"a list file ({', '.join(LIST_SUFFIXES)}), a folder with PETCT_*/*/SUV.nii.gz, or one "
        "with images/pet/"
    )


def is_dataset(path: Path) -> bool:
    """Whether `read_dataset` would take a path for one of its layouts."""
    if path.is_dir():
        return (
            is_hecktor(path)
            or _is_nnunet_folder(path)
            or (path / "dataset.json").is_file()
            or is_fdg_pet_ct_lesions(path)
            or is_autopet_challenge(path)
        )
    return path.is_file() and path.suffix.lower() in (".json", *LIST_SUFFIXES)


def _is_nnunet_folder(path: Path) -> bool:
    return path.is_dir() and any((path / part).is_dir() for part in ("imagesTr", "imagesTs"))


def _lists_its_cases(folder: Path) -> bool:
    """Whether the ``dataset.json`` names files, as the Medical Segmentation Decathlon's does.

    nnU-Net's counts its cases. That of nnU-Net's first version lists them, but by names that no
    file has: ``a.nii.gz`` stands for ``a_0000.nii.gz``, ``a_0001.nii.gz``, …
    """
    path = folder / "dataset.json"
    listed = read_json(path).get("training") if path.is_file() else None
    if not isinstance(listed, list):
        return False
    first = listed[0].get("image") if listed and isinstance(listed[0], dict) else None
    if not isinstance(first, str) or (folder / first).exists():
        return True
    image = folder / first
    return not any(image.parent.glob(f"{glob.escape(stem(image))}_0000.*"))
