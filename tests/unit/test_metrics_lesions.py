"""Scores by lesion, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voxclick.errors import GeometryError, UsageError
from voxclick.evaluation.metrics import (
    Lesions,
    detection_f1,
    false_negative_volume_ml,
    false_positive_volume_ml,
    lesion_precision,
    lesion_recall,
)

SPACING_MM = (2.0, 2.5, 3.0)  # 0.015 ml a voxel


def row(text: str) -> np.ndarray:
    """A mask of one row of voxels: `#` inside, `.` outside."""
    return np.array([character == "#" for character in text])[None, :, None]


class TestLesions:
    @pytest.mark.parametrize(
        ("second", "count"),
        [((3, 2, 2), 1), ((3, 3, 2), 1), ((3, 2, 3), 1), ((2, 1, 3), 1), ((3, 3, 3), 2)],
        ids=["face", "edge ij", "edge ik", "edge jk", "corner"],
    )
    def test_what_connects(self, second, count):
        mask = np.zeros((6, 6, 6), dtype=bool)
        mask[2, 2, 2] = mask[second] = True
        lesions = Lesions.of(mask)
        assert lesions.count == count
        assert sorted(lesions.sizes) == [1] * 2 if count == 2 else [2]
        assert lesions.voxel_count == 2

    def test_an_empty_mask_has_none(self):
        assert Lesions.of(np.zeros((4, 4, 4), dtype=bool)).count == 0

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_they_are_counted_over_all_boxes(self, order):
        mask = np.zeros((100, 40, 40), dtype=bool, order=order)
        mask[0, 0, 0] = mask[3, 3, 3] = True
        mask[60:62, 2:5, 30] = True
        mask[99, 39, 38:40] = True
        lesions = Lesions.of(mask)
        assert sorted(lesions.sizes.tolist()) == [1, 1, 2, 6]
        found = np.zeros(mask.shape, dtype=int)
        for box, numbers in zip(lesions.boxes, lesions.numbers, strict=True):
            found[box.to_slices()] = numbers
        assert np.array_equal(found > 0, mask)
        assert np.bincount(found.ravel())[1:].tolist() == lesions.sizes.tolist()


@pytest.mark.parametrize(
    ("prediction", "label", "fpv", "fnv", "recall", "precision", "f1"),
    [
        ("......", "......", 0, 0, math.nan, math.nan, math.nan),
        (".##..#", "......", 3, 0, math.nan, 0, math.nan),
        ("......", ".##..#", 0, 3, 0, math.nan, 0),
        (".##..#", ".##..#", 0, 0, 1, 1, 1),
        # a component with a single voxel in common is neither missed nor excess
        ("####...##", "...###...", 2, 0, 1, 0.5, 2 / 3),
        ("...###...", "####...##", 0, 2, 0.5, 1, 2 / 3),
        # two predictions in one lesion, and one over two: none is punished twice
        ("##.###", "######", 0, 0, 1, 1, 1),
        ("######", "##.###", 0, 0, 1, 1, 1),
        # 1 voxel of 10 is an IoU of 0.1 and detects; 1 of 11 is seen but does not
        ("#..........", "##########.", 0, 0, 1, 1, 1),
        ("#..........", "###########", 0, 0, 1, 1, 0),
    ],
)
def test_by_hand(prediction, label, fpv, fnv, recall, precision, f1):
    masks = row(prediction), row(label)
    assert false_positive_volume_ml(*masks, SPACING_MM) == pytest.approx(fpv * 0.015)
    assert false_negative_volume_ml(*masks, SPACING_MM) == pytest.approx(fnv * 0.015)
    assert lesion_recall(*masks) == pytest.approx(recall, nan_ok=True)
    assert lesion_precision(*masks) == pytest.approx(precision, nan_ok=True)
    assert detection_f1(*masks) == pytest.approx(f1, nan_ok=True)


def test_a_corner_does_not_make_one_lesion_of_two():
    label = np.zeros((5, 5, 5), dtype=bool)
    label[1, 1, 1] = label[2, 2, 2] = True
    prediction = np.zeros((5, 5, 5), dtype=bool)
    prediction[1, 1, 1] = True
    assert false_negative_volume_ml(prediction, label, SPACING_MM) == pytest.approx(0.015)
    assert lesion_recall(prediction, label) == 0.5
    label[1, 2, 2] = True  # now an edge joins them
    assert false_negative_volume_ml(prediction, label, SPACING_MM) == 0
    assert lesion_recall(prediction, label) == 1


def test_the_iou_to_reach_can_be_chosen():
    prediction, label = row("##........"), row("##########")
    assert detection_f1(prediction, label, min_iou=0.2) == 1
    assert detection_f1(prediction, label, min_iou=0.21) == 0
    assert detection_f1(row("##...##"), row("##....."), min_iou=0) == pytest.approx(2 / 3)


def test_bad_arguments_are_refused():
    mask = row("##")
    with pytest.raises(UsageError, match="between 0 and 1"):
        detection_f1(mask, mask, min_iou=10)
    with pytest.raises(GeometryError, match="must share a grid"):
        detection_f1(mask, row("###"))
    with pytest.raises(GeometryError, match="three positive lengths"):
        false_positive_volume_ml(mask, mask, (1.0, -1.0, 1.0))
