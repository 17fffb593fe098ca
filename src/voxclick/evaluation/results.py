"""The tables and the summary of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxclick.evaluation.case_records import CaseRecord, Row
from voxclick.evaluation.metrics import (
    Autopet4Summary,
    Autopet5Summary,
    Cvpr2025Summary,
    autopet4_summary,
    autopet5_summary,
    consistent_improvement,
    cvpr2025_summary,
    is_failure,
    mean_over_steps,
    number_of_clicks,
)
from voxclick.evaluation.scoring import METRICS
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.files import replace_when_written

QUALITIES = (0.80, 0.85, 0.90)
"""Dice and IoU that clicks are counted up to."""

CVPR2025_SECONDS_PER_CLASS = 90
"""What takes longer counts as nothing in that challenge; here without the loading of the model."""

BASELINE_METRICS = ("dice", "nsd", "fpv_ml", "fnv_ml")


def scores_table(records: Sequence[CaseRecord]) -> pd.DataFrame:
    """One row per case, repeat and step, in the order of the cases."""
    return _table([row for record in records for row in record.scores])


def baselines_table(records: Sequence[CaseRecord]) -> pd.DataFrame:
    """One row per case, repeat, step and baseline."""
    return _table([row for record in records for row in record.baselines])


def summarise(
    table: pd.DataFrame,
    baselines: pd.DataFrame,
    settings: EvaluationSettings,
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The means per step; cases without any foreground apart from the others.

    Args:
        table: from `scores_table`.
        baselines: from `baselines_table`; may be empty.
        settings: of the evaluation.
        failed: cases without scores, and why.

    Returns:
        What docs/how-to/evaluate.md says of `summary.json`.
    """
    failed = failed or {}
    summary: dict[str, Any] = {
        "protocol": settings.protocol.value,
        "cases": int(table.case.nunique()) if len(table) else 0,
        "failed": dict(failed),
        "steps": settings.steps,
        "seed": settings.seed,
        "repeats": settings.repeats,
    }
    if table.empty:
        return summary
    with_lesions, lesion_free = table.loc[~table.empty_label], table.loc[table.empty_label]
    predicted = table.loc[table.windows > 0]
    for metric in METRICS:
        summary[metric], summary[f"{metric}_std"] = _per_step(with_lesions, metric)
    summary |= {
        "dice_per_label": _per_label(with_lesions),
        "auc": {
            metric: rounded(_mean_of_curves(with_lesions, metric, mean_over_steps))
            for metric in ("dice", "nsd")
        },
        "number_of_clicks": _numbers_of_clicks(with_lesions, settings.steps),
        "consistent_improvement": rounded(
            _mean_of_curves(with_lesions, "dice", consistent_improvement)
        ),
        "seconds_per_step": round(float(predicted.seconds.mean()), 4),
        "windows_per_step": round(float(predicted.windows.mean()), 2),
    }
    if settings.repeats > 1:
        means = with_lesions.groupby(["step", "repeat"]).dice.mean().groupby("step")
        summary["dice_std_over_repeats"] = each_rounded(means.std(ddof=0))
    if len(lesion_free):
        dice, spread = _per_step(lesion_free, "dice")
        summary["lesion_free"] = {
            "cases": int(lesion_free.case.nunique()),
            "dice": dice,
            "dice_std": spread,
            "fpv_ml": _per_step(lesion_free, "fpv_ml")[0],
        }
    challenge = _challenge(table, settings, len(failed))
    if challenge is not None:
        summary["challenge"] = challenge
    if len(baselines):
        summary["baselines"] = {
            str(name): {metric: _per_step(rows, metric)[0] for metric in BASELINE_METRICS}
            for name, rows in baselines.loc[~baselines.empty_label].groupby("baseline", sort=False)
        }
    return summary


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV; an older one is replaced only when all is written."""
    with replace_when_written(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f")


def write_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Write the JSON; an older one is replaced only when all is written."""
    with replace_when_written(path) as temporary:
        text = json.dumps(summary, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows))
    for column in table.columns.intersection(METRICS):
        table[column] = table[column].astype(float)  # all None is an object otherwise
    return table


def _per_step(table: pd.DataFrame, metric: str) -> tuple[list[float | None], list[float | None]]:
    """Mean and spread over cases, at every step; a case with repeats counts once."""
    by_case = pd.Series(table.groupby(["case", "step"])[metric].mean())
    by_step = by_case.groupby("step")
    return each_rounded(pd.Series(by_step.mean())), each_rounded(pd.Series(by_step.std(ddof=0)))


def _per_label(table: pd.DataFrame) -> dict[str, list[float | None]]:
    """Mean Dice of each label over the cases that have it; nothing where there is but one."""
    return {
        label: _per_step(
            pd.DataFrame(table.loc[table[f"has_{label}"].astype(bool)]), f"dice_{label}"
        )[0]
        for label in _labels(table)
    }


