"""Figures of reports, as SVG to be put into a page."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from voxclick.evaluation.plots import MODEL_COLOUR
from voxclick.evaluation.report.page import Plot, metric_cell
from voxclick.evaluation.report.words import METRIC_WORDS

CURVE_METRICS = ("dice", "nsd", "fpv_ml", "fnv_ml")
"""What is plotted over the steps."""

OTHER_MODEL_COLOUR = "#b4530a"
"""Of the first of two models; the second has `MODEL_COLOUR`."""

_INK = "#26323d"
_FAINT = "#c9d1d8"
_BASELINE_COLOURS = ("#8a5a00", "#6b4c9a", "#2e7d4f", "#a83a5b", "#4a5fa8", "#5b6770", "#7a3b1d")
_FONT_PT = 8.5
_LABEL_GAP = 0.065
"""Between labels beside the axes, as a share of the axes' height: a line of text."""

_LABEL_CHARACTERS = 24
_CHARACTER_WIDTH = 0.0141
"""Of bold letters on average, as a share of the figure's width."""

BAND_CASES = 4
"""Quartiles of fewer cases say nothing; the cases themselves are drawn instead."""

_MAX_NAMED_BARS = 40
_LOGARITHMIC_FROM = 8
"""Volumes are drawn on a logarithmic scale when a baseline exceeds the model by this factor."""


class CurveRole(Enum):
    """How a curve is drawn."""

    model = "model"
    baseline = "baseline"
    oracle = "oracle"
    """Knows the label: a bound, not a competitor."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One method in a plot of scores over steps.

    Attributes:
        title: beside its end.
        values: (case, step); NaN where undefined.
        role: how it is drawn.
        colour: of a model; baselines have theirs by their place among the curves.
    """

    title: str
    values: NDArray[np.float64]
    role: CurveRole = CurveRole.model
    colour: str = MODEL_COLOUR

    @property
    def mean(self) -> NDArray[np.float64]:
        """Per step, over the cases where it is defined; NaN where it is in none."""
        return pd.DataFrame(self.values).mean().to_numpy()


def curve_plots(curves_of: Callable[[str], Sequence[Curve]]) -> list[Plot]:
    """One plot for each of the scores that are plotted.

    Args:
        curves_of: the curves of a score, by its column.
    """
    plots: list[Plot] = []
    for metric in CURVE_METRICS:
        curves, said = curves_of(metric), METRIC_WORDS[metric]
        last = "; ".join(f"{c.title} {metric_cell(metric, c.mean[-1]).text}" for c in curves)
        description = f"Mean {said.title} over the steps. At the last step: {last}."
        name = f"curve-{metric}"
        svg = draw_curves(curves, name, description, y_title=said.title, is_share=said.is_share)
        plots.append(Plot(svg, f"{said.title}: {said.meaning}."))
    return plots


def draw_curves(
    curves: Sequence[Curve], name: str, description: str, *, y_title: str, is_share: bool
) -> Markup:
    """Means over cases, step by step, each named at its end.

    A model has a band of the middle half of its cases or, of fewer than four, each of them as a
    thin line.

    Args:
        curves: in the order in which baselines take their colours.
        name: of the figure, unique in its page.
        description: for those who do not see it.
        y_title: beside the axis.
        is_share: between 0 and 1; else from 0 on, logarithmic where a baseline is far off.

    Returns:
        An ``svg`` element.
    """
    figure = Figure(figsize=(4.8, 3.2))
    drawn = list(zip(curves, _colours(curves), strict=True))
    decimals = 3 if is_share else 2
    longest = max(len(_end_label(curve, decimals)) for curve in curves)
    right = 0.945 - _CHARACTER_WIDTH * longest
    axes = figure.add_axes((0.11, 0.15, right - 0.11, 0.74))
    for curve, colour in drawn:
        _draw_curve(axes, curve, colour)
    _scale(axes, curves, y_title, is_share=is_share)
    _label_ends(axes, drawn, decimals)
    _style(axes)
    return _inline(figure, name, description)


