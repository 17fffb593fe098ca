"""The corrective scribbles of autoPET V.

Source: `simulate_scribbles.py` and `interactive_loop.py` of the challenge's repository, as
github.com/adkSpence/autoPETV and github.com/yoonjun0330p/autoPETV keep them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from skimage.draw import line
from skimage.morphology import skeletonize
from skimage.segmentation import find_boundaries

from voxclick.errors import GeometryError, UsageError
from voxclick.geometry.flat import flat_axis
from voxclick.types import Index3

_LONGEST_UNTRIMMED = 10
_TRIMMED_SHARE = 0.1
"""Of a centreline with more pixels than that, so much is left out at either end."""

_BOUNDARY_SHARE = 0.2
"""Of the boundary that a stroke follows."""

Pixel: TypeAlias = tuple[int, int]
"""(i, j) on a slice."""


class Strategy(str, Enum):
    """How a stroke is drawn in an error on a slice."""

    centerline = "centerline"
    """Along the middle."""

    random = "random"
    """Straight from one random pixel to another."""

    boundary = "boundary"
    """Along the inside of the boundary from a random pixel."""


@dataclass(frozen=True)
class Scribble:
    """A stroke on one slice.

    Attributes:
        is_foreground: whether it says that there is tumour, or that there is none.
        voxels: (i, j, k), sorted, all on one slice.
    """

    is_foreground: bool
    voxels: tuple[Index3, ...]


def strategy_of(case_number: int) -> Strategy:
    """The strategy of a case: each in turn, so that each has a third of the cases.

    Which case has which in the challenge itself is not published.

    Args:
        case_number: its place in the data set, from 0.

    Raises:
        UsageError: the number is negative.
    """
    if case_number < 0:
        raise UsageError(f"cases are numbered from 0, got {case_number}")
    strategies = tuple(Strategy)
    return strategies[case_number % len(strategies)]


def next_scribble(
    label: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    strategy: Strategy,
    seed: int = 42,
) -> Scribble | None:
    """The stroke that corrects a prediction.

    A stroke is drawn in what is missed and one in what is in excess: each in the largest
    8-connected component that any slice has of it (the first slice of equals; on a slice, the
    component that has the first voxel, i counting fastest). The stroke with more voxels is the
    correction, the missed one if they are equal: sizes of strokes decide, not those of errors.

    centerline: the shortest way along the component's skeleton between those two of its pixels
    that are farthest apart, less a tenth at both ends if it has more than ten. random: a straight
    line between two pixels of the component, which may be one and the same, without what lies
    outside; so it can have gaps. boundary: a fifth of the component's inner boundary, at least
    two steps, each to the first neighbour that has not been visited, until there is none. If a
    component has fewer than two pixels, or its skeleton or boundary has, the stroke is all of it.

    The published loop fails, and scores 0, when either error is empty, for it expects a size that
    is then not returned; here an empty error has a stroke of no voxels, as its rule implies.

    Args:
        label: tumours, shape (i, j, k), axial slices along k. An image of a single slice, which the
            challenge does not have, may have it along any axis.
        prediction: on the same grid.
        strategy: for the whole case.
        seed: of Python's generator, for each stroke anew: the same errors give the same stroke.

    Returns:
        None where nothing is wrong, and for an empty label whatever the prediction.

    Raises:
        GeometryError: label and prediction differ in shape.
    """
    if label.shape != prediction.shape:
        raise GeometryError(
            f"label and prediction must share a grid, got {label.shape} and {prediction.shape} "
            "voxels"
        )
    if not label.any():
        return None
    flat = flat_axis(label.shape)
    through = 2 if flat is None else flat
    excess = _stroke_in(prediction & ~label, through, strategy, random.Random(seed))
    missed = _stroke_in(label & ~prediction, through, strategy, random.Random(seed))
    is_foreground = len(excess) <= len(missed)
    voxels = missed if is_foreground else excess
    return Scribble(is_foreground, voxels) if voxels else None


def _stroke_in(
    region: NDArray[np.bool_], through: int, strategy: Strategy, draws: random.Random
) -> tuple[Index3, ...]:
    """The voxels of a stroke, sorted; none in an empty region.

    Args:
        through: the axis along which slices follow each other.
    """
    if not region.any():
        return ()
    component, at = _largest_on_a_slice(np.moveaxis(region, through, 2))
    if strategy is Strategy.centerline:
        stroke = _along_centerline(component)
    elif strategy is Strategy.random:
        stroke = _straight_line(component, draws)
    else:
        stroke = _along_boundary(component, draws)
    i, j, k = np.insert(np.argwhere(stroke), through, at, axis=1).T.tolist()
    return tuple(zip(i, j, k, strict=True))


def _largest_on_a_slice(region: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """The largest component that any slice has, as a mask of the slice, and which slice.

    Args:
        region: not empty.
    """
    voxels_of_slice = np.count_nonzero(region, axis=(0, 1))
    largest, largest_size, largest_k = region[:, :, 0], 0, 0
    for k, voxel_count in enumerate(voxels_of_slice.tolist()):
        if voxel_count <= largest_size:
            continue
        # as nibabel lays a slice out in memory
        component = _largest_component(np.asfortranarray(region[:, :, k]))
        size = np.count_nonzero(component)
        if size > largest_size:
            largest, largest_size, largest_k = component, size, k
    return largest, largest_k


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The 8-connected component with the most pixels; of equals the first in memory.

    Args:
        mask: in C or Fortran order.

    Returns:
        In C order, without which scikit-image 0.22 thins nothing.
    """
    # not boolean, see `clicks.placement`; and cc3d numbers boolean slices in blocks
    numbered = cc3d.connected_components(mask.view(np.uint8), connectivity=8)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0  # the pixels outside all components
    return np.ascontiguousarray(mask & (numbered == sizes.argmax()))


