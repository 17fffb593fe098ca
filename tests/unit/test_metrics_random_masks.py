"""All scores of masks against other implementations, on the same 200 pairs of random masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage

from voxclick.evaluation.metrics import (
    LabelScorer,
    detection_f1,
    dice,
    false_negative_volume_ml,
    false_positive_volume_ml,
    iou,
    lesion_precision,
    lesion_recall,
    masks,
    normalised_surface_dice,
)
from voxclick.types import Vector3

PAIRS = 200
SHAPE = (12, 10, 8)
SPACINGS_MM: list[Vector3] = [
    (1.0, 1.0, 1.0),
    (2.0, 2.0, 2.0),  # neighbours are exactly at the tolerance
    (2.0, 1.0, 0.5),
    (2.04, 2.04, 3.0),
    (1.2, 1.6, 0.7),  # 1.2 and 1.6 make 2
    (0.1, 0.3, 0.7),  # rounded, 6 steps of 0.1 are farther than 0.6 and 2 of 0.3 are not
]
TOLERANCE_MM = 2.0
FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)

Pair = tuple[NDArray[np.bool_], NDArray[np.bool_], Vector3]


def random_mask(generator: np.random.Generator) -> NDArray[np.bool_]:
    """Noise or blobs, hardly or nearly full, in either memory order."""
    values = generator.random(SHAPE)
    if generator.random() < 0.7:
        values = ndimage.gaussian_filter(values, generator.uniform(0.6, 2))
    share = generator.choice([0.01, 0.05, 0.2, 0.5, 0.9])
    mask = values > np.quantile(values, 1 - share)
    return np.asarray(mask, order=generator.choice(["C", "F"]))


def random_pair(seed: int) -> Pair:
    """Prediction, label and spacing; every other prediction is a label with errors."""
    generator = np.random.default_rng(seed)
    label = random_mask(generator)
    prediction = random_mask(generator)
    if seed % 2:
        prediction = ndimage.shift(label, generator.integers(-1, 2, 3), order=0) ^ (
            random_mask(generator) & random_mask(generator)
        )
    return prediction, label, SPACINGS_MM[seed % len(SPACINGS_MM)]


PAIRS_OF_MASKS = [random_pair(seed) for seed in range(PAIRS)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Sparse masks are then looked at in several boxes, which must not show in any score."""
    monkeypatch.setattr(masks, "_BLOCK_EDGE", 2)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_surface_dice_equals_the_published_implementation():
    compared = 0
    for prediction, label, spacing in PAIRS_OF_MASKS:
        if not prediction.any():
            continue  # the package is not made for numpy 2 there
        distances = surface_distance.compute_surface_distances(label, prediction, spacing)
        for tolerance in (TOLERANCE_MM, 1.0, 0.6, 0.0):
            expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
            score = normalised_surface_dice(prediction, label, spacing, tolerance)
            assert score == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared > PAIRS * 0.95


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("axis", range(3))
def test_surface_dice_of_a_slice_equals_the_published_one_of_its_outline(axis):
    compared = 0
    for prediction, label, spacing in PAIRS_OF_MASKS:
        slices = [mask.take(3, axis) for mask in (label, prediction)]
        if not all(mask.any() for mask in slices):
            continue
        in_plane = tuple(np.delete(spacing, axis).tolist())
        distances = surface_distance.compute_surface_distances(*slices, in_plane)
        for tolerance in (TOLERANCE_MM, 0.6):
            expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
            label_slice, predicted = (np.expand_dims(mask, axis) for mask in slices)
            score = normalised_surface_dice(predicted, label_slice, spacing, tolerance)
            assert score == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared > PAIRS * 0.7


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_dice_equals_monai():
    for prediction, label, spacing in PAIRS_OF_MASKS:
        if not prediction.any():
            continue  # MONAI warns of infinite distances
        expected = compute_surface_dice(
            torch.from_numpy(np.ascontiguousarray(prediction))[None, None],
            torch.from_numpy(np.ascontiguousarray(label))[None, None],
            class_thresholds=[TOLERANCE_MM],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        ).item()
        score = normalised_surface_dice(prediction, label, spacing)
        assert score == pytest.approx(expected, abs=1e-6)


def test_surface_dice_does_not_depend_on_which_mask_is_which():
    for prediction, label, spacing in PAIRS_OF_MASKS:
        there = normalised_surface_dice(prediction, label, spacing)
        back = normalised_surface_dice(label, prediction, spacing)
        assert there == pytest.approx(back, abs=1e-12)


def test_iou_follows_from_dice():
    for prediction, label, _ in PAIRS_OF_MASKS:
        overlap = dice(prediction, label)
        assert iou(prediction, label) == pytest.approx(overlap / (2 - overlap), abs=1e-9)


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    numbers, count = ndimage.label(mask, structure=FACES_AND_EDGES)
    return [numbers == number for number in range(1, count + 1)]


def untouched_ml(some: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Vector3) -> float:
    voxels = sum(part.sum() for part in components(some) if not (part & other).any())
    return voxels * spacing[0] * spacing[1] * spacing[2] / 1000


def touched_share(some: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    parts = components(some)
    return sum((part & other).any() for part in parts) / len(parts) if parts else math.nan


def matching_f1(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    predicted, labelled = components(prediction), components(label)
    found, right = set(), set()
    for (n, lesion), (m, part) in itertools.product(enumerate(labelled), enumerate(predicted)):
        if (lesion & part).sum() / (lesion | part).sum() >= 0.1:
            found.add(n)
            right.add(m)
    if not labelled:
        return math.nan
    if not found:
        return 0.0
    precision, recall = len(found) / (len(found) + len(predicted) - len(right)), len(found)
    recall /= len(labelled)
    return 2 * precision * recall / (precision + recall)


def test_scores_by_lesion_equal_loops_over_components():
    detected = []
    for prediction, label, spacing in PAIRS_OF_MASKS:
        assert false_positive_volume_ml(prediction, label, spacing) == pytest.approx(
            untouched_ml(prediction, label, spacing), abs=1e-9
        )
        assert false_negative_volume_ml(prediction, label, spacing) == pytest.approx(
            untouched_ml(label, prediction, spacing), abs=1e-9
        )
        expected = touched_share(label, prediction)
        assert lesion_recall(prediction, label) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        expected = touched_share(prediction, label)
        assert lesion_precision(prediction, label) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        expected = matching_f1(prediction, label)
        assert detection_f1(prediction, label) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        detected.append(expected)
    assert len(set(detected)) > 20  # the masks make all kinds of matches


def test_a_scorer_gives_exactly_what_the_functions_give():
    for prediction, label, spacing in PAIRS_OF_MASKS:
        scorer = LabelScorer(label, spacing)
        assert scorer.lesion_count == len(components(label))
        expected = {
            "dice": dice(prediction, label),
            "nsd": normalised_surface_dice(prediction, label, spacing),
            "fpv_ml": false_positive_volume_ml(prediction, label, spacing),
            "fnv_ml": false_negative_volume_ml(prediction, label, spacing),
            "lesion_recall": lesion_recall(prediction, label),
            "lesion_precision": lesion_precision(prediction, label),
            "dmm": detection_f1(prediction, label),
        }
        np.testing.assert_equal(vars(scorer.score(prediction)), expected)
