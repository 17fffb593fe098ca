"""Curves by hand, and by what the challenges' scripts compute."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import cumulative_trapezoid

from voxclick.errors import UsageError
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
    trapezoid_area,
)

NAN = math.nan


class TestNumberOfClicks:
    @pytest.mark.parametrize(
        ("scores", "clicks", "failed"),
        [
            ([0.9, 0.95], 1, False),
            ([0.5, 0.85, 0.7, 0.9], 2, False),  # the first time counts, equal is enough
            ([0.5, 0.6], 4, True),
            ([0.1, 0.2, 0.3, 0.85], 4, False),  # the last click is no failure
            ([NAN, NAN], 4, True),
            ([], 4, True),
        ],
    )
    def test_by_hand(self, scores, clicks, failed):
        assert number_of_clicks(scores, 0.85, budget=4) == clicks
        assert is_failure(scores, 0.85) == failed

    @given(st.lists(st.floats(0, 1), min_size=20, max_size=20), st.sampled_from([0.8, 0.85, 0.9]))
    def test_as_counted_on_arrays(self, scores, quality):
        reached = np.flatnonzero(np.array(scores) >= quality)
        expected = reached[0] + 1 if len(reached) else 20
        assert number_of_clicks(scores, quality, budget=20) == expected

    def test_what_comes_after_the_budget_does_not_count(self):
        assert number_of_clicks([0.1, 0.2, 0.3, 0.9], 0.85, budget=2) == 2

    def test_no_budget_is_refused(self):
        with pytest.raises(UsageError, match="at least one click"):
            number_of_clicks([0.5], 0.8, budget=0)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.2, 0.15, 0.3], 0.75),  # one fall in four
        ([0.5, 0.4], 0.0),
        ([0.5], NAN),
        ([], NAN),
        ([NAN, 0.5, 0.6], 1.0),
        ([NAN, NAN], NAN),
    ],
)
def test_consistent_improvement(scores, expected):
    assert consistent_improvement(scores) == pytest.approx(expected, nan_ok=True)


def test_mean_over_steps():
    assert mean_over_steps([0.2, 0.4, 0.9]) == pytest.approx(0.5)
    assert math.isnan(mean_over_steps([]))
    assert math.isnan(mean_over_steps([0.5, NAN]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_trapezoid_area_is_the_challenges(scores):
    expected = cumulative_trapezoid(scores, np.arange(len(scores)))[-1]
    assert trapezoid_area(scores) == pytest.approx(expected, abs=1e-12)


def test_a_lone_score_has_no_area():
    assert trapezoid_area([0.7]) == 0
    assert trapezoid_area([]) == 0


class TestCvpr2025:
    def test_the_box_step_is_left_out(self):
        dsc = [0.1, 0.5, 0.6, 0.7, 0.8, 0.9]
        nsd = [0.9, 0.4, 0.5, 0.6, 0.7, 1.0]
        summary = cvpr2025_summary(dsc, nsd)
        # (d1 + d5) / 2 + d2 + d3 + d4
        assert summary.dsc_auc == pytest.approx((0.5 + 0.9) / 2 + 0.6 + 0.7 + 0.8)
        assert summary.nsd_auc == pytest.approx((0.4 + 1.0) / 2 + 0.5 + 0.6 + 0.7)
        assert (summary.dsc_final, summary.nsd_final) == (0.9, 1.0)

    def test_surface_dice_counts_only_above_a_dice_of_02(self):
        summary = cvpr2025_summary([0, 0.2, 0.21, 0.5, 0.1, 0.2], [0, 0.5, 0.6, 0.7, 0.8, 0.9])
        assert summary.nsd_auc == pytest.approx(0.6 + 0.7)
        assert summary.nsd_final == 0
        assert summary.dsc_final == 0.2

    def test_perfect(self):
        assert cvpr2025_summary([0] + [1.0] * 5, [0] + [1.0] * 5) == Cvpr2025Summary(4, 4, 1, 1)


class TestAutopet4:
    def test_by_hand(self):
        dsc = [n / 10 for n in range(11)]
        fpv_ml = [4.0] * 11
        fnv_ml = [2.0] + [0.0] * 9 + [1.0]
        summary = autopet4_summary(dsc, fpv_ml, fnv_ml)
        expected = Autopet4Summary(5.0, 40.0, 1.5, 1.0, 4.0, 1.0)
        assert vars(summary) == pytest.approx(vars(expected))

    def test_perfect_is_ten(self):
        assert autopet4_summary([1.0] * 11, [0.0] * 11, [0.0] * 11).dsc_auc == 10

    def test_without_lesions_only_false_positives_count(self):
        summary = autopet4_summary([1.0] * 11, [0.5] * 11, [0.0] * 11, empty_label=True)
        expected = Autopet4Summary(NAN, 5.0, NAN, NAN, 0.5, NAN)
        assert vars(summary) == pytest.approx(vars(expected), nan_ok=True)


class TestAutopet5:
    def test_by_hand(self):
        summary = autopet5_summary([0.6, 0.8, 0.8, 0.8, 0.8, 1.0], [0, 0, 0, 0.5, 0.5, 0.5])
        expected = Autopet5Summary(0.8 + 4 * 0.8, 1.25, 1.0, 0.5)
        assert vars(summary) == pytest.approx(vars(expected))

    def test_published_curve(self):
        # the Dice per step and the AUC-Dice that the same open entry reports for 100 cases
        dice = [0.664, 0.818, 0.840, 0.855, 0.863, 0.867]
        assert autopet5_summary(dice, dice).dice_auc == pytest.approx(4.142, abs=0.001)

    def test_without_lesions_dice_counts_and_detection_does_not(self):
        summary = autopet5_summary([0.0, 1, 1, 1, 1, 1], [NAN] * 6)
        expected = Autopet5Summary(4.5, NAN, 1.0, NAN)
        assert vars(summary) == pytest.approx(vars(expected), nan_ok=True)


@pytest.mark.parametrize(
    ("summarise", "curves", "expected"),
    [(cvpr2025_summary, 2, 6), (autopet4_summary, 3, 11), (autopet5_summary, 2, 6)],
)
def test_curves_of_another_length_are_refused(summarise, curves, expected):
    with pytest.raises(UsageError, match=f"must have {expected} values .* got {expected - 1}"):
        summarise(*[[0.5] * expected] * (curves - 1), [0.5] * (expected - 1))