def draw_differences(
    differences: Mapping[str, float],
    interval: tuple[float, float],
    names: tuple[str, str],
    name: str,
    description: str,
    *,
    x_title: str,
) -> Markup:
    """Paired differences, one bar a case, the largest gain on top.

    Args:
        differences: second minus first, by case; more is better.
        interval: of their mean; NaN if there is none.
        names: of the two models.
        name: of the figure, unique in its page.
        description: for those who do not see it.
        x_title: below the axis.

    Returns:
        An ``svg`` element.
    """
    ordered = sorted(differences.items(), key=lambda item: item[1])
    values = np.array([value for _, value in ordered])
    height = float(np.clip(0.18 * len(values), 1.0, 7.2)) + 0.95
    figure = Figure(figsize=(5.6, height))
    is_named = len(values) <= _MAX_NAMED_BARS
    left = 0.27 if is_named else 0.06
    axes = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - 0.85 / height))
    colours = [MODEL_COLOUR if value > 0 else OTHER_MODEL_COLOUR for value in values]
    if not math.isnan(interval[0]):
        axes.axvspan(*interval, color=_INK, alpha=0.12, linewidth=0)
    axes.barh(np.arange(len(values)), values, color=colours, height=0.72 if is_named else 1.0)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.axvline(float(values.mean()), color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_yticks(range(len(values)) if is_named else [])
    if is_named:
        axes.set_yticklabels([shortened(case, 20) for case, _ in ordered], parse_math=False)
    axes.set_ylim(-0.6, len(values) - 0.4)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    margin = max(0.04 * (high - low), 1e-3)
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(x_title, color=_INK, fontsize=_FONT_PT)
    for place, side, text, colour in (
        (0.0, "left", f"← {shortened(names[0], 24)} better", OTHER_MODEL_COLOUR),
        (1.0, "right", f"{shortened(names[1], 24)} better →", MODEL_COLOUR),
    ):
        above = {"ha": side, "va": "bottom", "color": colour, "fontsize": _FONT_PT}
        axes.text(place, 1.0, text, transform=axes.transAxes, parse_math=False, **above)
    _style(axes, grid_along="x")
    return _inline(figure, name, description)


def shortened(text: str, characters: int) -> str:
    """The text, or its beginning and its end where it has more characters."""
    if len(text) <= characters:
        return text
    kept = characters - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _colours(curves: Sequence[Curve]) -> Iterator[str]:
    places = count()
    for curve in curves:
        if curve.role is CurveRole.model:
            yield curve.colour
        else:
            yield _BASELINE_COLOURS[next(places) % len(_BASELINE_COLOURS)]


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    steps = np.arange(curve.values.shape[1])
    if curve.role is not CurveRole.model:
        dashes = (0, (4, 2)) if curve.role is CurveRole.oracle else "solid"
        axes.plot(steps, curve.mean, color=colour, linewidth=1.1, linestyle=dashes, zorder=2)
        if len(steps) == 1:
            axes.plot(steps, curve.mean, color=colour, marker="_", markersize=9)
        return
    cases = pd.DataFrame(curve.values)
    if len(cases) < BAND_CASES:
        for values in curve.values:
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8, zorder=1)
    else:
        quartiles = cases.quantile(0.25), cases.quantile(0.75)
        axes.fill_between(steps, *quartiles, color=colour, alpha=0.16, linewidth=0, zorder=1)
    axes.plot(steps, curve.mean, color=colour, linewidth=2.2, marker="o", markersize=4, zorder=4)


def _scale(axes: Axes, curves: Sequence[Curve], y_title: str, *, is_share: bool) -> None:
    steps = max(curve.values.shape[1] for curve in curves)
    axes.set_xlim(-0.03 * steps, (steps - 1) + 0.03 * steps)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("step", color=_INK, fontsize=_FONT_PT)
    title = y_title
    if is_share:
        axes.set_ylim(0, 1.02)
    else:
        highest = max(axes.dataLim.y1, 1e-3)
        of_model = max(_highest_mean(c) for c in curves if c.role is CurveRole.model)
        if highest > _LOGARITHMIC_FROM * max(of_model, 0.1):
            linear_to = 10.0 ** np.clip(np.floor(np.log10(max(of_model, 0.1))), -1, 2)
            axes.set_yscale("symlog", linthresh=linear_to, linscale=0.6)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            title = f"{y_title}, logarithmic above {linear_to:g}"
            highest *= 1.5
        axes.set_ylim(0, highest * 1.05)
    axes.set_title(title, loc="left", color=_INK, fontsize=_FONT_PT + 1, fontweight="bold")


