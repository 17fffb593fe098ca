"""Phantoms as an nnU-Net-style folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voxclick.errors import UsageError
from voxclick.io import write_label_map, write_volume
from voxclick.phantoms import PhantomSettings, make_phantom


def write_phantom_dataset(
    folder: Path,
    *,
    cases: int,
    seed: int,
    settings: PhantomSettings | None = None,
    test_fraction: float = 0.2,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write phantoms as ``PHANTOM_000.nii.gz``, …, the last ones as test cases.

    Args:
        folder: new or empty.
        cases: how many; the same number of the same seed is the same phantom, however many.
        seed: of the data set.
        settings: of the phantoms.
        test_fraction: share of the cases, rounded, that goes to ``imagesTs`` and ``labelsTs``.
        on_case: told each case's name when it is written.

    Raises:
        UsageError: the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; phantoms need a new or an empty folder")
    training = cases - round(cases * test_fraction)
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        name = f"PHANTOM_{number:03d}"
        part = "Tr" if number < training else "Ts"
        phantom = make_phantom(_seed_of(seed, number), settings)
        write_volume(phantom.image, folder / f"images{part}" / f"{name}.nii.gz")
        write_label_map(phantom.label, folder / f"labels{part}" / f"{name}.nii.gz")
        if on_case is not None:
            on_case(name)
    description = {
        "name": "phantoms of whole-body FDG-PET in SUV",
        "channel_names": {"0": "PET"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def _seed_of(seed: int, number: int) -> int:
    # far apart for neighbouring data sets and cases alike
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
