"""Folders as `voxclick evaluate` leaves them, with scores that are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import image

from voxclick.evaluation.results import summarise, write_summary, write_table
from voxclick.evaluation.settings import EvaluationSettings

CIRCUMSTANCES = {
    "model": "runs/tiny/model.safetensors",
    "model_fingerprint": "0f3c",
    "data": "data/phantoms",
    "backend": "torch",
    "inference": {"kind": "sliding-windows", "window": [16, 16, 16], "overlap": 0.25},
    "hardware": {"device": "AMD EPYC", "threads": 2},
    "versions": {"voxclick": "0.1.0", "torch": "2.13.0"},
    "started": "2026-11-24T08:00:00+00:00",
    "finished": "2026-11-24T08:10:00+00:00",
    "seconds_total": 600.0,
}

Curves = Mapping[str, Sequence[float] | Sequence[Sequence[float]]]
"""Dice per step by case, or one such list for each repeat."""


def scores(dice: float, *, empty: bool = False) -> dict[str, Any]:
    """A row's scores, all functions of Dice; undefined where they are so by definition."""
    return {
        "dice": dice,
        "nsd": dice if empty else min(1.0, dice + 0.05),
        "fpv_ml": 10 * (1 - dice),
        "fnv_ml": 0.0 if empty else 20 * (1 - dice),
        "lesion_recall": None if empty else dice,
        "lesion_precision": None if dice == 0 or empty else dice,
        "dmm": None if empty else dice,
        "empty_label": empty,
    }


def write_run(
    folder: Path,
    dice: Curves,
    *,
    lesion_free: Curves | None = None,
    baselines: Mapping[str, float] | None = None,
    failed: Mapping[str, str] | None = None,
    pictures: Sequence[str] = (),
    circumstances: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a run folder.

    Args:
        folder: made if it is not there.
        dice: of the cases with lesions.
        lesion_free: of the others.
        baselines: by name, how much their Dice lies below the model's.
        failed: cases without scores.
        pictures: cases with a picture.
        circumstances: other than `CIRCUMSTANCES`.
        settings: of `EvaluationSettings`.
    """
    rows, of_baselines = [], []
    for cases, empty in ((dice, False), (lesion_free or {}, True)):
        for case, curves in cases.items():
            repeats = curves if isinstance(curves[0], Sequence) else [curves]
            for repeat, curve in enumerate(repeats):
                for step, value in enumerate(curve):
                    place = {"case": case, "repeat": repeat, "step": step}
                    cost = {"clicks": step, "windows": 8, "seconds": 0.25}
                    rows.append({**place, **scores(value, empty=empty), **cost})
                    for name, below in (baselines or {}).items():
                        worse = scores(max(0.0, value - below), empty=empty)
                        of_baselines.append({**place, "baseline": name, **worse})
    table, beside = pd.DataFrame(rows), pd.DataFrame(of_baselines)
    settings.setdefault("steps", int(table.step.max()))
    settings.setdefault("repeats", int(table.repeat.max()) + 1)
    summary = summarise(table, beside, EvaluationSettings(**settings), failed)
    folder.mkdir(parents=True, exist_ok=True)
    write_summary({**summary, **CIRCUMSTANCES, **(circumstances or {})}, folder / "summary.json")
    write_table(table, folder / "scores.csv")
    if of_baselines:
        write_table(beside, folder / "baselines.csv")
    for case in pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        image.imsave(folder / "pictures" / f"{case}.png", np.eye(30))
    return folder


def change_summary(folder: Path, **changes: Any) -> None:
    """Write other things into a run's summary; None takes a key out."""
    path = folder / "summary.json"
    summary = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in summary.items() if value is not None}))
