"""Overlap of a predicted mask with a labelled one, on boolean arrays of one grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxclick.evaluation.metrics.masks import check_same_grid


def dice(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Dice coefficient 2 |P ∩ L| / (|P| + |L|).

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.

    Returns:
        0 to 1; 1 when both are empty, 0 when only the label is.

    Raises:
        GeometryError: the masks differ in shape.
    """
    check_same_grid(prediction.shape, label.shape)
    shared = np.count_nonzero(prediction & label)
    return dice_of_counts(
        int(np.count_nonzero(prediction)), int(np.count_nonzero(label)), int(shared)
    )


def dice_of_counts(predicted: int, labelled: int, shared: int) -> float:
    """`dice` of masks with so many voxels, of which so many are in both."""
    total = predicted + labelled
    return 2.0 * shared / total if total else 1.0


def iou(prediction: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Intersection over union |P ∩ L| / |P ∪ L|, the Jaccard index.

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.

    Returns:
        0 to 1; 1 when both are empty, 0 when only one is.

    Raises:
        GeometryError: the masks differ in shape.
    """
    check_same_grid(prediction.shape, label.shape)
    union = int(np.count_nonzero(prediction | label))
    return int(np.count_nonzero(prediction & label)) / union if union else 1.0
