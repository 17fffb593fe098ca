"""What all scores ask of masks: one grid, a real spacing, and where there is something at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxclick.errors import GeometryError
from voxclick.geometry.box import Box
from voxclick.types import Vector3

_BLOCK_EDGE = 16
"""Voxels. Smaller blocks fit lesions more closely, larger ones make fewer boxes."""


def check_same_grid(prediction: Sequence[int], label: Sequence[int]) -> None:
    """Raises:
    GeometryError: the shapes of the two masks differ.
    """
    if tuple(prediction) != tuple(label):
        raise GeometryError(
            f"prediction and label must share a grid, got {prediction} and {label} voxels"
        )


def check_mask(mask: NDArray[np.bool_]) -> None:
    """Raises:
    GeometryError: not a boolean array of three axes.
    """
    if mask.dtype != np.bool_ or mask.ndim != 3:
        raise GeometryError(
            f"a mask must be a boolean array of axes (i, j, k), got {mask.dtype} of shape "
            f"{mask.shape}; compare a label map with one label first"
        )


def check_spacing(spacing_mm: Vector3) -> None:
    """Raises:
    GeometryError: not three positive lengths.
    """
    if len(spacing_mm) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise GeometryError(f"a spacing must be three positive lengths in mm, got {spacing_mm}")


def occupied_boxes(mask: NDArray[np.bool_]) -> list[Box]:
    """Boxes that hold all of a mask, so that lesions far apart cost only their surroundings.

    Args:
        mask: boolean, shape (i, j, k), in any memory order.

    Returns:
        Boxes at least one block of voxels apart: nothing inside one touches anything outside it.
        None for an empty mask.
    """
    if not mask.any():
        return []
    occupied = _occupied_blocks(mask)
    while True:
        numbers, _ = ndimage.label(occupied, structure=np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        boxes = ndimage.find_objects(numbers)
        filled = np.zeros_like(occupied)
        for box in boxes:
            filled[box] = True
        if np.array_equal(filled, occupied):
            return [_voxels_of_blocks(box).clip(mask.shape) for box in boxes]
        # a box may reach into another component: then both become one
        occupied = filled


def memory_order(mask: NDArray[np.bool_]) -> Literal["C", "F"]:
    """The order in which to read a mask: in the other one a whole body takes ten times longer."""
    return "F" if mask.flags.f_contiguous else "C"


def _occupied_blocks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which blocks of the grid hold a voxel of the mask."""
    is_reversed = memory_order(mask) == "F"
    # the axis that is slowest in memory first: what is left for the others is small
    blocks = mask.T if is_reversed else mask
    for axis in range(3):
        layers = np.moveaxis(blocks, axis, 0)
        starts = range(0, len(layers), _BLOCK_EDGE)
        slabs = [layers[start : start + _BLOCK_EDGE].any(axis=0) for start in starts]
        blocks = np.stack(slabs, axis=axis)
    return blocks.T if is_reversed else blocks


def _voxels_of_blocks(blocks: tuple[slice, ...]) -> Box:
    i, j, k = blocks
    start = (i.start * _BLOCK_EDGE, j.start * _BLOCK_EDGE, k.start * _BLOCK_EDGE)
    return Box(start, (i.stop * _BLOCK_EDGE, j.stop * _BLOCK_EDGE, k.stop * _BLOCK_EDGE))
