"""Where the network hesitates: places to click next, and how much of a volume they make up.

Probabilities are the softmax of (0, margins), on the network's grid, with the clicks that the
margins were made with. A mask that a session started from, and a radius that holds corrections
back, play no part: it is always the model's own answer that is doubted.

The uncertainty of a voxel is 1 - (p1 - p2), with p1 and p2 its two largest probabilities (margin
sampling: Scheffer, Decomain and Wrobel, IDA 2001; Settles, Active Learning Literature Survey, 2009,
section 3.1). It is 1 wherever two labels are level and asks about those two, which are what a
viewer can show; the entropy of the same place would fall with every label that the model has
besides, and no threshold would mean the same for two models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from voxclick.clicks import Click
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import distance_to_border, flat_axis
from voxclick.guidance import GuidanceEncoder
from voxclick.preprocessing import PreparedImage, ReadMargins
from voxclick.types import Index3, MarginsTensor, Vector3
from voxclick.volume import VolumeGeometry

UNCERTAIN_FROM = 0.1
"""A voxel is uncertain from here on: with two labels, where the less probable has 5 % or more. It
decides what is connected, hardly what comes first: the sum of the uncertainty does."""

FLOOR_ML = 1.0
"""Added to the foreground that the expected wrong volume is compared with. Where nothing is found,
all of the little foreground that is expected is doubted too: without the millilitre each such scan
would be as uncertain as can be, whether that little is a lesion or the background's rounding."""

_LEVELS = 255
"""Steps that uncertainty is kept in. What lies within one of them is equally uncertain, and depth
decides: finer differences are noise, and a byte per voxel is a quarter of a float."""

_SLAB_VALUES = 2**22
"""Margins that are read at once; a few times as many floats exist beside them."""

_COUNTED_VOXELS = 2**22
"""Voxels whose components are summed at once, as this takes 16 bytes each."""

_TIE_MM = 1e-4
"""Depths this close are equal: above the rounding of float32 distances, far below a voxel."""

_TIE_VOXELS = 1e-3
"""A voxel this far beyond the border of a coarser one still counts as in it, for rounding may put
it there."""


@dataclass(frozen=True)
class Proposal:
    """A place that is worth a click.

    Attributes:
        index: voxel (i, j, k) of the image file's own array.
        position_mm: of that voxel's centre, RAS+.
        predicted: the label that is most probable there.
        alternative: the label that comes next.
        uncertainty: 1 - (p1 - p2) of the two, from `UNCERTAIN_FROM` to 1.
        volume_ml: of the connected uncertain region that the place stands for.
    """

    index: Index3
    position_mm: Vector3
    predicted: str
    alternative: str
    uncertainty: float
    volume_ml: float


@dataclass(frozen=True)
class Survey:
    """What a session knows of its own doubts.

    Attributes:
        uncertainty: of the whole volume, see `UncertaintyMap.uncertainty`.
        foreground_ml: predicted as any foreground label, on the network's grid.
        places: how many connected uncertain regions there are.
        proposals: the foremost of them.
    """

    uncertainty: float
    foreground_ml: float
    places: int
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, eq=False)
class UncertaintyMap:
    """The uncertainty of one volume.

    Attributes:
        levels: uint8 (i, j, k) on the network's grid: the uncertainty in 255ths where it is
            `UNCERTAIN_FROM` or more, else 0.
        wrong_ml: expected volume of wrong voxels, the sum of 1 - p1 over all voxels.
        expected_ml: expected volume of the foreground, the sum of 1 - p(background).
        predicted_ml: volume in which a foreground label is the most probable.
    """

    levels: NDArray[np.uint8]
    wrong_ml: float
    expected_ml: float
    predicted_ml: float

    @property
    def uncertainty(self) -> float:
        """Expected wrong volume as a share of the expected foreground and 1 ml.

        A share, so that a large tumour with a soft border does not come before a small one that
        is all doubt; Dice compares the same way. All voxels count, not only the uncertain ones:
        what a network misses it often finds improbable, and then that little is most of what it
        expects. From 0 (sure of every voxel, whether it found something or not) to below 1 (no
        voxel is more probably foreground, though many might be). Where nothing is found, it grows
        with the foreground that might be there: 0.09 for 0.1 ml, 0.5 for 1 ml, 0.91 for 10 ml.
        """
        return self.wrong_ml / (self.expected_ml + FLOOR_ML)