def _along_centerline(component: NDArray[np.bool_]) -> NDArray[np.bool_]:
    skeleton = _largest_component(skeletonize(component))
    pixels = np.argwhere(skeleton)
    if len(pixels) < 2:
        return component
    start, end = _farthest_pair(pixels)
    path = _shortest_path(set(_as_pixels(pixels)), start, end)
    if len(path) > _LONGEST_UNTRIMMED:
        path = path[int(len(path) * _TRIMMED_SHARE) : int(len(path) * (1 - _TRIMMED_SHARE))]
    return _drawn(path, component)


def _farthest_pair(pixels: NDArray[np.intp]) -> tuple[Pixel, Pixel]:
    """Those two pixels that are farthest apart; of equal pairs the first.

    Args:
        pixels: shape (n, 2), sorted.
    """
    # they are at the ends of their rows, and all distances of a long skeleton would take gigabytes
    rows = pixels[:, 0]
    is_first = np.diff(rows, prepend=-1) != 0
    is_last = np.diff(rows, append=-1) != 0
    ends = pixels[is_first | is_last]
    squared = cdist(ends, ends, "sqeuclidean")
    pair = ends[np.array(np.unravel_index(squared.argmax(), squared.shape))]
    start, end = _as_pixels(pair)
    return start, end


def _shortest_path(pixels: set[Pixel], start: Pixel, end: Pixel) -> list[Pixel]:
    """The fewest steps of a king from start to end over connected pixels.

    Of several shortest paths it finds the one that NetworkX finds in the published script: the
    search goes on from both sides, from that with the smaller front (from the start, if they are
    equal) by all steps from that front, neighbours row by row, until it meets the other side.
    """
    came_from: tuple[dict[Pixel, Pixel], dict[Pixel, Pixel]] = ({start: start}, {end: end})
    fronts = [[start], [end]]
    while True:
        side = 0 if len(fronts[0]) <= len(fronts[1]) else 1
        seen, met = came_from[side], came_from[1 - side]
        front, fronts[side] = fronts[side], []
        for pixel in front:
            for neighbour in filter(pixels.__contains__, _neighbours(pixel)):
                if neighbour not in seen:
                    seen[neighbour] = pixel
                    fronts[side].append(neighbour)
                if neighbour in met:
                    before, after = (_trace(way, neighbour) for way in came_from)
                    return [*reversed(before), *after[1:]]


def _trace(came_from: dict[Pixel, Pixel], pixel: Pixel) -> list[Pixel]:
    """From a pixel back to where the search began."""
    way = [pixel]
    while came_from[way[-1]] != way[-1]:
        way.append(came_from[way[-1]])
    return way


def _straight_line(component: NDArray[np.bool_], draws: random.Random) -> NDArray[np.bool_]:
    pixels = list(_as_pixels(np.argwhere(component)))
    if len(pixels) < 2:
        return component
    start, end = (pixels[draws.randint(0, len(pixels) - 1)] for _ in range(2))
    return component & _drawn(zip(*line(*start, *end), strict=True), component)


def _along_boundary(component: NDArray[np.bool_], draws: random.Random) -> NDArray[np.bool_]:
    boundary = list(_as_pixels(np.argwhere(find_boundaries(component, mode="inner"))))
    if len(boundary) < 2:
        return component
    pixel = boundary[draws.randint(0, len(boundary) - 1)]
    walked, unvisited = [pixel], set(boundary) - {pixel}
    for _ in range(max(2, int(_BOUNDARY_SHARE * len(boundary)))):
        pixel = next(filter(unvisited.__contains__, _neighbours(pixel)), None)
        if pixel is None:
            break
        walked.append(pixel)
        unvisited.remove(pixel)
    return _drawn(walked, component)


def _neighbours(pixel: Pixel) -> Iterator[Pixel]:
    """The eight around a pixel, row by row."""
    steps = itertools.product((-1, 0, 1), repeat=2)
    return ((pixel[0] + i, pixel[1] + j) for i, j in steps if (i, j) != (0, 0))


def _as_pixels(pixels: NDArray[np.intp]) -> Iterator[Pixel]:
    return ((i, j) for i, j in pixels.tolist())


def _drawn(pixels: Iterable[Pixel], component: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of the pixels on the slice of the component."""
    stroke = np.zeros_like(component)
    for pixel in pixels:
        stroke[pixel] = True
    return stroke
