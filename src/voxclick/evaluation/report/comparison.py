"""Two evaluations against each other: what `voxclick compare` does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from voxclick.errors import UsageError
from voxclick.evaluation.report.comparison_page import write_comparison_page
from voxclick.evaluation.report.paired import Comparison, Moment, Row, paired_difference
from voxclick.evaluation.report.run_folder import EvaluatedRun, scores_by_case
from voxclick.evaluation.results import write_summary, write_table
from voxclick.evaluation.scoring import METRICS, OF_LESION_FREE


def compare_runs(
    a: EvaluatedRun, b: EvaluatedRun, names: tuple[str, str], *, seed: int = 0
) -> Comparison:
    """Compare two evaluations of the same cases, which are matched by their names.

    Repeats of a case are averaged before anything else, so that every case counts once.

    Args:
        a: the first.
        b: the second; differences are B - A.
        names: what the two are called.
        seed: of the bootstrap.

    Raises:
        UsageError: they differ in protocol, steps or labels, have no case in common, or a case has
            lesions in one alone.
    """
    _refuse_unlike(a, b, names)
    cases, lesion_free = _common_cases(a, b, names)
    moments = tuple(Moment) if a.steps else (Moment.first,)
    tables = [_pairs(a, b, metric, moments) for metric in METRICS]
    table = pd.concat(tables, ignore_index=True)
    return Comparison(
        runs=(a, b),
        names=names,
        cases=cases,
        lesion_free=lesion_free,
        left_out=(_without(a, cases + lesion_free), _without(b, cases + lesion_free)),
        table=table,
        differences=_rows(table.loc[~table.empty_label], METRICS, moments, seed),
        lesion_free_differences=_rows(table.loc[table.empty_label], OF_LESION_FREE, moments, seed),
        seed=seed,
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.csv`, `comparison.json` and `comparison.html` into a folder.

    Args:
        comparison: from `compare_runs`.
        folder: made if it is not there; older files of these names are replaced.
    """
    write_table(comparison.table, folder / "comparison.csv")
    write_summary(comparison_summary(comparison), folder / "comparison.json")
    write_comparison_page(comparison, folder / "comparison.html")


def comparison_summary(comparison: Comparison) -> dict[str, Any]:
    """What docs/how-to/compare.md says of `comparison.json`; None where something is undefined."""
    (a, b), (name_a, name_b) = comparison.runs, comparison.names
    only_a, only_b = comparison.left_out
    return {
        "a": {"name": name_a, "folder": str(a.folder), "only_here": list(only_a)},
        "b": {"name": name_b, "folder": str(b.folder), "only_here": list(only_b)},
        "protocol": a.protocol,
        "steps": a.steps,
        "cases": len(comparison.cases),
        "lesion_free_cases": len(comparison.lesion_free),
        "seed": comparison.seed,
        "differences": [_plain(row) for row in comparison.differences],
        "lesion_free": [_plain(row) for row in comparison.lesion_free_differences],
    }


def _refuse_unlike(a: EvaluatedRun, b: EvaluatedRun, names: tuple[str, str]) -> None:
    labels_a, labels_b = (
        ", ".join(c.removeprefix("dice_") for c in run.table if c.startswith("dice_"))
        for run in (a, b)
    )
    for what, of_a, of_b in (
        ("protocol", a.protocol, b.protocol),
        ("number of steps", a.steps, b.steps),
        ("list of labels", labels_a or "one label", labels_b or "one label"),
        ("user", _user(a), _user(b)),
    ):
        if of_a != of_b:
            raise UsageError(
                f"the two evaluations cannot be compared, for their {what} differs ({of_a} in "
                f"{names[0]}, {of_b} in {names[1]}); evaluate one of the models again as the other"
            )


def _user(run: EvaluatedRun) -> str:
    """How the user clicks, in the settings' words, whatever was drawn at random."""
    settings = run.summary.get("settings", {})
    said = {key: value for key, value in settings.items() if key not in ("seed", "repeats")}
    return ", ".join(f"{key} {value}" for key, value in sorted(said.items())) or "not recorded"


def _common_cases(
    a: EvaluatedRun, b: EvaluatedRun, names: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases of both, those with lesions and those without."""
    empty_a, empty_b = (run.table.groupby("case").empty_label.first() for run in (a, b))
    common = [case for case in a.table.case.unique() if case in empty_b.index]
    if not common:
        raise UsageError(
            f"{names[0]} and {names[1]} have no case in common, by name; compare evaluations of "
            "the same data"
        )
    other = [case for case in common if empty_a[case] != empty_b[case]]
    if other:
        raise UsageError(
            f"{', '.join(other[:5])}: lesion-free in only one of the two evaluations, so these are "
            "other cases, or other labels, of the same name; compare evaluations of the same data"
        )
    return (
        tuple(case for case in common if not empty_a[case]),
        tuple(case for case in common if empty_a[case]),
    )


def _without(run: EvaluatedRun, cases: Sequence[str]) -> tuple[str, ...]:
    known = set(cases)
    return tuple(str(case) for case in run.table.case.unique() if case not in known)


def _pairs(
    a: EvaluatedRun, b: EvaluatedRun, metric: str, moments: Sequence[Moment]
) -> pd.DataFrame:
    """One score of the common cases in the order of A, moment by moment."""
    is_empty = a.table.groupby("case").empty_label.first()
    scores_a, scores_b = (scores_by_case(run.table, metric) for run in (a, b))
    scores_a = scores_a.loc[scores_a.index.isin(scores_b.index)]
    scores_b = scores_b.loc[scores_a.index]
    tables = [
        pd.DataFrame(
            {
                "case": scores_a.index,
                "empty_label": is_empty[scores_a.index].to_numpy(),
                "metric": metric,
                "moment": moment.value,
                "a": _at(scores_a, moment).to_numpy(),
                "b": _at(scores_b, moment).to_numpy(),
            }
        )
        for moment in moments
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(difference=table.b - table.a)


def _at(scores: pd.DataFrame, moment: Moment) -> pd.Series:
    """One value per case; a mean over steps is undefined where one of them is."""
    if moment is Moment.mean:
        return scores.mean(axis="columns", skipna=False)
    return scores.iloc[:, 0 if moment is Moment.first else -1]


def _rows(
    table: pd.DataFrame, metrics: Sequence[str], moments: Sequence[Moment], seed: int
) -> tuple[Row, ...]:
    if table.empty:
        return ()
    rows: list[Row] = []
    for metric in metrics:
        for moment in moments:
            pairs = table.loc[(table.metric == metric) & (table.moment == moment.value)]
            result = paired_difference(pairs.a.to_numpy(), pairs.b.to_numpy(), seed)
            rows.append(Row(metric, moment, result))
    return tuple(rows)


def _plain(row: Row) -> dict[str, Any]:
    values = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(row.result).items()
    }
    untested = row.result.untested
    values["untested"] = None if untested is None else untested.value
    return {"metric": row.metric, "moment": row.moment.value, **values}
