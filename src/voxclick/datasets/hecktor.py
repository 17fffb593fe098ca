"""HECKTOR 2022 (https://hecktor.grand-challenge.org/Data/): head and neck tumours in PET and CT.

CT, PET and label of a patient lie on different grids. Labels were drawn on the CT, and masks are
to be handed in on its grid (https://hecktor.grand-challenge.org/Submit/), so that is where a case
is read. Not even labels all have exactly the CT's grid: some, like CHUP-008's, have a row more.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from voxclick.datasets.autopet import CT, PET
from voxclick.datasets.case import Case, Dataset, refuse_problems
from voxclick.datasets.nnunet import files_by_name, image_files, note_file, stem

HECKTOR_LABELS = ("background", "GTVp", "GTVn")
"""GTVp is the gross tumour volume of the primary tumour, GTVn that of lymph nodes."""

_IMAGE = re.compile(r"(?P<patient>.+)__(?P<modality>CT|PT)")
_MODALITIES = ("CT", "PT")
"""As the files call them, in the order of the channels CT and PET."""

_TRAINING, _TESTING, _INNER = "hecktor2022_training", "hecktor2022_testing", "hecktor2022"


def is_hecktor(root: Path) -> bool:
    """Whether a folder holds images called ``<patient>__CT`` or ``<patient>__PT``."""
    return any(
        _IMAGE.fullmatch(stem(path))
        for part in ("imagesTr", "imagesTs")
        for path in image_files(_holder(root, part) / part)
    )


def read_hecktor(
    root: Path, labels: Sequence[str] | None = None, *, labels_required: bool = True
) -> Dataset:
    """Read ``imagesTr/CHUM-001__CT.nii.gz``, ``…__PT.nii.gz`` and ``labelsTr/CHUM-001.nii.gz``.

    Test cases are in ``imagesTs``. Other files there (planning CTs, doses) are no channels. A
    patient is a group.

    Args:
        root: the folder with these folders, or one that holds ``hecktor2022_training`` and
            ``hecktor2022_testing`` as they are unpacked.
        labels: names by index; None takes `HECKTOR_LABELS`.
        labels_required: refuse training images without label.

    Raises:
        DatasetError: patients that lack the CT, the PET or the label, or have one of them twice,
            labels without images; all of them are named.
    """
    problems: list[str] = []
    training, testing = _holder(root, "imagesTr"), _holder(root, "imagesTs")
    train = _read_part(training, "Tr", problems, labels_required=labels_required)
    test = _read_part(testing, "Ts", problems, labels_required=False)
    refuse_problems(root, problems)
    return Dataset(root, train, test, tuple(labels or HECKTOR_LABELS), (CT, PET))


def _holder(root: Path, part: str) -> Path:
    """The folder that holds a part: the root, or what the published archives unpack there."""
    archive = _TRAINING if part.endswith("Tr") else _TESTING
    inner = (root / _INNER, root / archive, root / archive / _INNER)
    return next((folder for folder in (root, *inner) if (folder / part).is_dir()), root)


def _read_part(
    root: Path, part: str, problems: list[str], *, labels_required: bool
) -> tuple[Case, ...]:
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in image_files(root / f"images{part}"):
        match = _IMAGE.fullmatch(stem(path))
        if match is not None:
            note_file(path, match["modality"], images[match["patient"]], problems)
    labels = files_by_name(image_files(root / f"labels{part}"), problems)
    cases: list[Case] = []
    for patient, files in sorted(images.items()):
        missing = [modality for modality in _MODALITIES if modality not in files]
        label = labels.pop(patient, None)
        problems += [f"images{part}/{patient} lacks its {modality}" for modality in missing]
        if label is None and labels_required:
            problems.append(f"images{part}/{patient} has no label in labels{part}")
        if not missing:
            channels = tuple(files[modality] for modality in _MODALITIES)
            cases.append(Case(patient, channels, label, patient, grid=files["CT"]))
    problems += [
        f"labels{part}/{path.name} has no image in images{part}" for path in labels.values()
    ]
    return tuple(cases)
