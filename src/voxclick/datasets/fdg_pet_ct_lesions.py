"""FDG-PET-CT-Lesions of The Cancer Imaging Archive (https://doi.org/10.7937/gkr0-xv29).

Its own script (``tcia_dicom_to_nifti.py`` of https://github.com/lab-midas/TCIA_processing) makes a
folder a study, which lies in its patient's: ``PETCT_<hash>/<date and description>/``, with
``SUV``, the PET in SUV; ``CTres``, the CT resampled to it; ``SEG``, the lesions; and ``CT`` and
``PET``, from which the former were made. Files are ``.nii.gz``, after ``tcia_nifti_to_mha.py``
``.mha``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from voxclick.datasets.autopet import CT, PET
from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset, refuse_problems
from voxclick.datasets.nnunet import image_files, stem

_PATIENTS = "PETCT_*"
_SUV, _CT, _LABEL = "SUV", "CTres", "SEG"


def is_fdg_pet_ct_lesions(root: Path) -> bool:
    """Whether a folder holds patients' folders with a study that has a PET in SUV."""
    return any(_SUV in _files(study) for study in _studies(root))


def read_fdg_pet_ct_lesions(root: Path, labels: Sequence[str] | None = None) -> Dataset:
    """Read the folder of the patients.

    Cases are called ``PETCT_<hash>_<study>``, as nnU-Net's conversion calls them; a patient is a
    group. Channels are CT and PET, or PET alone where no study has a ``CTres``. Studies without
    ``SEG`` are test cases; those without lesions have one that is empty.

    Args:
        root: the folder.
        labels: names by index; None takes background and tumor.

    Raises:
        DatasetError: studies that lack the PET, or the CT that others have; all of them are named.
    """
    studies = {study: _files(study) for study in _studies(root)}
    has_ct = any(_CT in files for files in studies.values())
    channels = {CT: _CT, PET: _SUV} if has_ct else {PET: _SUV}
    problems = [
        f"{study.relative_to(root)} lacks {name}"
        for study, files in studies.items()
        for name in channels.values()
        if name not in files
    ]
    refuse_problems(root, problems)
    cases = [
        Case(
            f"{study.parent.name}_{study.name}",
            tuple(files[name] for name in channels.values()),
            files.get(_LABEL),
            group=study.parent.name,
        )
        for study, files in studies.items()
    ]
    return Dataset(
        root,
        tuple(case for case in cases if case.label is not None),
        tuple(case for case in cases if case.label is None),
        tuple(labels or DEFAULT_LABELS),
        tuple(channels),
    )


def _studies(root: Path) -> Iterator[Path]:
    for patient in sorted(root.glob(_PATIENTS)):
        if patient.is_dir():
            visible = (study for study in patient.iterdir() if not study.name.startswith("."))
            yield from sorted(study for study in visible if study.is_dir())


def _files(study: Path) -> dict[str, Path]:
    """The images of a study by their names without suffix; a .nii.gz rather than its .mha."""
    return {stem(path): path for path in sorted(image_files(study), key=_is_nifti)}


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii.gz", ".nii"))
