"""What every image format says before its voxels are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """The header of an image file, as it is written there, unchecked.

    Attributes:
        shape: all axes of the array, (i, j, k, frames ...), without a colour or vector axis.
        affine: 4 x 4, voxel index (i, j, k) to RAS+ patient mm.
        components: numbers per voxel: 1 for a scalar image, 3 for RGB.
        is_complex: whether the numbers are complex.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    components: int
    is_complex: bool
