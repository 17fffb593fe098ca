"""What lies around a click: boxes, distances, faces, components."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import cc3d
import numpy as np
from numpy.typing import NDArray

from voxclick.geometry.box import Box
from voxclick.types import Index3, Vector3

Face: TypeAlias = tuple[int | slice, int | slice, int | slice]
"""Picks one face of a box out of the box's array."""


def box_within(centre: Index3, reach_mm: float, spacing_mm: Vector3, shape: Sequence[int]) -> Box:
    """The box that holds all voxels of the volume up to `reach_mm` from the centre."""
    i, j, k = (math.ceil(reach_mm / step) for step in spacing_mm)
    return Box.around(centre, (i, j, k)).clip(shape)


def index_in(box: Box, voxel: Index3) -> Index3:
    """A voxel of the image, counted from the start of a box."""
    i, j, k = (x - a for x, a in zip(voxel, box.start, strict=True))
    return (i, j, k)


def squared_distance_mm(
    box: Box, points: Iterable[Index3], spacing_mm: Vector3
) -> NDArray[np.float32]:
    """From each voxel of the box to the nearest of the points, squared; infinite without any."""
    nearest = np.full(box.shape, np.inf, dtype=np.float32)
    for point in points:
        i, j, k = (
            (((np.arange(a, b) - p) * step) ** 2).astype(np.float32)
            for a, b, p, step in zip(box.start, box.stop, point, spacing_mm, strict=True)
        )
        np.minimum(nearest, i[:, None, None] + j[:, None] + k, out=nearest)
    return nearest


def inner_faces(box: Box, shape: Sequence[int]) -> Iterator[Face]:
    """The faces of a box beyond which the volume goes on."""
    for axis in range(3):
        before: tuple[slice, ...] = (slice(None),) * axis
        after: tuple[slice, ...] = (slice(None),) * (2 - axis)
        if box.start[axis] > 0:
            yield (*before, 0, *after)  # pyright: ignore[reportReturnType]
        if box.stop[axis] < shape[axis]:
            yield (*before, -1, *after)  # pyright: ignore[reportReturnType]


def components(mask: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
    """Numbers the 18-connected components from 1; 0 outside the mask.

    18 neighbours, as the scores of lesions count them: across faces and edges, not corners.
    """
    # not boolean: cc3d 4.1.1 then fails on some regions one voxel wide
    return cc3d.connected_components(mask.astype(np.uint8, order="C"), connectivity=18)
