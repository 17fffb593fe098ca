"""Labels of the file's voxels from what the network answers on its own grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from voxclick.geometry.box import Box
from voxclick.preprocessing.regridding import Regridding
from voxclick.preprocessing.sampling import (
    blocks,
    blocks_touching,
    interpolate,
    window_under,
)
from voxclick.types import LabelTensor, MarginsTensor

_SLAB_VOXELS = 16
"""Of the first axis, that are labelled at once."""

_ROUNDING = 1e-6
"""Of a voxel: what the place of a voxel's centre may be off."""


@dataclass(frozen=True, eq=False)
class LabelPatch:
    """The labels in a box of an image file.

    Attributes:
        box: in voxels of the file.
        labels: uint8 label indices, in the file's axis order.
    """

    box: Box
    labels: NDArray[np.uint8]


ReadMargins: TypeAlias = Callable[[Box], MarginsTensor]
"""Gives the margins (foreground, i, j, k) in a box of the network's grid."""


def restore_labels(
    read: ReadMargins, grids: Regridding, changed: Sequence[Box] | None = None
) -> Iterator[LabelPatch]:
    """Label voxels of the file: linear interpolation of the margins, then the largest wins.

    Background is where no margin is positive; equal margins count as the label with the
    lower index. A voxel's label does not depend on which others are restored with it.

    Args:
        read: the margins in a box of the network's grid, on any device.
        grids: the file's and the network's.
        changed: boxes of the network's grid: only what depends on them (and a little around
            it) is read and restored. None for everything.

    Yields:
        Labels of boxes of the file that do not overlap.
    """
    parts = list(_parts_of_blocks(grids, changed))
    for _, row in itertools.groupby(parts, key=lambda part: part.block.start[0]):
        # what lies together in a row is read at once: what it shares is computed once
        in_row = list(row)
        for together in _filling(part.box for part in in_row):
            here = [part for part in in_row if together.contains(part.box.start)]
            under = Box.union(part.needed for part in here)
            assert under is not None  # no part is empty
            margins = read(under)
            if not grids.resamples:
                yield _patch(_labels_of(margins), together, grids)
                continue
            known = _Known.of(margins, under)
            for part in here:
                labels = known.label(part.box, part.needed, part.block, grids)
                yield _patch(labels, part.box, grids)


def restore_labels_inside(
    margins: MarginsTensor, box: Box, grids: Regridding, shown: NDArray[np.uint8]
) -> LabelPatch:
    """Label the file's voxels whose centres lie in one box, from what is known there alone.

    Args:
        margins: (foreground, i, j, k) in the box.
        box: of the network's grid.
        grids: the file's and the network's.
        shown: uint8 label indices of the whole file, which the other voxels of the patch keep.
    """
    if not grids.resamples:
        return _patch(_labels_of(margins), box, grids)
    known = _Known.of(margins, box)
    target = window_under(box, grids.oriented_from_network, grids.oriented.shape)
    labels = grids.orient(shown)[target.to_slices()].astype(np.uint8)
    for block in blocks(target):
        is_inside = _is_inside(block, box, grids)
        if is_inside.any():
            found = known.label(block, grids.needed_for(block).intersect(box), block, grids)
            np.copyto(labels[block.relative_to(target.start).to_slices()], found, where=is_inside)
    return _patch(labels, target, grids)


def label_of_margins(margins: MarginsTensor) -> LabelTensor:
    """uint8 label indices (i, j, k): the largest margin that is positive, else background."""
    if len(margins) == 1:
        return (margins[0] > 0).to(torch.uint8)
    best, label = margins.max(dim=0)
    return torch.where(best > 0, label + 1, 0).to(torch.uint8)


class _Part(NamedTuple):
    """What is to be labelled of a block of the oriented grid.

    Attributes:
        block: the whole of it.
        box: the part.
        needed: the network's voxels that the part is interpolated from.
    """

    block: Box
    box: Box
    needed: Box


