"""Paired differences of two models on the same cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from voxclick.errors import UsageError
from voxclick.evaluation.report.run_folder import EvaluatedRun

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05

MIN_DIFFERING_PAIRS = 6
"""With fewer, no two-sided p is below 0.05: the smallest of n pairs that differ is 2 / 2**n."""

_RESAMPLES = 9999
_RESAMPLES_AT_ONCE = 500
"""Bounds the memory; the result does not depend on it."""

_DECIMALS = 9
"""Scores are written with six decimals: what differs by less differs by the order of additions."""


class Moment(str, Enum):
    """When models are compared."""

    first = "first"
    """The first prediction."""

    last = "last"
    """The last step."""

    mean = "mean"
    """The mean over all steps, the first prediction included."""


class Untested(str, Enum):
    """Why there is no p."""

    too_few = "fewer than two pairs"
    no_difference = "no pair differs"


@dataclass(frozen=True)
class PairedDifference:
    """Two models in one score, over the cases where it is defined for both.

    Attributes:
        pairs: cases.
        mean_a: of the first model; NaN without pairs, as the next two.
        mean_b: of the second.
        difference: mean of the second minus the first.
        low: where the bootstrap interval of the difference begins; NaN for fewer than two pairs.
        high: where it ends.
        p_value: of the two-sided Wilcoxon signed-rank test; NaN if there is none.
        untested: why there is none.
        higher_in_a: pairs whose first value is higher.
        higher_in_b: pairs whose second value is higher.
    """

    pairs: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    untested: Untested | None
    higher_in_a: int
    higher_in_b: int

    @property
    def differing(self) -> int:
        """Pairs that differ: those that the test looks at."""
        return self.higher_in_a + self.higher_in_b

    @property
    def tells_apart(self) -> bool:
        """Whether p is below 0.05."""
        return self.p_value < SIGNIFICANCE


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        metric: name of the score.
        moment: when.
        result: of the comparison.
    """

    metric: str
    moment: Moment
    result: PairedDifference


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two evaluations, case by case.

    Attributes:
        runs: the first and the second, A and B.
        names: what they are called.
        cases: those that both have scores for, with lesions, in the order of A.
        lesion_free: those that both have scores for, without lesions.
        left_out: cases that only A, and only B, has scores for.
        table: a row per case, metric and moment: `case`, `empty_label`, `metric`, `moment`, `a`,
            `b`, `difference`; B minus A, NaN where one of them is undefined.
        differences: over the cases with lesions; empty if there are none.
        lesion_free_differences: over the others, of Dice and false-positive volume alone.
        seed: of the bootstrap.
    """

    runs: tuple[EvaluatedRun, EvaluatedRun]
    names: tuple[str, str]
    cases: tuple[str, ...]
    lesion_free: tuple[str, ...]
    left_out: tuple[tuple[str, ...], tuple[str, ...]]
    table: pd.DataFrame
    differences: tuple[Row, ...]
    lesion_free_differences: tuple[Row, ...]
    seed: int

    @property
    def steps(self) -> int:
        """Predictions after the first."""
        return self.runs[0].steps

    @property
    def main(self) -> PairedDifference:
        """Dice at the last step, with lesions if there are any: what is spoken of first."""
        rows = self.differences or self.lesion_free_differences
        last = Moment.last if self.steps else Moment.first
        return next(row.result for row in rows if (row.metric, row.moment) == ("dice", last))


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0
) -> PairedDifference:
    """Compare two models in one score.

    The interval is the bias-corrected and accelerated bootstrap interval of the mean difference
    (`scipy.stats.bootstrap`, 9999 resamples of the cases); where all differences are equal, it is
    that one value. The test is `scipy.stats.wilcoxon`, which leaves out pairs that do not differ.

    Args:
        a: of the first model, one value per case; NaN where undefined.
        b: of the second, same cases in the same order.
        seed: of the bootstrap.

    Raises:
        UsageError: not the same number of cases.
    """
    if a.shape != b.shape:
        raise UsageError(f"pairs need as many values on both sides, got {a.shape} and {b.shape}")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    differences = np.round(b - a, _DECIMALS)
    low, high = _interval(differences, seed)
    p_value, untested = _test(differences)
    return PairedDifference(
        pairs=len(differences),
        mean_a=_mean(a),
        mean_b=_mean(b),
        difference=_mean(differences),
        low=low,
        high=high,
        p_value=p_value,
        untested=untested,
        higher_in_a=int((differences < 0).sum()),
        higher_in_b=int((differences > 0).sum()),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _interval(differences: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if len(differences) < 2:
        return math.nan, math.nan
    if np.ptp(differences) == 0:  # resampling gives nothing else, and scipy a NaN with a warning
        return float(differences[0]), float(differences[0])
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        batch=_RESAMPLES_AT_ONCE,
        method="BCa",
        # scipy 1.15 calls it rng and takes the old name; earlier versions know the old one alone
        random_state=np.random.default_rng(seed),  # pyright: ignore[reportCallIssue]
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _test(differences: NDArray[np.float64]) -> tuple[float, Untested | None]:
    if len(differences) < 2:
        return math.nan, Untested.too_few
    if not differences.any():
        return math.nan, Untested.no_difference
    tested = stats.wilcoxon(differences)
    return float(tested.pvalue), None  # pyright: ignore[reportAttributeAccessIssue]
