"""Scores over steps or clicks, one number per step of one case, summed up.

The three challenges sum up in their own ways; each has its own value here. Their areas are not
divided by the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate

from voxclick.errors import UsageError

_CVPR2025_STEPS = 6
_CVPR2025_CLICK_STEPS = 5
_CVPR2025_MIN_DSC = 0.2
_AUTOPET4_STEPS = 11
_AUTOPET5_STEPS = 6


def number_of_clicks(scores_per_click: Sequence[float], quality: float, budget: int) -> int:
    """NoC@quality: how many clicks it takes to reach a quality.

    As RITM and SimpleClick count (`compute_noc_metric`), there on IoU with a budget of 20.

    Args:
        scores_per_click: scores after 1, 2, … clicks; what comes after the budget is not looked at.
        quality: reached by scores equal to it or above; NaN never reaches it.
        budget: what an object costs that never reaches it.

    Returns:
        1 to `budget`.

    Raises:
        UsageError: the budget is less than one click.
    """
    if budget < 1:
        raise UsageError(f"a budget must be at least one click, got {budget}")
    reached = (
        click for click, score in enumerate(scores_per_click[:budget], start=1) if score >= quality
    )
    return next(reached, budget)


def is_failure(scores_per_click: Sequence[float], quality: float) -> bool:
    """Whether no click reaches the quality: the number of failures (NoF@quality) counts these.

    RITM's script counts the objects with NoC equal to the budget instead, so also one that gets
    there with the very last click.
    """
    return not any(score >= quality for score in scores_per_click)


def consistent_improvement(scores: Sequence[float]) -> float:
    """Share of consecutive steps in which the score did not fall.

    Returns:
        0 to 1; steps from or to NaN do not count, NaN where none counts.
    """
    rises = np.diff(np.asarray(scores, dtype=np.float64))
    rises = rises[~np.isnan(rises)]
    return float((rises >= 0).mean()) if len(rises) else math.nan


def mean_over_steps(scores: Sequence[float]) -> float:
    """Mean over step 0, 1, …; NaN where any of them is, and for no step at all."""
    return float(np.mean(scores)) if len(scores) else math.nan


def trapezoid_area(scores: Sequence[float]) -> float:
    """The challenges' area under the curve: trapezoids over x = 0, 1, …, not normalised.

    Returns:
        0 to n - 1 for n scores between 0 and 1; 0 for fewer than two; NaN where any is.
    """
    return float(integrate.trapezoid(np.asarray(scores, dtype=np.float64)))


@dataclass(frozen=True)
class Cvpr2025Summary:
    """One case in the CVPR 2025 challenge on interactive segmentation; see `cvpr2025_summary`.

    Attributes:
        dsc_auc: 0 to 4.
        nsd_auc: 0 to 4.
        dsc_final: after the last click.
        nsd_final: after the last click.
    """

    dsc_auc: float
    nsd_auc: float
    dsc_final: float
    nsd_final: float


def cvpr2025_summary(dsc: Sequence[float], nsd: Sequence[float]) -> Cvpr2025Summary:
    """Sum up a case as CVPR 2025 "Foundation Models for Interactive 3D Biomedical Image
    Segmentation" does (`CVPR25_iter_eval.py`).

    Its quirks: the areas leave out the first step, the bounding box, and run over the five clicks
    alone, 0 to 4; NSD counts as 0 in every step with a mean DSC of 0.2 or less. A case without a
    box has 0 for both in the first step.

    Args:
        dsc: Dice after the box and after each of five clicks, mean over the classes of the case.
        nsd: normalised surface Dice at 2 mm in the same steps, mean over the same classes.

    Raises:
        UsageError: not six values each.
    """
    _check_steps(_CVPR2025_STEPS, "the box and five clicks", dsc=dsc, nsd=nsd)
    counted_nsd = [
        surface if overlap > _CVPR2025_MIN_DSC else 0.0
        for overlap, surface in zip(dsc, nsd, strict=True)
    ]
    return Cvpr2025Summary(
        dsc_auc=trapezoid_area(dsc[-_CVPR2025_CLICK_STEPS:]),
        nsd_auc=trapezoid_area(counted_nsd[-_CVPR2025_CLICK_STEPS:]),
        dsc_final=dsc[-1],
        nsd_final=counted_nsd[-1],
    )


@dataclass(frozen=True)
class Autopet4Summary:
    """One case in autoPET IV, task 1; see `autopet4_summary`.

    Attributes:
        dsc_auc: 0 to 10; NaN for a case without lesions.
        fpv_auc: ml × steps.
        fnv_auc: ml × steps; NaN for a case without lesions.
        dsc_last: with all click pairs; NaN for a case without lesions.
        fpv_last_ml: with all click pairs.
        fnv_last_ml: with all click pairs; NaN for a case without lesions.
    """

    dsc_auc: float
    fpv_auc: float
    fnv_auc: float
    dsc_last: float
    fpv_last_ml: float
    fnv_last_ml: float


def autopet4_summary(
    dsc: Sequence[float],
    fpv_ml: Sequence[float],
    fnv_ml: Sequence[float],
    *,
    empty_label: bool = False,
) -> Autopet4Summary:
    """Sum up a case as autoPET IV does (lab-midas/autoPETCTIV, `evaluation_metrics.py`).

    Its quirk: for a case without lesions DSC and FNV are NaN, whatever was predicted, so that
    means over cases leave it out; only FPV scores it. Our own `dice` and
    `false_negative_volume_ml` are numbers there: `empty_label` makes them NaN.

    Args:
        dsc: Dice with 0, 1, … 10 pre-simulated click pairs.
        fpv_ml: false-positive volumes in the same steps.
        fnv_ml: false-negative volumes in the same steps.
        empty_label: the case has no lesion.

    Raises:
        UsageError: not eleven values each.
    """
    _check_steps(_AUTOPET4_STEPS, "0 to 10 click pairs", dsc=dsc, fpv_ml=fpv_ml, fnv_ml=fnv_ml)
    if empty_label:
        dsc = fnv_ml = [math.nan] * _AUTOPET4_STEPS
    return Autopet4Summary(
        dsc_auc=trapezoid_area(dsc),
        fpv_auc=trapezoid_area(fpv_ml),
        fnv_auc=trapezoid_area(fnv_ml),
        dsc_last=dsc[-1],
        fpv_last_ml=fpv_ml[-1],
        fnv_last_ml=fnv_ml[-1],
    )


@dataclass(frozen=True)
class Autopet5Summary:
    """One case in autoPET V; see `autopet5_summary`.

    Attributes:
        dice_auc: 0 to 5.
        dmm_auc: 0 to 5; NaN for a case without lesions.
        dice_final: after the last scribble.
        dmm_final: after the last scribble; NaN for a case without lesions.
    """

    dice_auc: float
    dmm_auc: float
    dice_final: float
    dmm_final: float


def autopet5_summary(dice: Sequence[float], dmm: Sequence[float]) -> Autopet5Summary:
    """Sum up a case as autoPET V does (its `interactive_loop.py`).

    Its quirks: unlike in autoPET IV, Dice is a number for a case without lesions (1 for an empty
    prediction, else 0) and counts in the mean over all cases; DMM is NaN there and means leave it
    out. A step that failed counts as 0 in both.

    Args:
        dice: without prompts and after each of five corrective scribbles.
        dmm: `detection_f1` in the same steps.

    Raises:
        UsageError: not six values each.
    """
    _check_steps(_AUTOPET5_STEPS, "no prompt and five scribbles", dice=dice, dmm=dmm)
    return Autopet5Summary(
        dice_auc=trapezoid_area(dice),
        dmm_auc=trapezoid_area(dmm),
        dice_final=dice[-1],
        dmm_final=dmm[-1],
    )


def _check_steps(expected: int, meaning: str, **scores: Sequence[float]) -> None:
    for name, values in scores.items():
        if len(values) != expected:
            raise UsageError(
                f"{name} must have {expected} values ({meaning}), got {len(values)}; "
                f"evaluate with {expected - 1} steps"
            )
