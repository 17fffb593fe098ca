"""What the names of autoPET's files say: patient, study and channel.

The FDG and PSMA data of autoPET III to V come as an nnU-Net folder whose cases are called
``fdg_<hash>_<study>`` and ``psma_<hash>_<date>``, with the CT, resampled to the PET, as ``_0000``
and the PET in SUV as ``_0001`` (https://doi.org/10.57754/FDAT.6gjsg-zcg93). nnU-Net's own
conversion of FDG-PET-CT-Lesions (``Dataset221_AutoPETII_2023.py``) calls them
``PETCT_<hash>_<study>``, https://github.com/alexanderjaus/AtlasDataset ``AutoPET_<hash>_<number>``.
The hash stands for the patient. Both of the former declare the channels as CT and CT, for nnU-Net
reads the name of a channel as the way to normalise it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

CT, PET = "CT", "PET"
"""Names of the channels where a layout fixes what they show."""

_CASE = re.compile(r"(?P<patient>(?:fdg|psma|PETCT|AutoPET)_[0-9a-f]{10}(?:[0-9a-f]{6})?)_.+")
_PET_FILE = re.compile(rf"(?P<case>{_CASE.pattern})_0001\.[^.]+(?:\.gz)?")


def autopet_patient(case: str) -> str | None:
    """The patient of a case by its name, ``fdg_0011f3deaf``; None if it is not called so."""
    match = _CASE.fullmatch(case)
    return None if match is None else match["patient"]


def pet_alone(files: Collection[Path]) -> dict[str, tuple[Path, ...]]:
    """The PETs by case, if these images are nothing but that (``<case>_0001``); else empty."""
    matches = [(path, _PET_FILE.fullmatch(path.name)) for path in files]
    if not all(match for _, match in matches):
        return {}
    return {match["case"]: (path,) for path, match in matches if match is not None}


def autopet_channels(
    cases: Collection[tuple[Path, ...]], declared: tuple[str, ...]
) -> tuple[str, ...]:
    """The channels of a folder whose cases are all called as autoPET's.

    Args:
        cases: the images of each.
        declared: by the folder's ``dataset.json``; empty if it has none.
    """
    if {len(images) for images in cases} == {2} and declared in ((), (CT, CT)):
        return (CT, PET)
    if pet_alone([path for images in cases for path in images]):
        return (PET,)
    return declared