def _labels(table: pd.DataFrame) -> list[str]:
    """Those with columns of their own; none where there is but one label."""
    return [c.removeprefix("has_") for c in table.columns if c.startswith("has_")]


def _curves(table: pd.DataFrame, metric: str) -> list[list[float]]:
    """The scores of every case and repeat, step by step."""
    ordered = table.sort_values("step", kind="stable")
    return [rows[metric].tolist() for _, rows in ordered.groupby(["case", "repeat"])]


def _mean_of_curves(
    table: pd.DataFrame, metric: str, of_curve: Callable[[Sequence[float]], float]
) -> float:
    values = [of_curve(curve) for curve in _curves(table, metric)]
    return float(np.mean(values)) if values else float("nan")


def _challenge(
    table: pd.DataFrame, settings: EvaluationSettings, failures: int
) -> dict[str, Any] | None:
    """The challenge's own figures: means over its cases; None in other protocols."""
    of_case = _CHALLENGES.get(settings.protocol)
    if of_case is None:
        return None
    if settings.protocol is Protocol.cvpr2025:
        table = table.loc[~table.empty_label]  # there the mean is over the classes of a case
    cases = [asdict(of_case(rows)) for _, rows in table.sort_values("step").groupby("case")]
    if not cases:
        return None
    if settings.protocol in _FAILURES_ARE_ZERO:
        cases += [dict.fromkeys(cases[0], 0.0)] * failures
    means = pd.DataFrame(cases).mean()  # NaN is left out, as the challenges do
    return {str(name): rounded(value) for name, value in means.items()}


def _cvpr2025(rows: pd.DataFrame) -> Cvpr2025Summary:
    classes = sum(rows[f"has_{label}"].iloc[0] for label in _labels(rows)) or 1
    is_late = rows.seconds.sum() > CVPR2025_SECONDS_PER_CLASS * classes
    on_time = 0.0 if is_late else 1.0
    return cvpr2025_summary((rows.dice * on_time).tolist(), (rows.nsd * on_time).tolist())


def _autopet4(rows: pd.DataFrame) -> Autopet4Summary:
    return autopet4_summary(
        rows.dice.tolist(),
        rows.fpv_ml.tolist(),
        rows.fnv_ml.tolist(),
        empty_label=bool(rows.empty_label.iloc[0]),
    )


def _autopet5(rows: pd.DataFrame) -> Autopet5Summary:
    return autopet5_summary(rows.dice.tolist(), rows.dmm.tolist())


_CHALLENGES: Mapping[
    Protocol, Callable[[pd.DataFrame], Cvpr2025Summary | Autopet4Summary | Autopet5Summary]
] = {
    Protocol.cvpr2025: _cvpr2025,
    Protocol.autopet4: _autopet4,
    Protocol.autopet5: _autopet5,
}
_FAILURES_ARE_ZERO = frozenset({Protocol.cvpr2025, Protocol.autopet5})


def _numbers_of_clicks(table: pd.DataFrame, steps: int) -> dict[str, Any]:
    """NoC and NoF, in steps; see `metrics.curves`."""
    if steps == 0:
        return {}
    with_iou = table.assign(iou=_iou(table))
    curves = {metric: _curves(with_iou, metric) for metric in ("dice", "iou")}
    return {
        metric: {f"{quality:.2f}": _number_of_clicks(of_metric, quality) for quality in QUALITIES}
        for metric, of_metric in curves.items()
    }


def _iou(table: pd.DataFrame) -> pd.Series:
    """Mean IoU over the labels that a case has: Dice / (2 - Dice) of each."""
    labels = _labels(table)
    if not labels:
        return table.dice / (2 - table.dice)
    of_labels = [
        (table[f"dice_{label}"] / (2 - table[f"dice_{label}"])).where(
            table[f"has_{label}"].astype(bool)
        )
        for label in labels
    ]
    return pd.Series(pd.concat(of_labels, axis=1).mean(axis=1))


def _number_of_clicks(curves: Sequence[Sequence[float]], quality: float) -> dict[str, float | None]:
    after_clicks = [curve[1:] for curve in curves]
    counts = [number_of_clicks(scores, quality, len(scores)) for scores in after_clicks]
    return {
        "noc": rounded(float(np.mean(counts))) if counts else None,
        "nof": sum(is_failure(scores, quality) for scores in after_clicks),
    }


def each_rounded(values: pd.Series) -> list[float | None]:
    """`rounded`, one by one."""
    return [rounded(value) for value in values.tolist()]


def rounded(value: float) -> float | None:
    """For a file; what is undefined there is null."""
    return None if np.isnan(value) else round(float(value), 4)
