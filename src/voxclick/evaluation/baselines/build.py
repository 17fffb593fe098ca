"""From a name to a method on an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import GeometryError, UnsupportedImageError, UsageError
from voxclick.evaluation.baselines.baseline import Baseline
from voxclick.evaluation.baselines.best_threshold import BestThreshold
from voxclick.evaluation.baselines.names import BaselineName
from voxclick.evaluation.baselines.random_walker import RandomWalker
from voxclick.evaluation.baselines.thresholds import FixedThreshold, SuvMaxFraction
from voxclick.volume import Volume


def build_baseline(name: BaselineName, image: Volume, label: NDArray[np.bool_]) -> Baseline:
    """A simple method on one image; nothing is computed before the first call.

    Args:
        name: of the method.
        image: real voxels (i, j, k) of the file's own array; see `NEEDS_SUV` for their unit.
        label: the truth on the same grid, for the methods of `IS_ORACLE`; others do not look.

    Raises:
        GeometryError: image and label differ in shape.
        UnsupportedImageError: the image holds NaN or infinite voxels.
        UsageError: the label is not boolean.
    """
    if label.shape != image.voxels.shape:
        raise GeometryError(
            f"image and label must share a grid, got {image.voxels.shape} and {label.shape} voxels"
        )
    if label.dtype != np.bool_:
        raise UsageError(f"expected the boolean mask of one label, got {label.dtype}")
    if not np.isfinite(image.voxels).all():
        raise UnsupportedImageError(
            f"{image.path or 'the image'}: expected finite voxels, got NaN or infinite ones; "
            "read_volume fills them"
        )
    match name:
        case BaselineName.suvmax_41:
            return SuvMaxFraction(image, 0.41)
        case BaselineName.suvmax_50:
            return SuvMaxFraction(image, 0.50)
        case BaselineName.suv_2_5:
            return FixedThreshold(image, 2.5)
        case BaselineName.suv_4_0:
            return FixedThreshold(image, 4.0)
        case BaselineName.random_walker:
            return RandomWalker(image)
        case BaselineName.best_threshold:
            return BestThreshold(image, label)
