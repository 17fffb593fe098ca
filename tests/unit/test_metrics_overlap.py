"""Dice and IoU by hand and against MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import DiceMetric, MeanIoU

from voxclick.errors import GeometryError
from voxclick.evaluation.metrics import dice, iou


def line(*values: int) -> np.ndarray:
    return np.array(values, bool)[:, None, None]


@pytest.mark.parametrize(
    ("prediction", "label", "expected_dice", "expected_iou"),
    [
        (line(1, 1, 0, 0), line(1, 1, 0, 0), 1.0, 1.0),
        (line(1, 1, 0, 0), line(0, 1, 1, 0), 0.5, 1 / 3),  # 2 * 1 / (2 + 2) and 1 / 3
        (line(1, 0, 0, 0), line(1, 1, 1, 0), 0.5, 1 / 3),  # 2 * 1 / (1 + 3) and 1 / 3
        (line(1, 1, 0, 0), line(0, 0, 1, 1), 0.0, 0.0),
        (line(0, 0, 0, 0), line(0, 0, 0, 0), 1.0, 1.0),  # both empty
        (line(0, 1, 0, 0), line(0, 0, 0, 0), 0.0, 0.0),  # label empty
        (line(0, 0, 0, 0), line(0, 1, 0, 0), 0.0, 0.0),  # prediction empty
    ],
)
def test_by_hand(prediction, label, expected_dice, expected_iou):
    assert dice(prediction, label) == expected_dice
    assert iou(prediction, label) == expected_iou


@pytest.mark.parametrize(
    ("score", "monai_metric"),
    [(dice, DiceMetric(ignore_empty=False)), (iou, MeanIoU(ignore_empty=False))],
)
@given(st.integers(0, 2**16), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_it_equals_monai(score, monai_metric, seed, predicted_share, labelled_share):
    generator = np.random.default_rng(seed)
    prediction = generator.random((6, 5, 4)) < predicted_share
    label = generator.random((6, 5, 4)) < labelled_share
    monai_metric.reset()
    monai_metric(torch.from_numpy(prediction)[None, None], torch.from_numpy(label)[None, None])
    expected = float(torch.as_tensor(monai_metric.aggregate()))
    assert score(prediction, label) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", [dice, iou])
def test_masks_of_different_grids_are_refused(score):
    with pytest.raises(GeometryError, match="must share a grid"):
        score(line(1, 0), line(1, 0, 0))
