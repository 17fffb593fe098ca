"""Scores by hand and against MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import DiceMetric

from voxclick.errors import GeometryError
from voxclick.evaluation.metrics import dice


def line(*values: int) -> np.ndarray:
    return np.array(values, bool)[:, None, None]


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        (line(1, 1, 0, 0), line(1, 1, 0, 0), 1.0),
        (line(1, 1, 0, 0), line(0, 1, 1, 0), 0.5),  # 2 * 1 / (2 + 2)
        (line(1, 0, 0, 0), line(1, 1, 1, 0), 0.5),  # 2 * 1 / (1 + 3)
        (line(1, 1, 0, 0), line(0, 0, 1, 1), 0.0),
        (line(0, 0, 0, 0), line(0, 0, 0, 0), 1.0),  # both empty
        (line(0, 1, 0, 0), line(0, 0, 0, 0), 0.0),  # label empty
        (line(0, 0, 0, 0), line(0, 1, 0, 0), 0.0),  # prediction empty
    ],
)
def test_dice_by_hand(prediction, label, expected):
    assert dice(prediction, label) == expected


@given(st.integers(0, 2**16), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_dice_equals_monai(seed, predicted_share, labelled_share):
    generator = np.random.default_rng(seed)
    prediction = generator.random((6, 5, 4)) < predicted_share
    label = generator.random((6, 5, 4)) < labelled_share
    metric = DiceMetric(ignore_empty=False)
    metric(torch.from_numpy(prediction)[None, None], torch.from_numpy(label)[None, None])
    expected = float(torch.as_tensor(metric.aggregate()))
    assert dice(prediction, label) == pytest.approx(expected, abs=1e-6)


def test_masks_of_different_grids_are_refused():
    with pytest.raises(GeometryError, match="must share a grid"):
        dice(line(1, 0), line(1, 0, 0))
