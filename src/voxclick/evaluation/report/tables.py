"""The tables of an evaluation's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from voxclick.evaluation.report.figures import CURVE_METRICS, CurveRole
from voxclick.evaluation.report.page import (
    Cell,
    Column,
    Table,
    metric_cell,
    number,
    whole,
    words,
)
from voxclick.evaluation.report.run_folder import EvaluatedRun, scores_by_case
from voxclick.evaluation.report.words import METRIC_WORDS, counted, in_the_end
from voxclick.evaluation.scoring import METRICS


@dataclass(frozen=True, eq=False)
class Method:
    """The model, or a baseline beside it.

    Attributes:
        title: shown.
        role: which of the two.
        rows: its scores in the cases with lesions.
    """

    title: str
    role: CurveRole
    rows: pd.DataFrame


def steps_table(lesions: pd.DataFrame) -> Table:
    """Means at every step, and the middle half of what is plotted."""
    by_metric = {metric: scores_by_case(lesions, metric) for metric in METRICS}
    rows: list[tuple[Cell, ...]] = []
    for step in by_metric["dice"].columns:
        row = [whole(step)]
        for metric in METRICS:
            scores = by_metric[metric][step]
            row.append(metric_cell(metric, scores.mean()))
            if metric in CURVE_METRICS:
                quartiles = (metric_cell(metric, scores.quantile(q)).text for q in (0.25, 0.75))
                row.append(words(" to ".join(quartiles)))
        rows.append(tuple(row))
    columns = [Column("Step")]
    for metric in METRICS:
        columns.append(Column(METRIC_WORDS[metric].title))
        if metric in CURVE_METRICS:
            columns.append(Column("middle half"))
    cases = lesions.case.nunique()
    caption = f"Means over {counted(cases, 'case')} with lesions, and their middle half."
    return Table("steps", caption, tuple(columns), tuple(rows))


def methods_table(methods: Sequence[Method], run: EvaluatedRun) -> Table:
    """The model and the baselines at the last step."""
    rows = tuple(
        (
            words(method.title),
            *(
                metric_cell(metric, scores_by_case(method.rows, metric).iloc[:, -1].mean())
                for metric in METRICS
            ),
        )
        for method in methods
    )
    columns = (Column("Method", is_number=False), *_metric_columns(METRICS))
    caption = f"Means over the cases with lesions, {in_the_end(run.protocol, run.steps)}."
    return Table("methods", caption, columns, rows, is_sortable=True)


def labels_table(summary: Mapping[str, Any]) -> Table | None:
    """Dice of every label; None where there is but one."""
    per_label = summary.get("dice_per_label") or {}
    if len(per_label) < 2:
        return None
    rows = tuple(
        (words(label), number(dice[0]), number(dice[-1]))
        if dice
        else (words(label), number(None), number(None))
        for label, dice in per_label.items()
    )
    columns = (Column("Label", is_number=False), Column("Dice, first"), Column("Dice, last"))
    caption = "Mean Dice of each label over the cases that have it."
    return Table("labels", caption, columns, rows, is_sortable=True)


def clicks_table(summary: Mapping[str, Any]) -> Table | None:
    """NoC and NoF; None where nothing was corrected."""
    counts = summary.get("number_of_clicks") or {}
    if not counts:
        return None
    rows = tuple(
        (
            words(f"≥ {quality}"),
            *(
                cell
                for metric in counts
                for cell in (
                    number(counts[metric][quality]["noc"], 2),
                    whole(counts[metric][quality]["nof"]),
                )
            ),
        )
        for quality in next(iter(counts.values()))
    )
    titles = {"dice": "Dice", "iou": "IoU"}
    columns = [Column("Quality", is_number=False)]
    for metric in counts:
        title = titles.get(metric, metric)
        columns += [Column(f"NoC, {title}"), Column(f"NoF, {title}")]
    caption = (
        "NoC: the mean number of steps until a case reaches the quality, all steps where it never "
        "does. NoF: how many never do."
    )
    return Table("number-of-clicks", caption, tuple(columns), rows)


def challenge_table(summary: Mapping[str, Any]) -> Table | None:
    """A challenge's own figures; None in other protocols."""
    figures = summary.get("challenge") or {}
    if not figures:
        return None
    rows = tuple((words(name), number(value, 4)) for name, value in figures.items())
    columns = (Column("Figure", is_number=False), Column("Value"))
    caption = f"Means as {summary['protocol']} defines them; areas are not divided by the steps."
    return Table("challenge", caption, columns, rows)


def lesion_free_steps(lesion_free: pd.DataFrame) -> Table:
    """Means of the lesion-free cases at every step."""
    dice = scores_by_case(lesion_free, "dice").mean()
    excess = scores_by_case(lesion_free, "fpv_ml").mean()
    rows = tuple(
        (whole(step), number(share), metric_cell("fpv_ml", volume))
        for step, share, volume in zip(dice.index, dice, excess, strict=True)
    )
    columns = (Column("Step"), *_metric_columns(("dice", "fpv_ml")))
    caption = f"Means over {counted(lesion_free.case.nunique(), 'lesion-free case')}."
    return Table("lesion-free-steps", caption, columns, rows)


def lesion_free_cases(lesion_free: pd.DataFrame) -> Table:
    """Each lesion-free case at the last step."""
    return _table_of_cases(
        "lesion-free-cases", "Each of them, at the last step.", lesion_free, ("dice", "fpv_ml")
    )


def cases_table(lesions: pd.DataFrame, run: EvaluatedRun) -> Table:
    """Each case with lesions at the last step."""
    repeats = int(run.summary["repeats"])
    of_repeats = f", means over {repeats} repeats" if repeats > 1 else ""
    caption = (
        f"Cases with lesions, {in_the_end(run.protocol, run.steps)}{of_repeats}; headings sort."
    )
    shown = ("dice", "nsd", "fpv_ml", "fnv_ml", "lesion_recall")
    return _table_of_cases("cases", caption, lesions, shown)


def _table_of_cases(
    name: str, caption: str, table: pd.DataFrame, metrics: tuple[str, ...]
) -> Table:
    """First Dice, then the last of each score, clicks in all, and the seconds of all steps."""
    first = scores_by_case(table, "dice").iloc[:, 0]
    last = {metric: scores_by_case(table, metric).iloc[:, -1] for metric in metrics}
    clicks = scores_by_case(table, "clicks").iloc[:, -1]
    seconds = scores_by_case(table, "seconds").sum(axis="columns").to_dict()
    rows = tuple(
        (
            words(case),
            number(first[case]),
            *(metric_cell(metric, last[metric][case]) for metric in metrics),
            whole(clicks[case]),
            number(seconds[case], 2),
        )
        for case in first.index
    )
    columns = (
        Column("Case", is_number=False),
        Column("Dice, first"),
        *_metric_columns(metrics),
        Column("Clicks"),
        Column("Seconds, all steps"),
    )
    return Table(name, caption, columns, rows, is_sortable=True)


def _metric_columns(metrics: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(METRIC_WORDS[metric].title) for metric in metrics)
