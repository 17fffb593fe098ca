"""Scores by lesion: which connected components of a prediction and a label meet.

Components are 18-connected, as in the autoPET challenges: voxels that share a face or an edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from voxclick.errors import UsageError
from voxclick.evaluation.metrics.masks import (
    check_mask,
    check_same_grid,
    check_spacing,
    memory_order,
    occupied_boxes,
)
from voxclick.geometry.box import Box
from voxclick.types import Vector3

LESION_CONNECTIVITY = 18
"""Voxels connect through faces and edges, not through corners alone."""

MIN_DETECTION_IOU = 0.1
"""From this overlap on autoPET V takes a lesion as detected."""


@dataclass(frozen=True, eq=False)
class Lesions:
    """The connected components of a mask.

    Attributes:
        boxes: they hold all components, and no component is in two of them.
        numbers: for each box, which component its voxels belong to, from 1; 0 is outside of all.
        sizes: voxels of component 1, 2, …, shape (count,).
    """

    boxes: tuple[Box, ...]
    numbers: tuple[NDArray[np.uint32], ...]
    sizes: NDArray[np.intp]

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> Lesions:
        """The components of a mask; none where it is empty.

        Args:
            mask: boolean, shape (i, j, k), in any memory order.

        Raises:
            GeometryError: not a boolean array of three axes.
        """
        check_mask(mask)
        boxes, order = occupied_boxes(mask), memory_order(mask)
        numbers, sizes = [], [np.empty(0, dtype=np.intp)]
        count = 0
        for box in boxes:
            # not boolean: cc3d 4.1.1 fails on some boolean regions one voxel wide
            part = mask[box.to_slices()].astype(np.uint8, order=order)
            numbered, found = cc3d.connected_components(
                part, connectivity=LESION_CONNECTIVITY, return_N=True, out_dtype=np.uint32
            )
            sizes.append(np.bincount(numbered.ravel(order), minlength=found + 1)[1:])
            np.add(numbered, count, out=numbered, where=part.view(np.bool_))
            numbers.append(numbered)
            count += found
        return Lesions(tuple(boxes), tuple(numbers), np.concatenate(sizes))

    @property
    def count(self) -> int:
        """Components."""
        return len(self.sizes)

    @property
    def voxel_count(self) -> int:
        """Voxels of all components."""
        return int(self.sizes.sum())


@dataclass(frozen=True, eq=False)
class LesionPairs:
    """The components of a prediction and a label that share voxels, one pair an entry.

    Attributes:
        prediction: all components of the prediction.
        label: all components of the label.
        predicted: components of the prediction, from 0.
        labelled: components of the label, from 0.
        shared: voxels that the two of a pair have in common, at least 1.
    """

    prediction: Lesions
    label: Lesions
    predicted: NDArray[np.intp]
    labelled: NDArray[np.intp]
    shared: NDArray[np.intp]

    @staticmethod
    def of(prediction: Lesions, label: Lesions) -> LesionPairs:
        """Pair the components of two masks of one grid."""
        numbers = [np.empty(0, dtype=np.intp)]
        for one, other in _meeting_boxes(prediction.boxes, label.boxes):
            common = prediction.boxes[one].intersect(label.boxes[other])
            predicted = _crop(prediction, one, common)
            labelled = _crop(label, other, common)
            in_both = (predicted > 0) & (labelled > 0)
            numbers.append((labelled[in_both].astype(np.intp) - 1) * prediction.count)
            numbers[-1] += predicted[in_both].astype(np.intp) - 1
        # only pairs that occur: a table of all would be too large for noisy predictions
        pairs, shared = np.unique(np.concatenate(numbers), return_counts=True)
        labelled, predicted = np.divmod(pairs, max(prediction.count, 1))
        return LesionPairs(prediction, label, predicted, labelled, shared)

    def false_positive_volume_ml(self, spacing_mm: Vector3) -> float:
        """See the function of the same name."""
        return _untouched_volume_ml(self.prediction, self.predicted, spacing_mm)

    def false_negative_volume_ml(self, spacing_mm: Vector3) -> float:
        """See the function of the same name."""
        return _untouched_volume_ml(self.label, self.labelled, spacing_mm)

    def lesion_recall(self) -> float:
        """See the function of the same name."""
        return _touched_share(self.label, self.labelled)

    def lesion_precision(self) -> float:
        """See the function of the same name."""
        return _touched_share(self.prediction, self.predicted)

    def detection_f1(self, min_iou: float = MIN_DETECTION_IOU) -> float:
        """See the function of the same name."""
        if not 0 <= min_iou <= 1:
            raise UsageError(f"an IoU to reach must be between 0 and 1, got {min_iou}")
        if self.label.count == 0:
            return math.nan
        union = self.prediction.sizes[self.predicted] + self.label.sizes[self.labelled]
        is_match = self.shared / (union - self.shared) >= min_iou
        true_positives = len(np.unique(self.labelled[is_match]))
        false_negatives = self.label.count - true_positives
        false_positives = self.prediction.count - len(np.unique(self.predicted[is_match]))
        return 2 * true_positives / (2 * true_positives + false_positives + false_negatives)


def false_positive_volume_ml(
    prediction: NDArray[np.bool_], label: NDArray[np.bool_], spacing_mm: Vector3
) -> float:
    """Volume of the predicted components without any voxel of the label (FPV of autoPET).

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.
        spacing_mm: between voxel centres along (i, j, k).

    Returns:
        In ml, a voxel being the product of the spacings; 0 where there is no such component.

    Raises:
        GeometryError: the masks differ in shape or are not boolean, or not a spacing.
    """
    return _pairs(prediction, label).false_positive_volume_ml(spacing_mm)


def false_negative_volume_ml(
    prediction: NDArray[np.bool_], label: NDArray[np.bool_], spacing_mm: Vector3
) -> float:
    """Volume of the label's components without any predicted voxel (FNV of autoPET).

    Arguments, unit and exceptions as of `false_positive_volume_ml`. 0 where there is no such
    component, also when the label is empty.
    """
    return _pairs(prediction, label).false_negative_volume_ml(spacing_mm)


def lesion_recall(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Share of the label's components with at least one predicted voxel.

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.

    Returns:
        0 to 1; NaN when the label is empty.

    Raises:
        GeometryError: the masks differ in shape or are not boolean.
    """
    return _pairs(prediction, label).lesion_recall()


