"""One grid sampled at the voxels of another, a block at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.resampling import sample
from voxclick.types import Index3

_BLOCK_VOXELS = 64
"""Edge of the cubes that are resampled one by one: it bounds memory, and restoring passes over the
cubes that hold background alone."""


def blocks(box: Box) -> Iterator[Box]:
    """The cubes that a grid is cut into, as far as they lie in a box of it."""
    edge = _BLOCK_VOXELS
    starts = (range(a // edge * edge, b, edge) for a, b in zip(box.start, box.stop, strict=True))
    for i, j, k in itertools.product(*starts):
        yield Box((i, j, k), (i + edge, j + edge, k + edge)).intersect(box)


def blocks_touching(box: Box, shape: Index3) -> Iterator[Box]:
    """Those cubes of a grid of this shape, whole, that share voxels with a box of it."""
    edge = _BLOCK_VOXELS
    (i, j, k), (m, n, o) = box.start, box.stop
    first = (i // edge * edge, j // edge * edge, k // edge * edge)
    last = (-(-m // edge) * edge, -(-n // edge) * edge, -(-o // edge) * edge)
    return blocks(Box(first, last).clip(shape))


def window_under(block: Box, sampling: NDArray[np.float64], shape: Index3) -> Box:
    """The source voxels that a block of the target interpolates between.

    Args:
        block: voxels of the target.
        sampling: 4 x 4, voxel of the target to voxel of the source.
        shape: of the source.
    """
    ends = [(a, b - 1) for a, b in zip(block.start, block.stop, strict=True)]
    corners = apply_affine(sampling, np.array(list(itertools.product(*ends))))
    last = np.array(shape) - 1
    # one voxel more on each side, as rounding may move a position across a voxel's centre
    i, j, k = np.clip(np.floor(corners.min(axis=0)) - 1, 0, last).astype(int).tolist()
    m, n, o = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, last).astype(int).tolist()
    return Box((i, j, k), (m + 1, n + 1, o + 1))


def interpolate(
    values: Tensor,
    window: Box,
    block: Box,
    sampling: NDArray[np.float64],
    part: Box | None = None,
) -> Tensor:
    """Sample (channel, i, j, k) values of a source window, linearly, at a target block's voxels.

    Args:
        values: of the window.
        window: voxels of the source.
        block: voxels of the target, for which places in the window are rounded.
        sampling: 4 x 4, voxel of the target to voxel of the source.
        part: of the block, if not all of it is wanted.
    """
    to_window, from_block = np.eye(4), np.eye(4)
    to_window[:3, 3] = np.negative(window.start)
    from_block[:3, 3] = block.start
    in_block = None if part is None else part.relative_to(block.start)
    return sample(values, to_window @ sampling @ from_block, block.shape, "border", in_block)
