"""The files that an evaluation leaves: `scores.csv` and `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from voxclick.evaluation.settings import EvaluationSettings
from voxclick.files import replace_when_written


@dataclass(frozen=True)
class StepScore:
    """One case after one step.

    Attributes:
        case: the case's name.
        step: 0 is the prediction without clicks.
        dice: mean over the foreground labels that the case has; over all of them when it has
            none.
        dice_per_label: by label name.
        empty_label: the case holds no foreground voxel at all.
        empty_per_label: by label name, whether the case holds none of it.
        clicks: how many were given so far.
        windows: how many ran through the network in this step.
        seconds: for the prediction of this step.
    """

    case: str
    step: int
    dice: float
    dice_per_label: dict[str, float]
    empty_label: bool
    empty_per_label: dict[str, bool]
    clicks: int
    windows: int
    seconds: float

    def row(self) -> dict[str, object]:
        """A flat row for the table, one column per label."""
        row = asdict(self)
        dice, empty = row.pop("dice_per_label"), row.pop("empty_per_label")
        return {
            **row,
            **{f"dice_{label}": value for label, value in dice.items()},
            **{f"empty_{label}": value for label, value in empty.items()},
        }


def scores_table(scores: Sequence[StepScore]) -> pd.DataFrame:
    """One row per case and step, in the order in which they were made."""
    return pd.DataFrame([score.row() for score in scores])


def summarise(table: pd.DataFrame, settings: EvaluationSettings) -> dict[str, object]:
    """The means per step; cases without any foreground apart from the others.

    Args:
        table: from `scores_table`.
        settings: of the evaluation, kept in the summary.

    Returns:
        ``dice`` is the mean at step 0, 1, …; ``dice_std`` its spread over cases;
        ``dice_per_label`` the mean over the cases that have the label; seconds and windows are
        means over the steps in which anything ran;
        ``consistent_improvement`` the share of consecutive steps in which Dice did not fall.
    """
    predicted = table.loc[table.windows > 0]
    with_lesions, lesion_free = table.loc[~table.empty_label], table.loc[table.empty_label]
    summary: dict[str, object] = {
        "protocol": settings.protocol.value,
        "cases": int(table.case.nunique()),
        "steps": settings.steps,
        "seed": settings.seed,
        **_means(with_lesions),
        "consistent_improvement": _consistent_improvement(with_lesions),
        "seconds_per_step": round(float(predicted.seconds.mean()), 4),
        "windows_per_step": round(float(predicted.windows.mean()), 2),
    }
    if len(lesion_free):
        summary["lesion_free"] = {
            "cases": int(lesion_free.case.nunique()),
            **_dice(lesion_free),
        }
    return summary


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV; an older one is replaced only when all is written."""
    _replace(path, table.to_csv(index=False, float_format="%.6f"))


def write_summary(summary: dict[str, object], path: Path) -> None:
    """Write the JSON; an older one is replaced only when all is written."""
    _replace(path, json.dumps(summary, indent=2) + "\n")


def _means(table: pd.DataFrame) -> dict[str, object]:
    labels = [c.removeprefix("dice_") for c in table.columns if c.startswith("dice_")]
    per_label: dict[str, list[float]] = {}
    for label in labels:
        present = table.loc[~table[f"empty_{label}"]]
        per_label[label] = _rounded(pd.Series(present.groupby("step")[f"dice_{label}"].mean()))
    return {**_dice(table), "dice_per_label": per_label}


def _dice(table: pd.DataFrame) -> dict[str, object]:
    by_step = table.groupby("step").dice
    return {"dice": _rounded(by_step.mean()), "dice_std": _rounded(by_step.std(ddof=0))}


def _consistent_improvement(table: pd.DataFrame) -> float | None:
    steps = table.sort_values(["case", "step"]).groupby("case").dice.diff().dropna()
    return None if steps.empty else round(float((steps >= 0).mean()), 4)


def _rounded(values: pd.Series) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _replace(path: Path, text: str) -> None:
    with replace_when_written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
