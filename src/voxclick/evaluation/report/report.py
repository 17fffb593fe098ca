"""The report of an evaluation: one page that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

import voxclick
from voxclick.evaluation.baselines import BaselineName
from voxclick.evaluation.report.figures import (
    BAND_CASES,
    CURVE_METRICS,
    Curve,
    CurveRole,
    curve_plots,
)
from voxclick.evaluation.report.page import (
    KeyFigure,
    Plot,
    flattened,
    metric_cell,
    number,
    write_page,
)
from voxclick.evaluation.report.run_folder import EvaluatedRun, scores_by_case
from voxclick.evaluation.report.tables import (
    Method,
    cases_table,
    challenge_table,
    clicks_table,
    labels_table,
    lesion_free_cases,
    lesion_free_steps,
    methods_table,
    steps_table,
)
from voxclick.evaluation.report.words import (
    METRIC_WORDS,
    ORACLES,
    baseline_title,
    before_corrections,
    counted,
    in_the_end,
    what_is_measured,
)

_CLICK_FIGURE = ("dice", "0.85")
"""Which number of clicks stands among the key figures."""

_PICTURES_CAPTION = (
    "Red: the outline of the mask. Above the maximum-intensity projection from the front, below "
    "the axial slice that holds most of the label; the patient's right is at the left. Clicks are "
    "drawn on the last prediction: + foreground, × background."
)


@dataclass(frozen=True)
class CasePicture:
    """Attributes:
    title: which case, and why it is shown.
    source: the picture itself, as a ``data:`` address; empty if there is none.
    description: for those who do not see it.
    caption: below it.
    """

    title: str
    source: str
    description: str
    caption: str


def write_report(run: EvaluatedRun, path: Path) -> None:
    """Write the report of an evaluation as one HTML file.

    Args:
        run: which; its pictures go into the file.
        path: an older file is replaced only when all is written.
    """
    lesions = run.table.loc[~run.table.empty_label]
    lesion_free = run.table.loc[run.table.empty_label]
    methods = _methods(run)
    write_page(
        "report.html.j2",
        path,
        title=f"Evaluation of {_model_name(run.summary)}",
        version=voxclick.__version__,
        opening=_opening(run, lesions, lesion_free),
        key_figures=_key_figures(run, lesions, lesion_free),
        curves=_curves(methods) if methods else [],
        curves_caption=_curves_caption(methods) if methods else "",
        steps_table=steps_table(lesions) if len(lesions) else None,
        methods_table=methods_table(methods, run) if len(methods) > 1 else None,
        labels_table=labels_table(run.summary),
        clicks_table=clicks_table(run.summary) if len(lesions) else None,
        challenge_table=challenge_table(run.summary),
        lesion_free_steps=lesion_free_steps(lesion_free) if len(lesion_free) else None,
        lesion_free_cases=lesion_free_cases(lesion_free) if len(lesion_free) else None,
        cases_table=cases_table(lesions, run) if len(lesions) else None,
        failures=run.failed,
        pictures=_pictures(run, lesions),
        pictures_caption=_PICTURES_CAPTION,
        facts=_facts(run.summary),
    )


def _model_name(summary: Mapping[str, Any]) -> str:
    model = summary.get("model", "a model")
    if not isinstance(model, str):
        return f"an ensemble of {len(model)} models"
    path = Path(model)
    # a run's model is always called model.safetensors: its folder says which it is
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _opening(run: EvaluatedRun, lesions: pd.DataFrame, lesion_free: pd.DataFrame) -> list[str]:
    cases = [counted(lesions.case.nunique(), "case with lesions", "cases with lesions")]
    if len(lesion_free):
        cases.append(counted(lesion_free.case.nunique(), "lesion-free case"))
    where = f" of {run.summary['data']}" if run.summary.get("data") else ""
    measured = f"Measured on {' and '.join(cases)}{where}."
    if run.failed:
        measured += f" {counted(len(run.failed), 'case has', 'cases have')} no scores."
    repeats = int(run.summary["repeats"])
    if repeats > 1:
        measured += f" Each was clicked through {repeats} times; its scores are means."
    sentences = [what_is_measured(run.protocol, run.steps), measured]
    if len(lesions):
        sentences.append(_result(run, scores_by_case(lesions, "dice")))
    return sentences


def _result(run: EvaluatedRun, dice: pd.DataFrame) -> str:
    mean, last = dice.mean(), dice.iloc[:, -1]
    worst = f"the worst case, {last.idxmin()}, {{}} {number(last.min()).text}"
    before = before_corrections(run.protocol)
    if run.steps == 0:
        return f"Mean Dice is {number(mean.iloc[0]).text} {before}; {worst.format('has')}."
    first, final = number(mean.iloc[0]).text, number(mean.iloc[-1]).text
    way = "stays at" if first == final else ("rises" if final > first else "falls")
    moved = f"stays at {final}" if first == final else f"{way} from {first} {before} to {final}"
    return f"Mean Dice {moved} {in_the_end(run.protocol, run.steps)}; {worst.format('ends at')}."


def _key_figures(
    run: EvaluatedRun, lesions: pd.DataFrame, lesion_free: pd.DataFrame
) -> list[KeyFigure]:
    figures = (
        _figures_with_lesions(run, lesions)
        if len(lesions)
        else [_share_of_empty_predictions(lesion_free)]
    )
    seconds = number(run.summary.get("seconds_per_step"), 2).text
    device = str(run.summary.get("hardware", {}).get("device", ""))
    return [*figures, KeyFigure("Seconds a step", seconds, device)]


def _figures_with_lesions(run: EvaluatedRun, lesions: pd.DataFrame) -> list[KeyFigure]:
    dice = scores_by_case(lesions, "dice")
    before = before_corrections(run.protocol)
    figures: list[KeyFigure] = []
    if run.steps:
        first = number(dice.iloc[:, 0].mean()).text
        figures.append(KeyFigure("Dice, first prediction", first, before))
    when = in_the_end(run.protocol, run.steps)
    for metric in CURVE_METRICS:
        last = scores_by_case(lesions, metric).iloc[:, -1]
        spread = f", ±\N{NO-BREAK SPACE}{metric_cell(metric, last.std(ddof=0)).text}"
        figures.append(
            KeyFigure(
                METRIC_WORDS[metric].title,
                metric_cell(metric, last.mean()).text,
                when + (spread if metric == "dice" and len(last) > 1 else ""),
            )
        )
    metric, quality = _CLICK_FIGURE
    count = run.summary.get("number_of_clicks", {}).get(metric, {}).get(quality)
    if count:
        never = f"{count['nof']} never reach it"
        figures.append(KeyFigure(f"Steps to Dice {quality}", number(count["noc"], 1).text, never))
    return figures


def _share_of_empty_predictions(lesion_free: pd.DataFrame) -> KeyFigure:
    share = scores_by_case(lesion_free, "dice").iloc[:, -1].mean()
    return KeyFigure("Empty predictions", number(share).text, "share of the cases, last step")


def _methods(run: EvaluatedRun) -> list[Method]:
    """The model, then the baselines in their usual order; nothing without lesions."""
    lesions = run.table.loc[~run.table.empty_label]
    if lesions.empty:
        return []
    methods = [Method("model", CurveRole.model, lesions)]
    if run.baselines is None:
        return methods
    rows = run.baselines.loc[~run.baselines.empty_label]
    present = rows.baseline.unique()
    usual = [name.value for name in BaselineName if name.value in present]
    for name in (*usual, *(name for name in present if name not in usual)):
        role = CurveRole.oracle if name in ORACLES else CurveRole.baseline
        methods.append(Method(baseline_title(name), role, rows.loc[rows.baseline == name]))
    return methods


def _curves(methods: Sequence[Method]) -> list[Plot]:
    return curve_plots(
        lambda metric: [
            Curve(method.title, scores_by_case(method.rows, metric).to_numpy(), method.role)
            for method in methods
        ]
    )


def _curves_caption(methods: Sequence[Method]) -> str:
    cases = methods[0].rows.case.nunique()
    among = counted(cases, "case with lesions", "cases with lesions")
    band = (
        "the band holds the middle half of the cases"
        if cases >= BAND_CASES
        else "thin lines are the cases"
    )
    caption = f"Thick line: mean over {among}; {band}."
    if len(methods) > 1:
        caption += " Thin lines: other methods with the same clicks, means over the same cases."
    if any(method.role is CurveRole.oracle for method in methods):
        caption += (
            " Dashed: knows the label, so it bounds what one threshold for the whole image reaches."
        )
    return caption


def _pictures(run: EvaluatedRun, lesions: pd.DataFrame) -> list[CasePicture]:
    if lesions.empty:
        return []
    dice = scores_by_case(lesions, "dice")
    before, after = before_corrections(run.protocol), in_the_end(run.protocol, run.steps)
    pictures: list[CasePicture] = []
    for rank, case in _best_median_worst(dice.iloc[:, -1]).items():
        first, last = (number(dice.loc[case].iloc[place]).text for place in (0, -1))
        moved = f"Dice {first} {before}, {last} {after}" if run.steps else f"Dice {first} {before}"
        path = run.picture(case)
        caption = f"{moved}." if path else f"{moved}. The folder holds no picture of this case."
        described = (
            f"Case {case}: the true mask, the first prediction and the last one with the clicks, "
            f"as maximum-intensity projection and as slice. {moved}."
        )
        source = _as_address(path) if path else ""
        pictures.append(CasePicture(f"{rank}: {case}", source, described, caption))
    return pictures


def _best_median_worst(dice: pd.Series) -> dict[str, str]:
    """Each case once: of one case nothing is the median, of two none lies in the middle."""
    ordered = [str(case) for case in dice.sort_values(ascending=False, kind="stable").index]
    if len(ordered) == 1:
        return {"The only case": ordered[0]}
    if len(ordered) == 2:
        return {"Best": ordered[0], "Worst": ordered[1]}
    return {"Best": ordered[0], "Median": ordered[len(ordered) // 2], "Worst": ordered[-1]}


def _as_address(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"


_FACT_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Model and data": ("model", "ensemble", "model_fingerprint", "data", "backend"),
        "Protocol": ("protocol", "steps", "seed", "repeats", "settings", "clicks"),
        "Inference": ("inference",),
        "Hardware": ("hardware",),
        "Versions": ("versions",),
        "Times": (
            "started",
            "finished",
            "seconds_total",
            "seconds_per_step",
            "windows_per_step",
        ),
        "Over the steps": ("auc", "consistent_improvement", "dice_std_over_repeats"),
    }
)


def _facts(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What stands in the summary, in groups."""
    facts: dict[str, dict[str, str]] = {}
    for title, keys in _FACT_GROUPS.items():
        known = {key: summary[key] for key in keys if key in summary}
        # a group that is called what it holds need not say so on every line
        only = known.get(title.lower())
        facts[title] = flattened(only if isinstance(only, Mapping) else known)
    return facts
