"""A scorer against the functions that it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voxclick.errors import GeometryError
from voxclick.evaluation.metrics import LabelScorer, MaskScores, Surface

MM = (1.0, 1.0, 1.0)


def test_by_hand():
    spacing = (2.0, 2.0, 2.5)
    found, missed, excess = np.zeros((3, 60, 20, 20), dtype=bool)
    found[5:7, 5:7, 5:7] = True
    missed[50, 10, 10] = True
    excess[30, 3:5, 3] = True
    scorer = LabelScorer(found | missed, spacing)
    assert scorer.lesion_count == 2
    scores = scorer.score(found | excess)
    found_mm2, missed_mm2, excess_mm2 = (
        Surface.of(mask, spacing).areas_mm2.sum() for mask in (found, missed, excess)
    )
    assert vars(scores) == pytest.approx(
        {
            "dice": 2 * 8 / (9 + 10),
            "nsd": 2 * found_mm2 / (2 * found_mm2 + missed_mm2 + excess_mm2),
            "fpv_ml": 0.02,
            "fnv_ml": 0.01,
            "lesion_recall": 0.5,
            "lesion_precision": 0.5,
            "dmm": 0.5,
        }
    )
    assert all(type(score) is float for score in vars(scores).values())


def test_empty_masks():
    empty, lesion = np.zeros((2, 8, 8, 8), dtype=bool)
    lesion[2:4, 2:4, 2:4] = True
    nan = math.nan
    expected = {
        "nothing there": (empty, empty, MaskScores(1, 1, 0, 0, nan, nan, nan)),
        "excess": (lesion, empty, MaskScores(0, 0, 0.008, 0, nan, 0, nan)),
        "missed": (empty, lesion, MaskScores(0, 0, 0, 0.008, 0, nan, 0)),
        "perfect": (lesion, lesion, MaskScores(1, 1, 0, 0, 1, 1, 1)),
    }
    for prediction, label, scores in expected.values():
        found = vars(LabelScorer(label, MM).score(prediction))
        assert found == pytest.approx(vars(scores), nan_ok=True)


def test_the_label_may_change_afterwards():
    label = np.zeros((8, 8, 8), dtype=bool)
    label[2:4, 2:4, 2:4] = True
    prediction = label.copy()
    scorer = LabelScorer(label, MM)
    label[...] = False
    assert scorer.score(prediction) == MaskScores(1, 1, 0, 0, 1, 1, 1)


def test_other_grids_are_refused():
    scorer = LabelScorer(np.ones((4, 4, 4), dtype=bool), MM)
    with pytest.raises(GeometryError, match="must share a grid"):
        scorer.score(np.ones((4, 4, 5), dtype=bool))
    with pytest.raises(GeometryError, match="must be a boolean array"):
        scorer.score(np.ones((4, 4, 4), dtype=np.uint8))  # pyright: ignore[reportArgumentType]
