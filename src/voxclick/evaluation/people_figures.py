"""The figure of a user study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from voxclick.evaluation.people import User, curves_of
from voxclick.evaluation.plots import MODEL_COLOUR
from voxclick.files import replace_when_written

PERSON_COLOUR = "#d1495b"
_BEYOND = 1.05


def plot_people(table: pd.DataFrame, path: Path) -> None:
    """Dice per click of people and of the simulated user, and beside it people's Dice over time.

    Thick lines are means; from four logs on a band lies between the quartiles. Thin lines are
    single logs. Who has stopped keeps the last mask.

    Args:
        table: from `people_table`; cases without foreground are left out, unless all are.
        path: a PNG.
    """
    if not table.empty_label.all():
        table = table.loc[~table.empty_label]
    person = table.loc[table.user == User.person.value]
    simulated = table.loc[table.user == User.simulated.value]
    figure = Figure(figsize=(10.4, 4.2), dpi=150, layout="constrained")
    per_click, over_time = figure.subplots(1, 2, sharey=True)
    logs, cases = person.groupby(["case", "annotator"]).ngroups, person.case.nunique()
    figure.suptitle(f"logs: {logs}, cases: {cases}", fontsize=11)
    for rows, name, colour in (
        (simulated, "simulated user", MODEL_COLOUR),
        (person, "people", PERSON_COLOUR),
    ):
        curves = curves_of(rows, "dice")
        _draw(per_click, curves.columns.to_numpy(), curves.to_numpy(), name, colour)
    per_click.set(xlabel="clicks (without those taken back)", ylabel="Dice", ylim=(0, 1.02))
    per_click.xaxis.set_major_locator(MaxNLocator(integer=True))
    moments, curves = dice_over_time(person)
    # a little beyond the last click, for what it gave to be seen
    moments = np.append(moments, max(_BEYOND * moments[-1], 1.0))
    curves = np.column_stack([curves, curves[:, -1]])
    _draw(over_time, moments, curves, "people", PERSON_COLOUR, is_stepped=True)
    over_time.set(xlabel="seconds since the image was opened")
    for axes in (per_click, over_time):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
        axes.legend(loc="lower right", fontsize=9, edgecolor="none")
    with replace_when_written(path) as temporary:
        figure.savefig(temporary)


def dice_over_time(person: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What every person had at every moment: the mask of the last click until then.

    Args:
        person: rows of people of a `people_table`.

    Returns:
        Moments in seconds at which anybody's Dice changes, ascending from 0, shape (m,), and Dice
        from there to the next, shape (logs, m).
    """
    moments = np.unique(person.seconds.to_numpy(dtype=np.float64))
    curves = [
        of_log.dice.to_numpy()[np.searchsorted(of_log.seconds, moments, side="right") - 1]
        for _, of_log in person.groupby(["case", "annotator"])
    ]
    return moments, np.array(curves)


def _draw(
    axes: Axes,
    at: NDArray[np.float64],
    curves: NDArray[np.float64],
    name: str,
    colour: str,
    *,
    is_stepped: bool = False,
) -> None:
    """Curves of shape (logs, places), their mean, and their spread."""
    style: dict[str, Any] = {"color": colour, "drawstyle": "steps-post" if is_stepped else None}
    axes.plot(at, curves.T, alpha=0.3, linewidth=0.7, zorder=1, **style)
    if len(curves) > 3:
        lower, upper = np.quantile(curves, (0.25, 0.75), axis=0)
        axes.fill_between(
            at,
            lower,
            upper,
            color=colour,
            alpha=0.15,
            linewidth=0,
            step="post" if is_stepped else None,
            label=f"{name}, middle half",
            zorder=2,
        )
    axes.plot(
        at,
        curves.mean(axis=0),
        linewidth=2,
        marker="" if is_stepped else "o",
        label=f"{name}, mean",
        clip_on=False,
        zorder=3,
        **style,
    )
