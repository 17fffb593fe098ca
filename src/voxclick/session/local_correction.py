"""Corrections that stay near their clicks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from voxclick.clicks import Click
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.preprocessing import LabelPatch
from voxclick.types import Index3
from voxclick.volume import VolumeGeometry


class LocalCorrection:
    """A mask that stands, save within a radius of the clicks.

    What comes out depends on the set of clicks alone: a voxel no farther than the radius from any
    click has the label of the prediction with all clicks, any other has the mask's.

    Args:
        mask: uint8 label indices in the image file's axis order.
        radius_mm: of the balls around the clicks.
        geometry: the image file's grid.
    """

    def __init__(self, mask: NDArray[np.uint8], radius_mm: float, geometry: VolumeGeometry) -> None:
        self.mask = mask
        self._radius_mm = radius_mm
        self._geometry = geometry
        # the extent of a ball along an index axis: the length of the inverse's row
        per_mm = np.linalg.norm(np.linalg.inv(geometry.affine[:3, :3]), axis=1)
        i, j, k = (math.ceil(radius_mm * step) for step in per_mm.tolist())
        self._reach: Index3 = (i, j, k)

    def ball_box(self, click: Click) -> Box:
        """The smallest box of the file that holds the ball around a click."""
        return Box.around(click.index, self._reach).clip(self._geometry.shape)

    def apply(self, patch: LabelPatch, clicks: Iterable[Click]) -> LabelPatch:
        """A patch of the prediction, with the mask where no click is near."""
        box = patch.box
        is_near = np.zeros(box.shape, dtype=np.bool_)
        for click in clicks:
            common = self.ball_box(click).intersect(box)
            if not common.is_empty:
                there = common.relative_to(box.start).to_slices()
                is_near[there] |= self._is_in_ball(common, click)
        return LabelPatch(box, np.where(is_near, patch.labels, self.mask[box.to_slices()]))

    def _is_in_ball(self, box: Box, click: Click) -> NDArray[np.bool_]:
        first = np.array(box.start) - np.array(click.index)
        offsets = np.moveaxis(np.indices(box.shape, dtype=np.float64), 0, -1) + first
        affine = self._geometry.affine.copy()
        affine[:3, 3] = 0.0
        return (apply_affine(affine, offsets) ** 2).sum(axis=-1) <= self._radius_mm**2
