"""Where to click in and around a region of voxels.

Inside, a click stands for the largest ball around it that fits in the region, and every ball is
centred as deep as what is left allows: a ball or a cube gets its centre alone, a tube a row of
clicks along its middle. A skeleton would do for tubes, too, but thinning counts in voxels, and
scikit-image's leaves nothing of regions an even number of voxels wide (its issue 3757).

Regions are boolean arrays of axes (i, j, k). A region that is one voxel thick on exactly one axis
is flat, something drawn on a slice: depth and surroundings are looked for in its plane only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import distance_to_border, flat_axis
from voxclick.types import Index3, Vector3
from voxclick.volume import VolumeGeometry

_TIE_MM = 1e-4
"""Distances this close are equal: above the rounding of float32 distances, far below a voxel."""

_CORE_DEPTH = 0.7
"""Voxels this fraction as deep as the deepest are as good as it; the farthest of them is clicked.
With 1 the bulges of an uneven stroke would come before its ends, with 0 the ends would be clicked
at the very border."""


@dataclass(frozen=True, eq=False)
class Component:
    """A 26-connected part of a region.

    Attributes:
        box: its bounding box in the array it was found in.
        mask: which voxels of the box belong to it.
    """

    box: Box
    mask: NDArray[np.bool_]


def steps_outside(outside_mm: float, spacing_mm: Vector3, flat: int | None = None) -> Index3:
    """Voxels along each axis that span at least `outside_mm`; none along the flat axis."""
    steps = [max(1, math.ceil((outside_mm - _TIE_MM) / step)) for step in spacing_mm]
    i, j, k = (0 if axis == flat else n for axis, n in enumerate(steps))
    return (i, j, k)


def largest_components(region: NDArray[np.bool_], count: int) -> list[Component]:
    """At most `count` components, the one of most voxels first.

    Args:
        region: shape (i, j, k), not empty.
    """
    occupied = _bounding_box(region)
    # in C order, or the layout in memory would decide between components of equal size; not
    # boolean, as cc3d 4.1.1 then fails on some regions one voxel wide, such as (1, 0, 1)
    numbers = cc3d.connected_components(
        region[occupied.to_slices()].astype(np.uint8, order="C"), connectivity=26
    )
    statistics = cc3d.statistics(numbers)
    sizes = statistics["voxel_counts"].astype(np.int64)[1:]
    largest = np.argsort(-sizes, kind="stable")[:count] + 1
    return [
        _component(numbers, int(number), statistics["bounding_boxes"][number], occupied.start)
        for number in largest
    ]


def inside_voxels(
    components: Sequence[Component],
    geometry: VolumeGeometry,
    *,
    spacing_mm: float,
    least_depth: float,
    count: int,
) -> list[Index3]:
    """At most `count` voxels inside the components: the centre of each, then what is left.

    The centre is the voxel farthest from the component's border, the end of the image counting
    as border. Further ones follow in the components' order, until nothing of a component lies
    farther than `spacing_mm` from the balls around its clicks.

    Args:
        least_depth: what is not this fraction as deep as the component's centre does not count.
    """
    placements = [
        _place_inside(part, geometry, spacing_mm, least_depth) for part in components[:count]
    ]
    centres = [next(placement) for placement in placements]
    further = itertools.chain.from_iterable(placements)
    return centres + list(itertools.islice(further, count - len(centres)))


def outside_voxels(
    region: NDArray[np.bool_],
    components: Sequence[Component],
    geometry: VolumeGeometry,
    *,
    outside_mm: float,
    spacing_mm: float,
    count: int,
) -> list[Index3]:
    """At most `count` voxels around the components, `outside_mm` from all of the region.

    They are the first voxels that are so far away from any voxel of the region; voxels beyond
    the end of the array are left out. None where the region leaves no such voxel.
    """
    flat = flat_axis(_bounding_box(region).shape)
    reach = steps_outside(outside_mm, geometry.spacing_mm, flat)
    shells = [
        _voxels_of_shell(region, part.box, outside_mm, geometry.spacing_mm, reach)
        for part in components
    ]
    flattened = np.unique(np.concatenate(shells))
    shell = np.stack(np.unravel_index(flattened, region.shape), axis=-1)
    return _spread(shell, geometry, spacing_mm, count)


def _component(
    numbers: NDArray[np.integer], number: int, slices: tuple[slice, slice, slice], offset: Index3
) -> Component:
    """The component of this number; `offset` is where `numbers` begins in the whole array."""
    start = tuple(s.start + o for s, o in zip(slices, offset, strict=True))
    stop = tuple(s.stop + o for s, o in zip(slices, offset, strict=True))
    box = Box(start, stop)  # pyright: ignore[reportArgumentType]
    return Component(box, numbers[slices] == number)


def _place_inside(
    component: Component, geometry: VolumeGeometry, spacing_mm: float, least_depth: float
) -> Iterator[Index3]:
    """The voxels to click inside one component, the centre first."""
    mask = component.mask
    depth_mm = distance_to_border(mask, geometry.spacing_mm, flat_axis(mask.shape))
    is_candidate = mask & (depth_mm >= least_depth * depth_mm.max())
    depth_mm = depth_mm[is_candidate]
    voxels = np.argwhere(is_candidate) + np.array(component.box.start)
    position_mm = apply_affine(geometry.affine, voxels.astype(np.float64))
    to_click_mm = np.full(len(voxels), np.inf)
    to_ball_mm = np.full(len(voxels), np.inf)
    chosen = _most_central(position_mm, depth_mm)
    while True:
        yield _as_index(voxels[chosen])
        distance_mm = np.linalg.norm(position_mm - position_mm[chosen], axis=1)
        to_click_mm = np.minimum(to_click_mm, distance_mm)
        to_ball_mm = np.minimum(to_ball_mm, distance_mm - depth_mm[chosen])
        is_left = to_ball_mm > spacing_mm
        if not is_left.any():
            return
        is_core = is_left & (depth_mm >= _CORE_DEPTH * depth_mm[is_left].max())
        chosen = _first_of_largest(np.where(is_core, to_click_mm, -np.inf))


def _most_central(position_mm: NDArray[np.float64], depth_mm: NDArray[np.float32]) -> int:
    """The deepest voxel; of equally deep ones that nearest to the centroid."""
    is_deepest = depth_mm >= depth_mm.max() - _TIE_MM
    to_centroid_mm = np.linalg.norm(position_mm - position_mm.mean(axis=0), axis=1)
    return _first_of_largest(np.where(is_deepest, -to_centroid_mm, -np.inf))


def _voxels_of_shell(
    region: NDArray[np.bool_], box: Box, outside_mm: float, spacing_mm: Vector3, reach: Index3
) -> NDArray[np.intp]:
    """Indices into the flattened region: the voxels that lie just `outside_mm` from it.

    Args:
        box: of the component around which to look.
        reach: voxels along each axis that span `outside_mm`.
    """
    near = box.grown(reach).clip(region.shape)
    # once more, as other components there push the shell away
    around = near.grown(reach).clip(region.shape)
    distance_mm = edt.edt(~region[around.to_slices()], anisotropy=spacing_mm)
    is_far = distance_mm >= outside_mm - _TIE_MM
    is_first_so_far = is_far & ndimage.binary_dilation(~is_far)
    in_near = near.relative_to(around.start).to_slices()
    voxels = np.argwhere(is_first_so_far[in_near]) + np.array(near.start)
    return np.asarray(np.ravel_multi_index(tuple(voxels.T), region.shape))


def _spread(
    voxels: NDArray[np.intp], geometry: VolumeGeometry, spacing_mm: float, count: int
) -> list[Index3]:
    """Farthest points: each is the voxel farthest from those before, until all are near one.

    Args:
        voxels: shape (n, 3). The first point is the voxel farthest from their centroid.
    """
    if len(voxels) == 0:
        return []
    position_mm = apply_affine(geometry.affine, voxels.astype(np.float64))
    chosen = [_first_of_largest(np.linalg.norm(position_mm - position_mm.mean(axis=0), axis=1))]
    to_chosen_mm = np.full(len(voxels), np.inf)
    while True:
        distance_mm = np.linalg.norm(position_mm - position_mm[chosen[-1]], axis=1)
        to_chosen_mm = np.minimum(to_chosen_mm, distance_mm)
        if len(chosen) == count or to_chosen_mm.max() <= spacing_mm:
            return [_as_index(voxels[n]) for n in chosen]
        chosen.append(_first_of_largest(to_chosen_mm))


def _first_of_largest(values: NDArray[np.floating]) -> int:
    """Position of the largest value in mm, whatever rounding did to equal ones."""
    return int(np.argmax(values >= values.max() - _TIE_MM))


def _bounding_box(region: NDArray[np.bool_]) -> Box:
    occupied = [region.any(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    (i0, i1), (j0, j1), (k0, k1) = (np.flatnonzero(along)[[0, -1]].tolist() for along in occupied)
    return Box((i0, j0, k0), (i1 + 1, j1 + 1, k1 + 1))


def _as_index(voxel: NDArray[np.integer]) -> Index3:
    i, j, k = voxel.tolist()
    return (i, j, k)