@dataclass(frozen=True, eq=False)
class _Known:
    """Margins in a box of the network's grid.

    Attributes:
        margins: (foreground, i, j, k), on any device.
        box: where.
        is_positive: (i, j, k), whether any of them is. It comes over from the device once: asking
            about block after block would wait for it each time.
    """

    margins: MarginsTensor
    box: Box
    is_positive: NDArray[np.bool_]

    @staticmethod
    def of(margins: MarginsTensor, box: Box) -> _Known:
        margins = margins.detach()
        return _Known(margins, box, (margins > 0).any(dim=0).cpu().numpy())

    def label(self, part: Box, needed: Box, block: Box, grids: Regridding) -> NDArray[np.uint8]:
        """Labels of a part of a block, to the last bit as if the whole block had been labelled.

        The places between the network's voxels are rounded for a whole block and all that it
        needs; what is not needed for the part counts as zero. Interpolation stays between its
        inputs, so there is background where no positive margin is near.

        Args:
            part: of the block.
            needed: the network's voxels that it is interpolated from.
            block: of the oriented grid.
            grids: the file's and the network's.
        """
        labels = np.zeros(part.shape, dtype=np.uint8)
        there = needed.relative_to(self.box.start).to_slices()
        positive = Box.holding(self.is_positive[there])
        if positive is None:
            return labels
        near = grids.reached_from(positive.moved(needed.start)).intersect(part)
        if near.is_empty:
            return labels
        margins, whole = self.margins[(..., *there)], grids.needed_for(block)
        if needed != whole:
            filled = margins.new_zeros((len(margins), *whole.shape))
            filled[(..., *needed.relative_to(whole.start).to_slices())] = margins
            margins = filled
        sampling = grids.network_from_oriented
        between = interpolate(margins.double(), whole, block, sampling, near)
        found = label_of_margins(between).cpu().numpy()
        labels[near.relative_to(part.start).to_slices()] = found
        return labels


def _labels_of(margins: MarginsTensor) -> NDArray[np.uint8]:
    """Labels of the network's own voxels, slab by slab: indices of the largest are 64 bits wide."""
    labels = torch.empty(margins.shape[1:], dtype=torch.uint8, device=margins.device)
    for slab in Box.of_shape(labels.shape).slabs(_SLAB_VOXELS):
        here = slab.to_slices()
        labels[here] = label_of_margins(margins.detach()[(..., *here)])
    return labels.cpu().numpy()


def _parts_of_blocks(grids: Regridding, changed: Sequence[Box] | None) -> Iterator[_Part]:
    """What depends on boxes of the network's grid, block by block; None for all of it."""
    whole = Box.of_shape(grids.oriented.shape)
    reached = [whole]
    if changed is not None:
        reached = [grids.reached_from(box) for box in changed if not box.is_empty]
    around = Box.union(reached)
    if around is None:
        return
    for block in blocks_touching(around, grids.oriented.shape):
        box = Box.union(block.intersect(other) for other in reached)
        if box is not None:
            # rounding may put the corner of a part just outside its block's
            needed = grids.needed_for(box).intersect(grids.needed_for(block))
            yield _Part(block, box, needed)


def _patch(labels: NDArray[np.uint8], box: Box, grids: Regridding) -> LabelPatch:
    return LabelPatch(grids.box_to_file(box), grids.disorient(labels))


def _filling(boxes: Iterable[Box]) -> list[Box]:
    """Boxes, in the order of blocks, of which those that together fill a box are that box."""
    joined: list[Box] = []
    for box in boxes:
        joined.append(box)
        while len(joined) > 1 and (both := _filled_by(joined[-2], joined[-1])) is not None:
            joined[-2:] = [both]
    return joined


def _filled_by(a: Box, b: Box) -> Box | None:
    """The box that two boxes without a common voxel fill; None if it has others too."""
    both = Box.union((a, b))
    assert both is not None  # neither is empty
    return both if math.prod(both.shape) == math.prod(a.shape) + math.prod(b.shape) else None


def _is_inside(block: Box, box: Box, grids: Regridding) -> NDArray[np.bool_]:
    """Which voxels of a block of the oriented grid have their centre in a box of the network's.

    Those beyond the network's grid count as at its border, where interpolation puts them too.
    """
    is_inside = np.ones(block.shape, dtype=np.bool_)
    voxel = (*np.ogrid[block.to_slices()], 1.0)
    rows = grids.network_from_oriented[:3].tolist()
    for row, start, stop, n in zip(rows, box.start, box.stop, grids.network.shape, strict=True):
        # without the zeros, a position that depends on one axis alone is worked out along it alone
        position = sum(step * x for step, x in zip(row, voxel, strict=True) if step)
        position = np.clip(position, 0, n - 1)
        is_inside &= (position > start - _ROUNDING) & (position < stop - 1 + _ROUNDING)
    return is_inside
