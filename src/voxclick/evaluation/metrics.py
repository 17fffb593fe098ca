"""Scores of a predicted mask against a labelled one, on boolean arrays of one grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import GeometryError


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
    if prediction.shape != label.shape:
        raise GeometryError(
            f"prediction and label must share a grid, got {prediction.shape} and {label.shape} "
            "voxels"
        )
    total = np.count_nonzero(prediction) + np.count_nonzero(label)
    if total == 0:
        return 1.0
    return 2.0 * np.count_nonzero(prediction & label) / total