def lesion_precision(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Share of the predicted components with at least one voxel of the label.

    Arguments and exceptions as of `lesion_recall`; NaN when the prediction is empty.
    """
    return _pairs(prediction, label).lesion_precision()


def detection_f1(
    prediction: NDArray[np.bool_], label: NDArray[np.bool_], min_iou: float = MIN_DETECTION_IOU
) -> float:
    """F1 of lesion detection, the detection-matching metric (DMM) of autoPET V.

    A component of the label and one of the prediction match when their IoU is at least `min_iou`.
    True positives are the label's components with a match, false negatives its others, false
    positives the predicted components without a match. One component may match several: that is
    not punished.

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.
        min_iou: 0 to 1; with 0 any common voxel makes a match.

    Returns:
        2 TP / (2 TP + FP + FN), 0 without a true positive; NaN when the label is empty.

    Raises:
        GeometryError: the masks differ in shape or are not boolean.
        UsageError: `min_iou` is outside 0 to 1.
    """
    return _pairs(prediction, label).detection_f1(min_iou)


def _pairs(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> LesionPairs:
    check_same_grid(prediction.shape, label.shape)
    return LesionPairs.of(Lesions.of(prediction), Lesions.of(label))


def _meeting_boxes(some: Sequence[Box], others: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """Positions of the boxes that have voxels in common."""
    if not some or not others:
        return
    starts, stops = (np.array([getattr(box, end) for box in some]) for end in ("start", "stop"))
    for position, other in enumerate(others):
        meets = ((starts < other.stop) & (stops > other.start)).all(axis=1)
        yield from ((int(one), position) for one in np.flatnonzero(meets))


def _crop(lesions: Lesions, position: int, box: Box) -> NDArray[np.uint32]:
    """Numbers inside a box that lies within the lesions' box at this position."""
    return lesions.numbers[position][box.relative_to(lesions.boxes[position].start).to_slices()]


def _is_touched(lesions: Lesions, paired: NDArray[np.intp]) -> NDArray[np.bool_]:
    """For each component, whether its number is among those paired."""
    return np.bincount(paired, minlength=lesions.count) > 0


def _untouched_volume_ml(lesions: Lesions, paired: NDArray[np.intp], spacing_mm: Vector3) -> float:
    check_spacing(spacing_mm)
    voxels = int(lesions.sizes[~_is_touched(lesions, paired)].sum())
    return voxels * math.prod(spacing_mm) / 1000


def _touched_share(lesions: Lesions, paired: NDArray[np.intp]) -> float:
    if lesions.count == 0:
        return math.nan
    return int(_is_touched(lesions, paired).sum()) / lesions.count