def _highest_mean(curve: Curve) -> float:
    defined = curve.mean[~np.isnan(curve.mean)]
    return float(defined.max()) if len(defined) else 0.0


def _label_ends(axes: Axes, drawn: Sequence[tuple[Curve, str]], decimals: int) -> None:
    """Each curve's last mean and title, at its end, moved apart where they would overlap."""
    ends = [(curve, colour) for curve, colour in drawn if not math.isnan(curve.mean[-1])]
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    last = ends[0][0].values.shape[1] - 1
    wanted = [float(to_axes.transform((last, curve.mean[-1]))[1]) for curve, _ in ends]
    x_end = float(to_axes.transform((last, 0))[0])
    for (curve, colour), y, place in zip(
        ends, wanted, moved_apart(wanted, _LABEL_GAP), strict=True
    ):
        is_model = curve.role is CurveRole.model
        axes.plot(
            (x_end + 0.015, 1.035),
            (y, place),
            transform=axes.transAxes,
            clip_on=False,
            color=colour,
            linewidth=0.6,
            alpha=0.7,
        )
        axes.text(
            1.045,
            place,
            _end_label(curve, decimals),
            transform=axes.transAxes,
            va="center",
            parse_math=False,
            color=colour,
            fontsize=_FONT_PT,
            fontweight="bold" if is_model else "normal",
        )


def _end_label(curve: Curve, decimals: int) -> str:
    return f"{curve.mean[-1]:.{decimals}f}  {shortened(curve.title, _LABEL_CHARACTERS)}"


def moved_apart(places: Sequence[float], gap: float) -> list[float]:
    """Places between 0 and 1, in the same order, at least a gap apart and near the wanted ones.

    Args:
        places: wanted, in any order.
        gap: less where 0 to 1 has no room for all.
    """
    if len(places) < 2:
        return list(places)
    gap = min(gap, 1 / (len(places) - 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [places[index] for index in order]
    for index in range(len(moved)):
        floor = moved[index - 1] + gap if index else 0.0
        moved[index] = max(moved[index], floor)
    for index in reversed(range(len(moved))):
        ceiling = moved[index + 1] - gap if index + 1 < len(moved) else 1.0
        moved[index] = min(moved[index], ceiling)
    placed = dict(zip(order, moved, strict=True))
    return [placed[index] for index in range(len(places))]


def _style(axes: Axes, grid_along: str = "y") -> None:
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(axis="x" if grid_along == "x" else "y", color=_FAINT, linewidth=0.6, alpha=0.8)
    axes.tick_params(colors=_INK, labelsize=_FONT_PT, length=2.5, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)


_SVG = "{http://www.w3.org/2000/svg}"
_URL = re.compile(r"(?<=url\(#)[^)]+(?=\))")


def _inline(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an element of a page: no namespaces, no size of its own, no id that another
    figure has, and text as text."""
    figure.patch.set_alpha(0)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # the reader's fonts draw the text, whatever letters matplotlib's own one lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}style":  # would be a rule for the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key in list(element.attrib):
            element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)
    _rename_ids(root, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": description, "data-figure": name}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # escaped by ElementTree


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Number the ids that something refers to, and drop the others."""
    referred: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            referred |= {value.removeprefix("#")} if key == "href" else set(_URL.findall(value))
    renamed: dict[str, str] = {}
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in referred:
            element.attrib["id"] = renamed[identity] = f"{prefix}-{len(renamed)}"
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href":
                element.attrib[key] = f"#{renamed[value.removeprefix('#')]}"
            else:
                element.attrib[key] = _URL.sub(lambda found: renamed[found[0]], value)
