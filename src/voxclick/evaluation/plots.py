"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from voxclick.clicks import Click
from voxclick.clicks.click import BACKGROUND
from voxclick.files import replace_when_written
from voxclick.geometry.affine import spacing_of
from voxclick.geometry.flat import flat_axis
from voxclick.types import Index3
from voxclick.volume import LabelMap, Volume

MODEL_COLOUR = "#0b6e99"


def plot_curve(table: pd.DataFrame, path: Path, title: str) -> None:
    """Dice per step: every case as a thin line, the mean in front; from four cases on, a band
    between the quartiles.

    Args:
        table: from `scores_table`; cases without foreground are left out, unless all are.
        path: a PNG.
        title: above the axes.
    """
    if not table.empty_label.all():
        table = table.loc[~table.empty_label]
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for _, case in table.groupby(["case", "repeat"]):
        axes.plot(case.step, case.dice, color="0.8", linewidth=0.8, zorder=1)
    by_step = table.groupby("step").dice
    mean, steps = by_step.mean(), sorted(table.step.unique())
    if table.case.nunique() > 3:
        axes.fill_between(
            steps,
            by_step.quantile(0.25),
            by_step.quantile(0.75),
            color=MODEL_COLOUR,
            alpha=0.2,
            linewidth=0,
            label="middle half of the cases",
            zorder=2,
        )
    axes.plot(steps, mean, color=MODEL_COLOUR, linewidth=2, marker="o", label="mean", zorder=3)
    for step in {steps[0], steps[-1]}:
        axes.annotate(
            f"{mean[step]:.3f}",
            (step, mean[step]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=MODEL_COLOUR,
            fontweight="bold",
        )
    axes.plot([], [], color="0.8", label="a case")
    axes.set(xlabel="step", ylabel="Dice", ylim=(0, 1.02), title=title, xticks=steps)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def plot_case(
    image: Volume,
    label: LabelMap,
    predictions: Mapping[str, LabelMap],
    clicks: Sequence[Click],
    path: Path,
) -> None:
    """One case at a glance: the true mask, then each prediction, as projection and as slice.

    The upper row is the coronal maximum-intensity projection with the mask's projection over it,
    the lower row the axial slice that holds most of the label, both as radiologists see them: the
    patient's right at the left. Of a single slice there is only this slice, a sagittal one with the
    front at the left. Clicks are drawn on the last prediction: ``+`` foreground, ``x`` background.

    Args:
        image: PET or anything that a projection suits.
        label: the truth, on the image's grid; all foreground labels are drawn as one.
        predictions: by title, in order, on the same grid.
        clicks: in voxels of the file.
        path: a PNG.
    """
    scan = _CanonicalView(image.affine, image.voxels.shape)
    voxels = scan.orient(image.voxels.astype(np.float32))
    truth = scan.orient(_foreground(label))
    masks = {"truth": truth} | {
        title: scan.orient(_foreground(prediction)) for title, prediction in predictions.items()
    }
    views = _views_of(truth)
    low, high = np.percentile(voxels, (1, 99.9)).tolist()
    window = (min(low, 0.0), max(high, low + 1e-6))  # uptake from 0 on, a CT from air on
    heights = [voxels.shape[2] * scan.spacing[2], 320] if len(views) > 1 else None
    size = (3.1 * len(masks), 7.4 if len(views) > 1 else 3.6)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    rows = figure.subplots(len(views), len(masks), squeeze=False, height_ratios=heights)
    for column, (title, mask) in enumerate(masks.items()):
        rows[0, column].set_title(title, fontsize=10)
        for axes, view in zip(rows[:, column], views, strict=True):
            aspect = scan.aspect(view.across, view.up)
            _draw(axes, view.flatten(voxels), view.flatten(mask), window, aspect)
            _show_as_radiologists_do(axes, view.across)
            if column == len(masks) - 1:
                _draw_clicks(axes, view, [(scan.index(c.index), c.label) for c in clicks])
    _save(figure, path)


@dataclass(frozen=True)
class _View:
    """How RAS+ voxels become a picture.

    Attributes:
        across: axis from the picture's one side to the other.
        up: axis from its lower to its upper end.
        at: the slice of the third axis that is shown; None for the largest value along it.
    """

    across: int
    up: int
    at: int | None

    @property
    def through(self) -> int:
        return 3 - self.across - self.up

    def flatten(self, voxels: NDArray[Any]) -> NDArray[Any]:
        if self.at is None:
            return voxels.max(axis=self.through)
        return voxels.take(self.at, axis=self.through)

    def shows(self, index: Index3) -> bool:
        return self.at is None or abs(index[self.through] - self.at) <= 1


def _views_of(truth: NDArray[np.bool_]) -> tuple[_View, ...]:
    flat = flat_axis(truth.shape)
    if flat is not None:
        across, up = (axis for axis in range(3) if axis != flat)
        return (_View(across, up, at=0),)
    k = int(truth.sum(axis=(0, 1)).argmax()) if truth.any() else truth.shape[2] // 2
    return (_View(0, 2, at=None), _View(0, 1, at=k))


class _CanonicalView:
    """Turns arrays and voxels of one file into RAS order, so that pictures stand upright."""

    def __init__(self, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
        self._orientation = nibabel.io_orientation(affine)
        self._shape = shape
        file_spacing = spacing_of(affine)
        self.spacing = tuple(
            file_spacing[int(np.flatnonzero(self._orientation[:, 0] == axis)[0])]
            for axis in range(3)
        )

    def orient(self, voxels: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(nibabel.apply_orientation(voxels, self._orientation))

    def index(self, index: Index3) -> Index3:
        canonical = [0, 0, 0]
        for position, length, (axis, direction) in zip(
            index, self._shape, self._orientation, strict=True
        ):
            canonical[int(axis)] = position if direction > 0 else length - 1 - position
        i, j, k = canonical
        return (i, j, k)

    def aspect(self, across: int, up: int) -> float:
        return self.spacing[up] / self.spacing[across]


def _foreground(label_map: LabelMap) -> NDArray[np.bool_]:
    return np.asarray(label_map.voxels) != 0


def _draw(
    axes: Axes,
    picture: NDArray,
    mask: NDArray[np.bool_],
    window: tuple[float, float],
    aspect: float,
) -> None:
    axes.imshow(
        picture.T, cmap="gray_r", vmin=window[0], vmax=window[1], origin="lower", aspect=aspect
    )
    if mask.any():
        axes.contour(mask.T, levels=[0.5], colors="#d1495b", linewidths=1.1)


def _draw_clicks(axes: Axes, view: _View, clicks: Sequence[tuple[Index3, str]]) -> None:
    for index, label in clicks:
        if view.shows(index):
            marker = "x" if label == BACKGROUND else "+"
            style = {"marker": marker, "s": 40, "linewidths": 1.6, "color": "#0b6e99"}
            axes.scatter(index[view.across], index[view.up], **style)


def _show_as_radiologists_do(axes: Axes, across: int) -> None:
    """Turn a picture of RAS+ voxels, ``across`` from side to side, as in every reading room.

    The patient's right is then at the left (of a sagittal picture, the front), and both sides are
    named.
    """
    axes.invert_xaxis()
    axes.set_axis_off()
    left, right = ("R", "L") if across == 0 else ("A", "P")
    for letter, place, side in ((left, 0.02, "left"), (right, 0.98, "right")):
        axes.text(place, 0.5, letter, transform=axes.transAxes, ha=side, va="center", color="0.4")


def _save(figure: Figure, path: Path) -> None:
    with replace_when_written(path) as temporary:
        figure.savefig(temporary)
