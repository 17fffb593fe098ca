"""Normalised surface Dice (NSD): how much of two surfaces lies near each other.

Defined as google-deepmind/surface-distance does (Nikolov et al., 2018, arXiv 1809.04430): a
surface is made of elements at the corners of voxels. Distances are looked up in a tree of
elements instead of in a distance transform, so that far-apart lesions in a whole body cost no
more than the same lesions side by side.

The surface of a single slice is its outline, of elements at the corners of pixels, as the same
package has it for masks of two axes: what lies before and behind the slice is not known, so that
it has no faces there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from numpy.typing import NDArray
from scipy.spatial import KDTree

from voxclick.errors import GeometryError, UsageError
from voxclick.evaluation.metrics.masks import (
    check_mask,
    check_same_grid,
    check_spacing,
    memory_order,
    occupied_boxes,
)
from voxclick.geometry.flat import flat_axis
from voxclick.types import Vector3

NSD_TOLERANCE_MM = 2.0
"""What the challenges take, and this project with them."""

_ALL_INSIDE = 0b11111111
"""Neighbour code of a corner with all of its eight voxels inside the mask."""

_TIE_SLACK = 1e-6
"""The tree looks this fraction beyond the tolerance: above the rounding of float64 positions, far
below the difference of two distances on a grid. What it finds is then measured exactly."""


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface elements of a mask: the voxel corners with both inside and outside around them.

    Attributes:
        corners: integers of shape (n, 3); corner (i, j, k) is where voxels (i - 1, j - 1, k - 1)
            to (i, j, k) meet. In a single slice, where its pixels meet.
        areas_mm2: float64 of shape (n,), by marching cubes; of a single slice, the length of its
            outline times its thickness.
        spacing_mm: of the mask's grid along (i, j, k).
    """

    corners: NDArray[np.intp]
    areas_mm2: NDArray[np.float64]
    spacing_mm: Vector3

    @staticmethod
    def of(mask: NDArray[np.bool_], spacing_mm: Vector3) -> Surface:
        """The surface of a mask; beyond the array everything is outside.

        Args:
            mask: boolean, shape (i, j, k). Without any voxel it has no elements. One voxel thick on
                exactly one axis, it is a single slice.
            spacing_mm: between voxel centres along (i, j, k).

        Raises:
            GeometryError: not a boolean array of three axes, or not a spacing.
        """
        check_mask(mask)
        check_spacing(spacing_mm)
        order, flat = memory_order(mask), flat_axis(mask.shape)
        corners = [np.empty((0, 3), dtype=np.intp)]
        codes = [np.empty(0, dtype=np.uint8)]
        for box in occupied_boxes(mask):
            code = _neighbour_codes(mask[box.to_slices()], order)
            if flat is not None:
                code = _of_outline(code, flat)
            # one comparison for both 0 and _ALL_INSIDE, as 0 - 1 wraps to the largest
            at = np.flatnonzero((code - np.uint8(1) < _ALL_INSIDE - 1).ravel(order))
            index = np.unravel_index(at, code.shape, order)
            corners.append(np.stack(index, axis=1) + box.start)
            codes.append(code.ravel(order)[at])
        areas_mm2 = _area_by_code(spacing_mm)[np.concatenate(codes)]
        return Surface(np.concatenate(corners), areas_mm2, spacing_mm)

    @cached_property
    def positions_mm(self) -> NDArray[np.float64]:
        """Corners in mm, shape (n, 3)."""
        return self.corners * np.asarray(self.spacing_mm, dtype=np.float64)

    @cached_property
    def tree(self) -> KDTree:
        """Of `positions_mm`."""
        # on a grid many coordinates are equal, which sliding midpoints split faster than medians
        return KDTree(self.positions_mm, balanced_tree=False, compact_nodes=False)


