"""Random walks from the clicks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.measure import block_reduce
from skimage.segmentation import random_walker
from threadpoolctl import threadpool_limits

from voxclick.evaluation.baselines.baseline import Baseline
from voxclick.evaluation.baselines.neighbourhood import (
    Face,
    box_within,
    index_in,
    inner_faces,
    squared_distance_mm,
)
from voxclick.geometry.box import Box
from voxclick.types import Index3, Vector3
from voxclick.volume import Volume

_REACH_MM = 40.0
"""How far from a foreground click its lesion may reach: most are smaller, and one that is not
gets further clicks, whose boxes join."""

_SEED_RADIUS_MM = 5.0
"""Of foreground seeds, so that the smallest lesions that PET shows, 1 cm wide, hold one. From a
single voxel hardly a walk starts: in three dimensions walkers get lost on the box's faces."""

_CONTRAST_RADIUS_MM = 20.0
_CONTRAST_PERCENTILES = (0.5, 99.5)
"""Intensities are scaled by what lies around the foreground clicks, or a bladder in the box would
leave no contrast to a faint lesion; what is brighter or darker is clipped."""

_BETA = 500.0
"""Scikit-image's 130 hardly stops at the blurred borders of PET. On the phantoms Dice is best near
500; the large sarcomas of TCIA would take more, but the equations then become many times slower to
solve."""

_TOLERANCE = 1e-4
"""Relative residual of the conjugate gradients. With scikit-image's 1e-3 mean Dice is off by up to
0.02 at this beta."""

_MOST_VOXELS = 2**19
"""Solved at once, in a few seconds; larger boxes are solved on block means."""

_UNKNOWN, _FOREGROUND, _BACKGROUND = 0, 1, 2


@dataclass(frozen=True)
class _SeededBox:
    """All that the result in a box depends on, besides the image."""

    box: Box
    foreground: frozenset[Index3]
    background: frozenset[Index3]


class RandomWalker(Baseline):
    """Which seeds a random walker reaches first (Grady 2006, by scikit-image).

    It works in a box of 40 mm around every foreground click; boxes that meet are joined to the
    one that spans them. Foreground seeds are balls of 5 mm around the clicks. Background seeds are
    the background clicks and the faces of the box, save those where the image itself ends: a
    lesion may reach there. Only a box that is the whole image has them all. A voxel clicked both
    ways is foreground.

    Results of boxes whose clicks are those of the last call are reused.
    """

    def __init__(self, image: Volume) -> None:
        super().__init__(image)
        self._solved: dict[_SeededBox, NDArray[np.bool_]] = {}

    def _segment(
        self, foreground: Sequence[Index3], background: Sequence[Index3]
    ) -> NDArray[np.bool_]:
        boxes = _join(
            box_within(click, _REACH_MM, self._spacing_mm, self._voxels.shape)
            for click in foreground
        )
        seeded = [
            _SeededBox(box, _clicks_in(box, foreground), _clicks_in(box, background))
            for box in boxes
        ]
        last = self._solved
        self._solved = {s: last[s] if s in last else self._solve(s) for s in seeded}
        mask = self._empty_mask()
        for solved, in_box in self._solved.items():
            mask[solved.box.to_slices()] = in_box
        return mask

    def _solve(self, seeded: _SeededBox) -> NDArray[np.bool_]:
        """Which voxels of a box are foreground."""
        box = seeded.box
        factors = _block_size(box.shape, self._spacing_mm)
        image = _block_means(self._voxels[box.to_slices()], factors)
        foreground = _in_blocks(seeded.foreground, box, factors)
        background = _in_blocks(seeded.background, box, factors)
        faces = list(inner_faces(box, self._voxels.shape)) or _all_faces(image.shape)
        i, j, k = (step * n for step, n in zip(self._spacing_mm, factors, strict=True))
        walked = _walk(image, foreground, background, faces, (i, j, k))
        for axis, factor in enumerate(factors):
            walked = walked.repeat(factor, axis)
        return walked[Box.of_shape(box.shape).to_slices()]


