"""What a container of the autoPET challenges finds in ``/input``, and leaves in ``/output``.

All editions give one PET in SUV and one CT, which is resampled to the PET, as
``images/pet/<uuid>.mha`` and ``images/ct/<uuid>.mha``; the fourth and fifth also give clicks, as
``lesion-clicks.json``. The mask is called as the CT. Sources: the organisers' baselines
(``process.py`` in https://github.com/lab-midas/autoPET, which takes the CT for ``CTres.nii.gz``,
https://github.com/ClinicalDataScience/autoPETIII and https://github.com/lab-midas/autoPETCTIV).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from voxclick.datasets.autopet import CT, PET
from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset, refuse_problems
from voxclick.datasets.nnunet import files_by_name, image_files
from voxclick.errors import DatasetError

CLICKS = "lesion-clicks.json"


class ChallengeEdition(str, Enum):
    """An autoPET challenge."""

    autopet1 = "autopet1"
    autopet2 = "autopet2"
    autopet3 = "autopet3"
    autopet4 = "autopet4"
    autopet5 = "autopet5"


_MASKS = {
    ChallengeEdition.autopet1: "automated-petct-lesion-segmentation",
    ChallengeEdition.autopet2: "automated-petct-lesion-segmentation",
    ChallengeEdition.autopet3: "automated-petct-lesion-segmentation",
    ChallengeEdition.autopet4: "tumor-lesion-segmentation",
    ChallengeEdition.autopet5: "tumor-lesion-segmentation",
}
"""The folder of the masks, below ``images`` in the output."""


def is_autopet_challenge(root: Path) -> bool:
    """Whether a folder holds ``images/pet`` with an image in it."""
    return bool(image_files(root / "images" / "pet"))


def read_autopet_challenge(root: Path, labels: Sequence[str] | None = None) -> Dataset:
    """Read an input folder; all its cases are test cases.

    There is one case where there is one PET and one CT, whatever they are called, and one for
    each name where there are more. Channels are CT and PET, or PET where there is no CT at all.
    A label of the CT's name in ``labels``, as in the test data of autoPET IV's baseline, is the
    case's. All lie on the PET's grid, or are resampled onto it.

    Args:
        root: the folder.
        labels: names by index; None takes background and tumor.

    Raises:
        DatasetError: an image that is there twice, or of several cases, some that lack their CT or
            their PET; all are named.
    """
    problems: list[str] = []
    pets, cts, truths = (
        files_by_name(image_files(root / folder), problems)
        for folder in ("images/pet", "images/ct", "labels")
    )
    refuse_problems(root, problems)
    if not cts:
        images = {name: (pet,) for name, pet in pets.items()}
    elif len(pets) == len(cts) == 1:
        images = {name: (cts[name], *pets.values()) for name in cts}
    else:
        apart = sorted(pets.keys() ^ cts.keys())
        if apart:
            raise DatasetError(
                f"{root}: expected a CT for each PET, under the same name; without the other are "
                f"{', '.join(apart)}"
            )
        images = {name: (cts[name], pets[name]) for name in cts}
    return Dataset(
        root,
        (),
        tuple(
            Case(name, files, truths.get(name), grid=files[-1])
            for name, files in sorted(images.items())
        ),
        tuple(labels or DEFAULT_LABELS),
        (CT, PET) if cts else (PET,),
    )


def challenge_clicks(root: Path, case: Case) -> Path | None:
    """The clicks of a case in an input folder, for `voxclick.clicks.read_clicks`.

    Returns:
        ``<case>.json``, as early versions of autoPET IV had it; else ``lesion-clicks.json``; else
        None.
    """
    found = (root / name for name in (f"{case.name}.json", CLICKS))
    return next((path for path in found if path.is_file()), None)


def refuse_shared_clicks(dataset: Dataset) -> None:
    """Clicks that do not say whose they are belong to nobody where there are several cases.

    Raises:
        DatasetError: several cases, and ``lesion-clicks.json``.
    """
    if len(dataset.test) > 1 and (dataset.root / CLICKS).is_file():
        raise DatasetError(
            f"{dataset.root / CLICKS}: expected one case beside it, got {len(dataset.test)}; "
            "call the clicks of each CASE.json"
        )


def challenge_mask(output: Path, case: Case, edition: ChallengeEdition) -> Path:
    """Where a challenge looks for the mask of a case, below its output folder."""
    return output / "images" / _MASKS[edition] / f"{case.name}.mha"