def survey(
    read: ReadMargins,
    prepared: PreparedImage,
    labels: tuple[str, ...],
    spoken: Iterable[tuple[Box, NDArray[np.bool_]]] = (),
    count: int = 5,
) -> Survey:
    """Look through a volume for places to click.

    Uncertain voxels that touch (26 neighbours) are one place. Places are ranked by the sum of
    their uncertainty in ml, which with two labels is twice their expected wrong volume. A place is
    shown where it is most uncertain, among equals where it is deepest in mm, and in the middle of
    what that leaves.

    Args:
        read: the margins in a box of the network's grid.
        prepared: the image that they belong to.
        labels: names by index, background first.
        spoken: masks of boxes where nothing shall be proposed, from `spoken_for`; the voxels
            count as certain, save in the uncertainty of the whole volume.
        count: of proposals, at most.
    """
    mapped = map_uncertainty(read, prepared.geometry, len(labels) - 1)
    for box, mask in spoken:
        mapped.levels[box.to_slices()][mask] = 0
    places = _Places.of(mapped.levels)
    proposals: dict[Index3, Proposal] = {}
    for number in places.ranked.tolist():
        if len(proposals) == count:
            break
        proposed = _proposal(places, number, read, prepared, labels)
        # two places of a fine grid may lie in one voxel of a coarse file
        proposals.setdefault(proposed.index, proposed)
    return Survey(
        mapped.uncertainty, mapped.predicted_ml, len(places.ranked), tuple(proposals.values())
    )