def normalised_surface_dice(
    prediction: NDArray[np.bool_],
    label: NDArray[np.bool_],
    spacing_mm: Vector3,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> float:
    """Share of both surfaces' area that lies within a tolerance of the other surface.

    The number is that of google-deepmind/surface-distance, except that masks which are both
    empty get 1.

    Args:
        prediction: boolean mask (i, j, k).
        label: boolean mask on the same grid.
        spacing_mm: between voxel centres along (i, j, k).
        tolerance_mm: elements exactly so far apart are within it.

    Returns:
        0 to 1; 1 when both are empty, 0 when only one is.

    Raises:
        GeometryError: the masks differ in shape or are not boolean, or not a spacing.
        UsageError: the tolerance is negative or not finite.
    """
    check_same_grid(prediction.shape, label.shape)
    return surface_dice(
        Surface.of(prediction, spacing_mm), Surface.of(label, spacing_mm), tolerance_mm
    )


def surface_dice(a: Surface, b: Surface, tolerance_mm: float = NSD_TOLERANCE_MM) -> float:
    """`normalised_surface_dice` of two surfaces of one grid; the same in both orders.

    Raises:
        GeometryError: the surfaces differ in spacing.
        UsageError: the tolerance is negative or not finite.
    """
    if tuple(a.spacing_mm) != tuple(b.spacing_mm):
        raise GeometryError(
            f"two surfaces must share a grid, got spacings {a.spacing_mm} and {b.spacing_mm} mm"
        )
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise UsageError(f"a tolerance must be 0 mm or more, got {tolerance_mm}")
    if len(a.corners) == 0 or len(b.corners) == 0:
        return 1.0 if len(a.corners) == len(b.corners) else 0.0
    within_mm2 = sum(
        float(one.areas_mm2[_is_within(one, other, tolerance_mm)].sum())
        for one, other in ((a, b), (b, a))
    )
    return within_mm2 / (float(a.areas_mm2.sum()) + float(b.areas_mm2.sum()))


def _neighbour_codes(mask: NDArray[np.bool_], order: Literal["C", "F"]) -> NDArray[np.uint8]:
    """For each corner of a mask's voxels a byte that says which of the eight around are inside.

    Returns:
        One corner more than voxels on each axis. The voxel of the lowest indices has the highest
        bit, and the last axis counts fastest, as MONAI's table of areas has it.
    """
    code = np.zeros([n + 2 for n in mask.shape], dtype=np.uint8, order=order)
    code[1:-1, 1:-1, 1:-1] = mask
    for axis, bits in ((2, np.uint8(1)), (1, np.uint8(2)), (0, np.uint8(4))):
        along = np.moveaxis(code, axis, 0)
        code = np.moveaxis((along[:-1] << bits) | along[1:], 0, axis)
    return code


def _of_outline(code: NDArray[np.uint8], flat: int) -> NDArray[np.uint8]:
    """The codes of a slice as if it went on before and behind: then it has no faces there.

    Args:
        code: of a mask one voxel thick on the flat axis, with a layer of corners before and one
            behind its voxels, each of which has the bits of four of them.
    """
    before, behind = (np.take(code, [layer], axis=flat) for layer in (0, 1))
    return before | behind


def _area_by_code(spacing_mm: Vector3) -> NDArray[np.float64]:
    """Area in mm² of the surface element of each of the 256 neighbour codes."""
    areas, _ = create_table_neighbour_code_to_surface_area(spacing_mm)
    return areas.numpy().astype(np.float64)


def _is_within(surface: Surface, other: Surface, tolerance_mm: float) -> NDArray[np.bool_]:
    """Which elements of a surface have an element of the other within the tolerance."""
    reach_mm = tolerance_mm + _TIE_SLACK * (tolerance_mm + min(surface.spacing_mm))
    _, nearest = other.tree.query(surface.positions_mm, distance_upper_bound=reach_mm)
    nearest = np.asarray(nearest, dtype=np.intp)
    found = np.flatnonzero(nearest < len(other.corners))  # where there is none, it is that number
    is_within = np.zeros(len(surface.corners), dtype=bool)
    is_within[found] = _distances_mm(surface, found, other, nearest[found]) <= tolerance_mm
    doubtful = found[~is_within[found]]
    if len(doubtful):
        # rounding puts the nearest beyond the tolerance, but perhaps not all that are as near
        near = other.tree.query_ball_point(surface.positions_mm[doubtful], reach_mm)
        elements = np.repeat(doubtful, [len(others) for others in near])
        others = np.concatenate(near).astype(np.intp)
        is_near = _distances_mm(surface, elements, other, others) <= tolerance_mm
        is_within[elements[is_near]] = True
    return is_within


def _distances_mm(
    surface: Surface, elements: NDArray[np.intp], other: Surface, others: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Distances of pairs of elements, rounded as scipy's exact distance transform rounds them."""
    steps = surface.corners[elements] - other.corners[others]
    return np.sqrt(((steps * np.asarray(surface.spacing_mm, dtype=np.float64)) ** 2).sum(axis=1))
