"""The page of a comparison: in words, in plots, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import voxclick
from voxclick.evaluation.plots import MODEL_COLOUR
from voxclick.evaluation.report.figures import (
    BAND_CASES,
    CURVE_METRICS,
    OTHER_MODEL_COLOUR,
    Curve,
    curve_plots,
    draw_differences,
)
from voxclick.evaluation.report.page import (
    UNDEFINED,
    Cell,
    Column,
    KeyFigure,
    Plot,
    Table,
    flattened,
    number,
    signed,
    whole,
    words,
    write_page,
)
from voxclick.evaluation.report.paired import (
    MIN_DIFFERING_PAIRS,
    Comparison,
    Moment,
    PairedDifference,
    Row,
    Untested,
)
from voxclick.evaluation.report.run_folder import EvaluatedRun, scores_by_case
from voxclick.evaluation.report.words import (
    METRIC_WORDS,
    before_corrections,
    counted,
    in_the_end,
    what_is_measured,
)

_SETTINGS = (
    "model",
    "ensemble",
    "model_fingerprint",
    "data",
    "backend",
    "seed",
    "repeats",
    "settings",
    "inference",
    "hardware",
    "versions",
    "seconds_per_step",
    "windows_per_step",
    "started",
)
_ALWAYS_SHOWN = ("model", "model_fingerprint", "data")


def write_comparison_page(comparison: Comparison, path: Path) -> None:
    """Write the page; it needs no other file and no network."""
    write_page(
        "comparison.html.j2",
        path,
        title=f"{comparison.names[0]} and {comparison.names[1]} compared",
        version=voxclick.__version__,
        opening=[_who_and_what(comparison), *verdict(comparison)],
        key_figures=_key_figures(comparison),
        with_lesions=_with_lesions(comparison) if comparison.cases else None,
        lesion_free=_without_lesions(comparison) if comparison.lesion_free else None,
        caution=caution(comparison),
        remarks=remarks(comparison),
        left_out=list(zip("AB", comparison.names, comparison.left_out, strict=True)),
        settings_table=_settings_table(comparison),
    )


def _with_lesions(comparison: Comparison) -> dict[str, Any]:
    return {
        "curves": _curves(comparison),
        "curves_caption": _curves_caption(comparison),
        "differences_plot": _differences_plot(comparison),
        "differences": differences_table(comparison),
        "cases": _cases_table(comparison, comparison.cases, "cases", CURVE_METRICS),
    }


def _without_lesions(comparison: Comparison) -> dict[str, Any]:
    metrics = tuple(dict.fromkeys(row.metric for row in comparison.lesion_free_differences))
    cases = comparison.lesion_free
    return {
        "differences": lesion_free_table(comparison),
        "cases": _cases_table(comparison, cases, "lesion-free-cases", metrics),
    }


def verdict(comparison: Comparison) -> list[str]:
    """Which of the two has the higher Dice in the end, by how much, and what the test says."""
    main = comparison.main
    when = moment_words(comparison, _last(comparison))
    a, b = (f"{letter} ({name})" for letter, name in zip("AB", comparison.names, strict=True))
    mean_a, mean_b = number(main.mean_a).text, number(main.mean_b).text
    if main.difference > 0:
        which = f"{b} has the higher mean Dice, {mean_b} against {mean_a} for {a}"
    elif main.difference < 0:
        which = f"{a} has the higher mean Dice, {mean_a} against {mean_b} for {b}"
    else:
        which = f"{a} and {b} have the same mean Dice, {mean_a}"
    interval = f" (95 % interval {_interval(main)})" if main.pairs > 1 else ""
    cases = counted(main.pairs, "case" if comparison.cases else "lesion-free case")
    counts = f"B is better in {main.higher_in_b} of {cases}, A in {main.higher_in_a}"
    return [
        f"{when[0].upper()}{when[1:]}, {which}: B − A = {signed(main.difference).text}{interval}. "
        f"{counts}.",
        _what_the_test_says(main),
    ]


def caution(comparison: Comparison) -> str:
    """What the table does not say."""
    rows = (*comparison.differences, *comparison.lesion_free_differences)
    return (
        "B − A of the same case, averaged; the interval is a bootstrap over the cases, p a "
        f"two-sided Wilcoxon signed-rank test. These are {counted(len(rows), 'comparison')}, and "
        "p is corrected for none of them: of models that do not differ, about one comparison in "
        "twenty has p < 0.05 all the same. Decide before you look which one counts. An interval "
        "from a handful of cases is little more than their range, and too narrow."
    )


def remarks(comparison: Comparison) -> list[str]:
    """Which comparisons have no test, and why."""
    sentences: list[str] = []
    for rows, among in (
        (comparison.differences, "Cases with lesions"),
        (comparison.lesion_free_differences, "Lesion-free cases"),
    ):
        untested: dict[Untested, dict[str, list[str]]] = {}
        for row in rows:
            if row.result.untested is not None:
                moments = untested.setdefault(row.result.untested, {})
                moments.setdefault(METRIC_WORDS[row.metric].title, []).append(row.moment.value)
        for reason, metrics in untested.items():
            listed = "; ".join(f"{title} ({', '.join(at)})" for title, at in metrics.items())
            sentences.append(f"{among}, no test as {reason.value}: {listed}.")
    return sentences


def moment_words(comparison: Comparison, moment: Moment) -> str:
    """When, in a sentence."""
    if moment is Moment.first:
        return before_corrections(comparison.runs[0].protocol)
    if moment is Moment.last:
        return in_the_end(comparison.runs[0].protocol, comparison.steps)
    return f"mean over steps 0 to {comparison.steps}"


def _last(comparison: Comparison) -> Moment:
    """What is spoken of first."""
    return Moment.last if comparison.steps else Moment.first


def differences_table(comparison: Comparison) -> Table:
    """Scores and moments of the cases with lesions, one row each."""
    count = counted(len(comparison.cases), "case")
    caption = f"{count} with lesions; {_moments(comparison)}; FPV and FNV are better when lower."
    return _table_of_rows(comparison, comparison.differences, "differences", caption)


def _moments(comparison: Comparison) -> str:
    moments = dict.fromkeys(
        row.moment for row in (*comparison.differences, *comparison.lesion_free_differences)
    )
    return ", ".join(f"{moment.value}: {moment_words(comparison, moment)}" for moment in moments)


def lesion_free_table(comparison: Comparison) -> Table:
    """The same of the lesion-free cases."""
    count = counted(len(comparison.lesion_free), "case")
    caption = f"{count} without lesions; {_moments(comparison)}; FPV is better when lower."
    return _table_of_rows(comparison, comparison.lesion_free_differences, "lesion-free", caption)


def _table_of_rows(comparison: Comparison, rows: Sequence[Row], name: str, caption: str) -> Table:
    columns = (
        Column("Score", is_number=False),
        Column("When", is_number=False),
        Column("Pairs"),
        Column("A"),
        Column("B"),
        Column("B − A"),
        Column("95 % interval"),
        Column("p"),
    )
    return Table(name, caption, columns, tuple(_cells(row) for row in rows))


def _cells(row: Row) -> tuple[Cell, ...]:
    result, decimals = row.result, METRIC_WORDS[row.metric].decimals
    return (
        words(METRIC_WORDS[row.metric].title),
        words(row.moment.value),
        whole(result.pairs),
        number(result.mean_a, decimals),
        number(result.mean_b, decimals),
        signed(result.difference, decimals),
        words(_interval(result, decimals)),
        p_cell(result.p_value),
    )


def p_cell(p_value: float) -> Cell:
    """A cell with a p-value; the smallest ones are not spelt out."""
    plain = number(p_value)
    return Cell("< 0.001", plain.key) if p_value < 0.001 else plain


def _interval(result: PairedDifference, decimals: int = 3) -> str:
    if result.pairs < 2:
        return number(None).text
    return f"{signed(result.low, decimals).text} to {signed(result.high, decimals).text}"


def _what_the_test_says(main: PairedDifference) -> str:
    if main.untested is not None:
        return f"There is no test, as {main.untested.value}."
    p = p_cell(main.p_value).text
    shown = f"p {p}" if p.startswith("<") else f"p = {p}"
    if main.tells_apart:
        return f"The Wilcoxon test tells the two apart in this ({shown})."
    if main.differing < MIN_DIFFERING_PAIRS:
        differing = counted(main.differing, "case that differs", "cases that differ")
        return (
            f"The Wilcoxon test cannot tell them apart ({shown}): with {differing}, p is never "
            "below 0.05."
        )
    return (
        f"The Wilcoxon test does not tell them apart ({shown}): the difference may be chance, "
        "which does not show that there is none."
    )


def _who_and_what(comparison: Comparison) -> str:
    run = comparison.runs[0]
    cases = [counted(len(comparison.cases), "case with lesions", "cases with lesions")]
    if comparison.lesion_free:
        cases.append(counted(len(comparison.lesion_free), "lesion-free case"))
    name_a, name_b = comparison.names
    both = f"A is {name_a}, B is {name_b}; both were evaluated on {' and '.join(cases)}"
    where_a, where_b = (run.summary.get("data") for run in comparison.runs)
    if where_a != where_b:
        both += f", matched by their names: A read them from {where_a}, B from {where_b}"
    return f"{both}. {what_is_measured(run.protocol, run.steps)}"


def _key_figures(comparison: Comparison) -> list[KeyFigure]:
    rows = comparison.differences or comparison.lesion_free_differences
    when = _last(comparison)
    said_when = moment_words(comparison, when)
    figures: list[KeyFigure] = []
    for row in rows:
        if row.moment is not when or row.metric not in CURVE_METRICS:
            continue
        said, result = METRIC_WORDS[row.metric], row.result
        means = f"{number(result.mean_a, said.decimals).text} → "
        means += number(result.mean_b, said.decimals).text
        value = signed(result.difference, said.decimals).text
        figures.append(KeyFigure(f"{said.title}, B − A", value, f"{means}, {said_when}"))
    return figures


def _curves(comparison: Comparison) -> list[Plot]:
    cases = list(comparison.cases)

    def curves_of(metric: str) -> list[Curve]:
        return [
            Curve(
                f"{letter}: {name}",
                scores_by_case(run.table, metric).loc[cases].to_numpy(),
                colour=colour,
            )
            for letter, name, run, colour in zip(
                "AB",
                comparison.names,
                comparison.runs,
                (OTHER_MODEL_COLOUR, MODEL_COLOUR),
                strict=True,
            )
        ]

    return curve_plots(curves_of)


def _curves_caption(comparison: Comparison) -> str:
    cases = len(comparison.cases)
    among = counted(cases, "case with lesions", "cases with lesions")
    band = (
        "bands hold the middle half of the cases"
        if cases >= BAND_CASES
        else "thin lines are the cases"
    )
    return f"Thick lines: means over the same {among}; {band}."


def _differences_plot(comparison: Comparison) -> Plot:
    moment = _last(comparison)
    rows = _of(comparison, "dice", moment).set_index("case").loc[list(comparison.cases)]
    main, when = comparison.main, moment_words(comparison, moment)
    dashed = f"dashed, their mean, {signed(main.difference).text}"
    shaded = "; shaded, its 95 % interval" if main.pairs > 1 else ""
    svg = draw_differences(
        {str(case): float(value) for case, value in rows.difference.items()},
        (main.low, main.high),
        comparison.names,
        "differences",
        f"Dice {when}, B − A of each case, from {signed(rows.difference.min()).text} to "
        f"{signed(rows.difference.max()).text}; {dashed}.",
        x_title=f"Dice {when}, B − A",
    )
    return Plot(svg, f"Dice {when}: one bar a case; {dashed}{shaded}.")


def _of(comparison: Comparison, metric: str, moment: Moment) -> pd.DataFrame:
    table = comparison.table
    return table.loc[(table.metric == metric) & (table.moment == moment.value)]


def _cases_table(
    comparison: Comparison, cases: Sequence[str], name: str, metrics: Sequence[str]
) -> Table:
    """Each case at the last step: Dice of both, and the differences of all scores."""
    moment = _last(comparison)
    by_metric = {metric: _of(comparison, metric, moment).set_index("case") for metric in metrics}
    rows = tuple(
        (
            words(case),
            number(by_metric["dice"].a[case]),
            number(by_metric["dice"].b[case]),
            *(
                signed(by_metric[metric].difference[case], METRIC_WORDS[metric].decimals)
                for metric in metrics
            ),
        )
        for case in cases
    )
    columns = (
        Column("Case", is_number=False),
        Column("Dice, A"),
        Column("Dice, B"),
        *(Column(f"{METRIC_WORDS[metric].title}, B − A") for metric in metrics),
    )
    kind = "with lesions" if name == "cases" else "without lesions"
    caption = f"Cases {kind}, {moment_words(comparison, moment)}; headings sort."
    return Table(name, caption, columns, rows, is_sortable=True)


def _settings_table(comparison: Comparison) -> Table:
    """What decides which model and which data, and all else in which the two differ."""
    of_a, of_b = (_flat_settings(run) for run in comparison.runs)
    shown = [
        key
        for key in dict.fromkeys((*of_a, *of_b))
        if key in _ALWAYS_SHOWN or of_a.get(key) != of_b.get(key)
    ]
    rows = tuple(
        (words(key), words(of_a.get(key, UNDEFINED)), words(of_b.get(key, UNDEFINED)))
        for key in shown
    )
    columns = tuple(Column(title, is_number=False) for title in ("Setting", "A", "B"))
    return Table("settings", "Model and data, and all else that differs.", columns, rows)


def _flat_settings(run: EvaluatedRun) -> dict[str, str]:
    known = {key: run.summary[key] for key in _SETTINGS if key in run.summary}
    return {"folder": str(run.folder), **flattened(known)}
