"""What `voxclick evaluate` has left in a folder, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voxclick.errors import UsageError
from voxclick.evaluation.scoring import METRICS

SCORES_FILE = "scores.csv"
BASELINES_FILE = "baselines.csv"
SUMMARY_FILE = "summary.json"
PICTURES_FOLDER = "pictures"

_PLACE = ("case", "repeat", "step")
_COST = ("clicks", "windows", "seconds")
_SUMMARY_KEYS = ("protocol", "cases", "failed", "steps", "repeats", "finished")


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A finished evaluation.

    Attributes:
        folder: where it lies.
        table: `scores.csv`: a row per case, repeat and step.
        baselines: `baselines.csv`: the same for every baseline; None where none was asked for.
        summary: `summary.json`.
    """

    folder: Path
    table: pd.DataFrame
    baselines: pd.DataFrame | None
    summary: dict[str, Any]

    @property
    def protocol(self) -> str:
        """Who clicked, and how."""
        return str(self.summary["protocol"])

    @property
    def steps(self) -> int:
        """Predictions after the first."""
        return int(self.summary["steps"])

    @property
    def failed(self) -> dict[str, str]:
        """Why a case has no scores, by the names of those that have none."""
        return self.summary["failed"]

    def picture(self, case: str) -> Path | None:
        """The picture of one case; None if there is none.

        It is looked up among the files that are there, so that no case's name leads elsewhere.
        """
        pictures = (self.folder / PICTURES_FOLDER).glob("*.png")
        return next((path for path in pictures if path.stem == case), None)


def read_run(folder: Path) -> EvaluatedRun:
    """Read an evaluation's folder.

    Raises:
        UsageError: it is no finished evaluation.
    """
    summary = _read_summary(folder)
    table = _read_table(folder, SCORES_FILE, (*_PLACE, *METRICS, "empty_label", *_COST))
    has_baselines = (folder / BASELINES_FILE).exists()
    columns = (*_PLACE, "baseline", *METRICS, "empty_label")
    baselines = _read_table(folder, BASELINES_FILE, columns) if has_baselines else None
    return EvaluatedRun(folder, table, baselines, summary)


def scores_by_case(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One score of every case at every step, repeats of a case taken together.

    Args:
        table: of an `EvaluatedRun`, or the rows of one baseline.
        metric: a column of it.

    Returns:
        A row per case, in the table's order, and a column per step, rising; means over the repeats
        in which the score is defined, NaN where it is in none.
    """
    means = table.pivot_table(metric, index="case", columns="step", aggfunc="mean", dropna=False)
    return means.loc[table.case.unique()]


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: is no finished evaluation, for it has no {SUMMARY_FILE}; expected a "
            "folder that `voxclick evaluate --out` has written to the end"
        ) from None
    except (ValueError, NotADirectoryError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); run `voxclick evaluate` with the same --out again"
        ) from error
    missing = [key for key in _SUMMARY_KEYS if not isinstance(summary, dict) or key not in summary]
    if missing:
        raise UsageError(
            f"{path}: says nothing of {', '.join(missing)}, so it is not by this version's "
            "`voxclick evaluate`; run that again"
        )
    return summary


def _read_table(folder: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    path = folder / name
    scores = [column for column in columns if column in (*METRICS, "seconds")]
    try:
        # a case may be called 007 or NA: names are text, and only an empty score is undefined
        table = pd.read_csv(
            path,
            dtype={"case": str, "baseline": str, **dict.fromkeys(scores, float)},
            keep_default_na=False,
            na_values={score: [""] for score in scores},
        )
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: is no finished evaluation, for it has no {name}: no case has scores; run "
            "`voxclick evaluate` with the same --out again"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{path}: cannot be read as a table ({error}); run `voxclick evaluate` with the same "
            "--out again"
        ) from error
    missing = [column for column in columns if column not in table]
    if missing or not len(table) or table.empty_label.dtype != bool:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "has no usable rows"
        raise UsageError(
            f"{path}: {lacks}, so it is not by this version's `voxclick evaluate`; run that again"
        )
    return table
