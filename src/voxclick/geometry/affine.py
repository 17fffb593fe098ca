"""Affines: 4 x 4 matrices from voxel index (i, j, k) to patient millimetres.

Inside voxclick patient space is RAS+ (x to the right, y to the front, z to the head), the
convention of NIfTI. LPS, the convention of DICOM and ITK, exists only where files and foreign
protocols are read and written; `flip_ras_lps` converts in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import GeometryError
from voxclick.types import Vector3

AFFINE_TOLERANCE_MM = 1e-2
"""Two grids count as one when every corner voxel agrees to this many millimetres: far below a
voxel, and above what NIfTI's float32 quaternions lose on a 1 m volume."""


def as_affine(matrix: NDArray[np.floating] | Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Check a matrix and return it as a read-only 4 x 4 float64 affine.

    Raises:
        GeometryError: not 4 x 4, not finite, last row not (0, 0, 0, 1), or not invertible.
    """
    affine = np.array(matrix, dtype=np.float64)
    if affine.shape != (4, 4):
        raise GeometryError(f"an affine must be 4 x 4, got shape {affine.shape}")
    if not np.isfinite(affine).all():
        raise GeometryError("an affine must be finite, got NaN or infinite entries")
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GeometryError(f"an affine must end in the row 0 0 0 1, got {affine[3].tolist()}")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise GeometryError("an affine must be invertible, but its axes are linearly dependent")
    affine.setflags(write=False)
    return affine


def spacing_of(affine: NDArray[np.float64]) -> Vector3:
    """Distance in mm between neighbouring voxels along i, j and k."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return (i, j, k)


def is_sheared(affine: NDArray[np.float64], tolerance: float = 1e-3) -> bool:
    """Whether the voxel axes are not at right angles (cosine above ``tolerance``)."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > tolerance)


def apply_affine(affine: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map points of shape (..., 3) through a 4 x 4 affine."""
    return np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def flip_ras_lps(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same affine with RAS+ patient axes turned into LPS+ ones, or back."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