def map_uncertainty(read: ReadMargins, geometry: VolumeGeometry, foreground: int) -> UncertaintyMap:
    """Read a volume's margins slab by slab and keep a byte of each voxel.

    Args:
        read: the margins in a box of the network's grid.
        geometry: the network's grid.
        foreground: labels besides the background.
    """
    levels = np.empty(geometry.shape, dtype=np.uint8)
    voxels = torch.zeros(3, dtype=torch.float64)
    _, j, k = geometry.shape
    thickness = max(1, _SLAB_VALUES // (foreground * j * k))
    for slab in Box.of_shape(geometry.shape).slabs(thickness):
        of_slab, sums = _levels_and_sums(read(slab))
        levels[slab.to_slices()] = of_slab.cpu().numpy()
        voxels += sums.cpu()
    wrong_ml, expected_ml, predicted_ml = (voxels * geometry.voxel_volume_ml).tolist()
    return UncertaintyMap(levels, wrong_ml, expected_ml, predicted_ml)


def spoken_for(
    clicks: Iterable[Click], prepared: PreparedImage, encoder: GuidanceEncoder
) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Where the user has spoken: the voxels that the guidance of a click reaches.

    Each click is drawn by itself. Where the file's voxels are the larger ones, all of the clicked
    voxel counts, so that none is proposed that is clicked already.

    Yields:
        Boxes of the network's grid, and which of their voxels are meant.
    """
    shape = prepared.geometry.shape
    for click in clicks:
        at = prepared.click_to_network(click.index)
        drawn = encoder.changed_box([], [at], shape)
        if drawn is not None:
            yield drawn, encoder.encode_box([[at]], shape, drawn)[0].numpy() > 0
        around = prepared.box_to_network(Box.around(click.index, 1).clip(prepared.source.shape))
        yield around, _is_in_voxel(click.index, around, prepared)


def _is_in_voxel(index: Index3, box: Box, prepared: PreparedImage) -> NDArray[np.bool_]:
    """Which voxels of a box of the network's grid have their centre in one voxel of the file."""
    to_file = np.linalg.inv(prepared.source.affine) @ prepared.geometry.affine
    voxels = np.moveaxis(np.indices(box.shape, dtype=np.float64), 0, -1) + np.array(box.start)
    last = np.array(prepared.source.shape) - 1
    offsets = np.clip(apply_affine(to_file, voxels), 0, last) - np.array(index)
    return np.abs(offsets).max(axis=-1) <= 0.5 + _TIE_VOXELS


def _levels_and_sums(
    margins: MarginsTensor,
) -> tuple[UInt8[Tensor, "i j k"], Float[Tensor, "3"]]:
    """The levels of an `UncertaintyMap`, and its three volumes in voxels, of one slab."""
    best, second, others = _compare_labels(margins)
    total = 1 + others
    uncertainty = (others + (second - best).exp()) / total
    is_uncertain = uncertainty >= UNCERTAIN_FROM
    levels = torch.where(is_uncertain, (uncertainty * _LEVELS).round(), 0).to(torch.uint8)
    is_foreground = best > 0
    foreground = torch.where(is_foreground, total - (-best).exp(), others)
    sums = [others / total, foreground / total, is_foreground]
    return levels, torch.stack([values.sum(dtype=torch.float64) for values in sums])


def _compare_labels(
    margins: MarginsTensor,
) -> tuple[Float[Tensor, "i j k"], Float[Tensor, "i j k"], Float[Tensor, "i j k"]]:
    """The largest logit (the background's is 0), the second largest, and the weight of the others.

    The weight is the sum of exp(logit - largest) over all labels but the largest. It is summed
    without that one's 1, in which a probability of a millionth would drown.
    """
    best = torch.zeros_like(margins[0])
    second = torch.full_like(best, -torch.inf)
    others = torch.zeros_like(best)
    for margin in margins:
        lower, higher = torch.minimum(best, margin), torch.maximum(best, margin)
        others = others * (best - higher).exp() + (lower - higher).exp()
        second = torch.maximum(second, lower)
        best = higher
    return best, second, others


@dataclass(frozen=True, eq=False)
class _Places:
    """The connected uncertain regions of a volume.

    Attributes:
        levels: of the `UncertaintyMap` they were found in.
        numbers: of the place that a voxel belongs to; 0 for none.
        ends: first and last voxel along (i, i, j, j, k, k), by number.
        sizes: voxels, by number.
        ranked: the numbers, in the order of the proposals.
    """

    levels: NDArray[np.uint8]
    numbers: NDArray[np.unsignedinteger]
    ends: NDArray[np.integer]
    sizes: NDArray[np.integer]
    ranked: NDArray[np.integer]

    @staticmethod
    def of(levels: NDArray[np.uint8]) -> _Places:
        # not boolean, as cc3d 4.1.1 then fails on some regions one voxel wide, such as (1, 0, 1)
        numbers = cc3d.connected_components((levels > 0).view(np.uint8), connectivity=26)
        statistics = cc3d.statistics(numbers, no_slice_conversion=True)
        sums = _sums(levels, numbers, len(statistics["voxel_counts"]))
        return _Places(
            levels,
            numbers,
            statistics["bounding_boxes"],
            statistics["voxel_counts"],
            np.argsort(-sums[1:], kind="stable") + 1,
        )

    def box(self, number: int) -> Box:
        i, m, j, n, k, o = self.ends[number].tolist()
        return Box((i, j, k), (m + 1, n + 1, o + 1))

    def most_uncertain(self, number: int, spacing_mm: Vector3) -> Index3:
        """Where a place is most uncertain; among equals the deepest; of these the middle one."""
        box = self.box(number)
        is_inside = self.numbers[box.to_slices()] == number
        inside = self.levels[box.to_slices()] * is_inside
        is_best = inside == inside.max()
        if np.count_nonzero(is_best) > 1:
            depth_mm = distance_to_border(is_inside, spacing_mm, flat_axis(self.levels.shape))
            is_best &= depth_mm >= depth_mm[is_best].max() - _TIE_MM
        i, j, k = _middle_one(np.argwhere(is_best), spacing_mm).tolist()
        a, b, c = box.start
        return (a + i, b + j, c + k)


def _middle_one(voxels: NDArray[np.intp], spacing_mm: Vector3) -> NDArray[np.intp]:
    """Of voxels (n, 3), the one nearest to their mean; the first of equals.

    Without this, a plate one voxel thick, of which all is equally deep, would show its corner.
    """
    from_mean_mm = (voxels - voxels.mean(axis=0)) * np.array(spacing_mm)
    distance_mm = np.linalg.norm(from_mean_mm, axis=1)
    return voxels[np.argmax(distance_mm <= distance_mm.min() + _TIE_MM)]


def _sums(
    levels: NDArray[np.uint8], numbers: NDArray[np.unsignedinteger], length: int
) -> NDArray[np.float64]:
    """The sum of the levels of each place, by number."""
    sums = np.zeros(length)
    flat, flat_numbers = levels.reshape(-1), numbers.reshape(-1)
    for start in range(0, flat.size, _COUNTED_VOXELS):
        part = slice(start, start + _COUNTED_VOXELS)
        sums += np.bincount(flat_numbers[part], weights=flat[part], minlength=length)
    return sums


def _proposal(
    places: _Places,
    number: int,
    read: ReadMargins,
    prepared: PreparedImage,
    labels: tuple[str, ...],
) -> Proposal:
    place = places.most_uncertain(number, prepared.geometry.spacing_mm)
    margins = read(Box.around(place, 0)).flatten().double().cpu()
    probabilities = torch.cat([margins.new_zeros(1), margins]).softmax(dim=0)
    # stable: of equally probable labels the one with the lower index is predicted
    predicted, alternative = probabilities.argsort(descending=True, stable=True)[:2].tolist()
    index = prepared.network_to_file(place)
    return Proposal(
        index=index,
        position_mm=prepared.source.to_mm(index),
        predicted=labels[predicted],
        alternative=labels[alternative],
        uncertainty=float(1 - (probabilities[predicted] - probabilities[alternative])),
        volume_ml=int(places.sizes[number]) * prepared.geometry.voxel_volume_ml,
    )