def _walk(
    image: NDArray[np.float32],
    foreground: Iterable[Index3],
    background: Iterable[Index3],
    background_faces: Iterable[Face],
    spacing_mm: Vector3,
) -> NDArray[np.bool_]:
    """The random walker's foreground; the seeds alone where the image has no contrast."""
    to_click = squared_distance_mm(Box.of_shape(image.shape), foreground, spacing_mm)
    seeds = np.full(image.shape, _UNKNOWN, dtype=np.int32)
    for face in background_faces:
        seeds[face] = _BACKGROUND
    seeds[to_click <= _SEED_RADIUS_MM**2] = _FOREGROUND
    for click in background:
        seeds[click] = _BACKGROUND
    for click in foreground:
        seeds[click] = _FOREGROUND
    around = image[to_click <= _CONTRAST_RADIUS_MM**2]
    low, high = np.percentile(around, _CONTRAST_PERCENTILES).tolist()
    if high > low and (seeds == _UNKNOWN).any():
        # threads of the linear algebra wait busily for more when it has ended, and would slow down
        # the network's next windows; one thread solves as fast
        with threadpool_limits(1, user_api="blas"):
            seeds = random_walker(
                np.clip((image.astype(np.float64) - low) / (high - low), 0, 1),
                seeds,
                beta=_BETA,
                mode="cg_j",  # the fastest that needs no further package
                tol=_TOLERANCE,
                spacing=_relative(spacing_mm),
                # behind walls of nearly no conductance probabilities keep few digits, which a
                # warning would tell again and again; which of the two is larger is all that counts
                prob_tol=math.inf,
            )
    return seeds == _FOREGROUND


def _relative(spacing_mm: Vector3) -> NDArray[np.float64]:
    """The spacing with geometric mean 1, so that beta means the same at any resolution."""
    spacing = np.array(spacing_mm)
    return spacing / np.cbrt(spacing.prod())


def _join(boxes: Iterable[Box]) -> list[Box]:
    """Boxes without a common voxel: those that meet become the one that spans them."""
    apart: list[Box] = []
    for box in boxes:
        joined = box
        while meeting := [other for other in apart if other.meets(joined)]:
            apart = [other for other in apart if other not in meeting]
            joined = Box.union([joined, *meeting]) or joined
        apart.append(joined)
    return apart


def _clicks_in(box: Box, clicks: Iterable[Index3]) -> frozenset[Index3]:
    return frozenset(click for click in clicks if box.contains(click))


def _block_size(shape: Index3, spacing_mm: Vector3) -> Index3:
    """Voxels along each axis that become one, so that few enough are left; the finest first."""
    lengths, spacing, factors = np.array(shape), np.array(spacing_mm), np.ones(3, dtype=np.int64)
    while (blocks := -(-lengths // factors)).prod() > _MOST_VOXELS:
        factors[np.where(blocks > 1, spacing * factors, np.inf).argmin()] += 1
    i, j, k = factors.tolist()
    return (i, j, k)


def _block_means(voxels: NDArray[np.float32], factors: Index3) -> NDArray[np.float32]:
    """The mean of each block; incomplete blocks are filled up with their last voxels."""
    missing = [(0, -n % factor) for n, factor in zip(voxels.shape, factors, strict=True)]
    padded = np.pad(voxels, missing, mode="edge")
    return block_reduce(padded, factors, np.mean)  # pyright: ignore[reportArgumentType]


def _in_blocks(clicks: Iterable[Index3], box: Box, factors: Index3) -> list[Index3]:
    """Which blocks of a box the clicks lie in."""
    p, q, r = factors
    return [(i // p, j // q, k // r) for i, j, k in (index_in(box, click) for click in clicks)]


def _all_faces(shape: Sequence[int]) -> list[Face]:
    """Every face of an array, save those across axes that have nothing but faces."""
    whole = slice(None)
    faces: list[tuple[Face, Face]] = [
        ((0, whole, whole), (-1, whole, whole)),
        ((whole, 0, whole), (whole, -1, whole)),
        ((whole, whole, 0), (whole, whole, -1)),
    ]
    return [face for n, pair in zip(shape, faces, strict=True) if n > 2 for face in pair]
