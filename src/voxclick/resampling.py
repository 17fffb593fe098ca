"""Volumes brought onto another volume's grid, and arrays sampled between their voxels.

Positions come from the product of the affines, so that flipped, rotated and sheared grids are as
good as any. As in ITK's ``ResampleImageFilter``, a volume reaches half a voxel beyond the centres
of its outermost voxels, and has their values there.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import torch
from monai.networks.utils import to_norm_affine
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from voxclick.errors import GeometryError
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.memory_map import is_large, release, slabs, temporary_map
from voxclick.types import Index3
from voxclick.volume import LabelMap, Volume, VolumeGeometry

_DECIMALS = 10
"""Of the matrix between two grids: below this is only what inverting an affine loses, which must
not decide where a position lies midway between two voxels."""

_REVERSED = [2, 1, 0, 3]
"""Turns the rows or columns of an affine from (i, j, k) to (k, j, i)."""

_SLAB_VOXELS = 4 * 2**20
"""Resampled at once: it bounds the memory that is needed beside the two volumes."""


def resample_image(image: Volume, grid: VolumeGeometry) -> Volume:
    """An image on another grid, interpolated linearly.

    Returns:
        float32 voxels, in a temporary file where they are many (`voxclick.memory_map.is_large`);
        outside the image's field of view its smallest value.

    Raises:
        GeometryError: image and grid have no place in common.
    """
    _refuse_apart(image, grid)
    smallest = min(float(part.min()) for part in slabs(image.voxels))
    target = _empty(grid.shape, np.float32)
    _resample(image, grid, target, order=1, outside=smallest)
    return Volume(target, grid.affine, path=image.path)


def resample_label_map(label_map: LabelMap, grid: VolumeGeometry) -> LabelMap:
    """A label map on another grid: each voxel has the label of the nearest one.

    Returns:
        Voxels of the same dtype; background outside the label map.

    Raises:
        GeometryError: label map and grid have no place in common.
    """
    _refuse_apart(label_map, grid)
    target = np.empty(grid.shape[::-1], label_map.voxels.dtype).T
    _resample(label_map, grid, target, order=0, outside=0)
    return LabelMap(target, grid.affine, path=label_map.path, labels=label_map.labels)


def sample(
    values: Tensor,
    to_source: NDArray[np.float64],
    shape: Index3,
    beyond: Literal["border", "zeros"],
    part: Box | None = None,
) -> Tensor:
    """Values between the voxels of an array, interpolated linearly.

    This is what MONAI's `AffineTransform` does inside its `SpatialResample`, which itself leaves
    out what it takes for an identity within 0.001: on one block of many that would tear the image.

    Args:
        values: (channel, i, j, k).
        to_source: 4 x 4, voxel of the result to voxel of the array.
        shape: voxels of the result.
        beyond: what lies beyond the array's outermost voxels: their values, or zeros.
        part: of the result, which alone is worked out, to the same bits; None for all of it.
    """
    _, *source_shape = values.shape
    theta = torch.from_numpy(to_source).to(values)
    theta = to_norm_affine(theta[None], source_shape, shape)
    # PyTorch counts x, y, z from the last axis
    theta = theta[:, _REVERSED][:, :, _REVERSED]
    grid = affine_grid(theta[:, :3], [1, len(values), *shape], align_corners=False)
    if part is not None:
        grid = grid[(0, *part.to_slices())][None]
    return grid_sample(values.contiguous()[None], grid, padding_mode=beyond, align_corners=False)[0]


def grids_overlap(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Whether the voxels of two grids have a place in common; a common face is none.

    By the separating axis theorem: two convex bodies are apart exactly when they are so in the
    projection onto some normal of a face, or onto some cross product of an edge of each.
    """
    edges = [grid.affine[:3, :3].T for grid in (one, other)]
    pairs = (
        *(pair for three in edges for pair in itertools.combinations(three, 2)),
        *itertools.product(*edges),
    )
    corners, other_corners = _outer_corners_mm(one), _outer_corners_mm(other)
    for axis in (np.cross(a, b) for a, b in pairs):
        here, there = corners @ axis, other_corners @ axis
        # the product of parallel edges is 0 and tells nothing; their faces' normals do
        if axis.any() and (here.max() <= there.min() or there.max() <= here.min()):
            return False
    return True


def _outer_corners_mm(grid: VolumeGeometry) -> NDArray[np.float64]:
    """RAS+ mm of the corners of the corner voxels, shape (8, 3)."""
    corners = list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape)))
    return apply_affine(grid.affine, np.array(corners))


def _refuse_apart(volume: Volume, grid: VolumeGeometry) -> None:
    if not grids_overlap(volume.geometry, grid):
        raise GeometryError(
            f"{volume.path or 'the volume'} lies nowhere near the grid that it shall be resampled "
            f"to: its centre is at {_centre(volume.geometry)} mm, the grid's at {_centre(grid)} mm "
            "(RAS); are both of the same scan?"
        )


def _centre(grid: VolumeGeometry) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in grid.corners_mm.mean(axis=0)) + ")"


def _empty(shape: Index3, dtype: type[np.float32]) -> NDArray[np.float32]:
    """An array whose first axis runs fastest, as those of files do."""
    reversed_shape = shape[::-1]
    if is_large(shape):
        return temporary_map(reversed_shape, dtype).T
    return np.empty(reversed_shape, dtype).T


def _resample(
    volume: Volume,
    grid: VolumeGeometry,
    target: NDArray[np.generic],
    *,
    order: Literal[0, 1],
    outside: float,
) -> None:
    """Fill the target, slab by slab along its last axis.

    Args:
        order: of scipy's spline: 0 takes the nearest voxel, 1 interpolates linearly.
        outside: what is where the volume is not.
    """
    # scipy runs along the last axis, the arrays of files along the first: all is done in (k, j, i)
    sampling = (np.linalg.inv(volume.affine) @ grid.affine)[_REVERSED][:, _REVERSED]
    sampling = np.round(sampling, _DECIMALS)
    source, reversed_target = volume.voxels.T, target.T
    thickness = max(1, _SLAB_VOXELS // (grid.shape[0] * grid.shape[1]))
    for start in range(0, grid.shape[2], thickness):
        slab = reversed_target[start : start + thickness]
        from_slab = sampling.copy()
        from_slab[:3, 3] += start * sampling[:3, 0]
        affine_transform(
            source,
            from_slab,
            output_shape=slab.shape,
            output=slab,
            order=order,
            mode="nearest",
            prefilter=False,
        )
        np.copyto(slab, outside, where=_is_outside(slab.shape, from_slab, source.shape))
        release(volume.voxels)
        release(target)


def _is_outside(
    shape: tuple[int, ...], sampling: NDArray[np.float64], source_shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Which voxels of a block lie more than half a voxel beyond the source's outermost centres.

    Args:
        shape: of the block.
        sampling: 4 x 4, voxel of the block to voxel of the source.
        source_shape: of the source.
    """
    is_outside = np.zeros(shape, dtype=np.bool_)
    voxel = (*np.ogrid[tuple(slice(n) for n in shape)], 1.0)
    for row, n in zip(sampling[:3].tolist(), source_shape, strict=True):
        # without the zeros, a position that depends on one axis alone is worked out along it alone
        position = sum(step * x for step, x in zip(row, voxel, strict=True) if step)
        is_outside |= (position < -0.5) | (position > n - 0.5)
    return is_outside
