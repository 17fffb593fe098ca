"""The clicks of autoPET IV, task 1, which are simulated before and look at no prediction.

Source: github.com/lab-midas/autoPETCTIV, `clicks/simulate_clicks.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from voxclick.errors import GeometryError, UsageError
from voxclick.types import Index3

_HIGH_UPTAKE_PERCENTILE = 99.75


@dataclass(frozen=True)
class PreSimulatedClicks:
    """Clicks in the order in which they are given, a pair a step.

    Attributes:
        tumor: voxels (i, j, k) of the label.
        background: voxels (i, j, k) outside of it.
    """

    tumor: tuple[Index3, ...]
    background: tuple[Index3, ...]


def simulate_clicks(
    label: NDArray[np.bool_],
    pet: NDArray[np.floating],
    count: int = 10,
    seed: int = 42,
    jitter: int = 0,
) -> PreSimulatedClicks:
    """Clicks in tumours, and in what else takes up much.

    Tumour clicks: `count` of the label's 26-connected components, or all if there are fewer, in
    random order, each clicked at its deepest voxel (the first of equals, by the Euclidean distance
    in voxels to the outside; the image's end is no outside). While that makes fewer than `count`,
    the components are gone through again, each clicked at a random voxel of its border.

    Background clicks: the same with the components of high uptake, the voxels outside the label
    that are above the 99.75th percentile of all voxels outside the label.

    The script has a fault, and so have these clicks: of a high-uptake component, the click that
    should be on the border is any voxel of the component; and if all its voxels are equally deep
    (as in one that is thin), it is any voxel of the image but the component's. A draw from there
    that lands in the label stops the script; here it is repeated.

    Args:
        label: tumours, shape (i, j, k).
        pet: uptake in any unit, on the same grid.
        count: clicks of each kind.
        seed: of NumPy's legacy generator, which the script uses.
        jitter: moves each click by 0 to this many voxels along each axis, upwards, if that stays
            in the image and on the click's side of the label. The script leaves these draws
            without a seed; here they have a stream of their own from `seed`, so that the other
            draws are the same with and without.

    Returns:
        `count` clicks of each kind; no tumour click if the label is empty, no background click if
        no voxel has high uptake, as when all uptake is equal.

    Raises:
        GeometryError: label and PET differ in shape.
        UsageError: `count` or `jitter` is negative.
    """
    if label.shape != pet.shape:
        raise GeometryError(
            f"label and PET must share a grid, got {label.shape} and {pet.shape} voxels"
        )
    if count < 0 or jitter < 0:
        raise UsageError(f"count and jitter must be 0 or more, got {count} and {jitter}")
    draws = np.random.RandomState(seed)
    jitter_draws = random.Random(seed)
    is_background = ~label
    tumor = _click(
        _draw_components(label, count, draws),
        count,
        border_click=lambda component: _draw_on_border(component, draws),
        moved=lambda index: _jittered(index, jitter, label, jitter_draws),
    )
    background = _click(
        _draw_components(_high_uptake(pet, is_background), count, draws),
        count,
        border_click=lambda component: _draw_as_background(component, is_background, draws),
        moved=lambda index: _jittered(index, jitter, is_background, jitter_draws),
    )
    return PreSimulatedClicks(tumor, background)


@dataclass(frozen=True, eq=False)
class _Component:
    """A connected region.

    Attributes:
        start: of the box around it.
        squared_depth: in that box, distances in voxels to its outside; 0 outside. Squared they
            are whole numbers, and equal ones are equal.
    """

    start: Index3
    squared_depth: NDArray[np.float32]

    @property
    def centre(self) -> Index3:
        """The deepest voxel."""
        deepest = np.unravel_index(self.squared_depth.argmax(), self.squared_depth.shape)
        i, j, k = (int(n) + offset for n, offset in zip(deepest, self.start, strict=True))
        return (i, j, k)

    @property
    def depths(self) -> NDArray[np.float32]:
        return self.squared_depth[self.squared_depth > 0]

    @property
    def voxels(self) -> NDArray[np.intp]:
        """Shape (n, 3), in the image."""
        return np.argwhere(self.squared_depth > 0) + self.start

    @property
    def border_voxels(self) -> NDArray[np.intp]:
        """The least deep voxels: shape (n, 3), in the image."""
        return np.argwhere(self.squared_depth == self.depths.min()) + self.start


def _click(
    components: Sequence[_Component],
    count: int,
    border_click: Callable[[_Component], Index3],
    moved: Callable[[Index3], Index3],
) -> tuple[Index3, ...]:
    """A click in the centre of each component, then further ones in the same order."""
    centres = [moved(component.centre) for component in components]
    further = itertools.islice(itertools.cycle(components), count - len(components))
    return tuple(centres + [moved(border_click(component)) for component in further])


def _draw_components(
    region: NDArray[np.bool_], count: int, draws: np.random.RandomState
) -> list[_Component]:
    """At most `count` of the 26-connected components, in random order."""
    if not region.any():
        return []
    # numbered as nibabel lays a file out in memory; not boolean, see `clicks.placement`
    numbered, component_count = cc3d.connected_components(
        np.asfortranarray(region).view(np.uint8), connectivity=26, return_N=True
    )
    boxes = cc3d.statistics(numbered)["bounding_boxes"]
    drawn = draws.choice(component_count, size=min(count, component_count), replace=False) + 1
    return [_measure(numbered, number, boxes[number]) for number in drawn.tolist()]


def _measure(
    numbered: NDArray[np.integer], number: int, box: tuple[slice, slice, slice]
) -> _Component:
    # one layer around the component, where the image has it, is all that depths depend on
    around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    mask = np.ascontiguousarray(numbered[around] == number)
    i, j, k = (side.start for side in around)
    return _Component((i, j, k), edt.edtsq(mask, black_border=False))


def _high_uptake(pet: NDArray[np.floating], is_background: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not is_background.any():
        return is_background
    # in float64 as nibabel reads, for in float32 the interpolated percentile would be rounded
    uptake = pet[is_background].astype(np.float64)
    threshold = np.percentile(uptake, _HIGH_UPTAKE_PERCENTILE, overwrite_input=True)
    return np.greater(pet, threshold, signature="dd->?") & is_background


def _draw_on_border(component: _Component, draws: np.random.RandomState) -> Index3:
    voxels = component.border_voxels
    return _as_index(voxels[draws.choice(len(voxels))])


def _draw_as_background(
    component: _Component, is_background: NDArray[np.bool_], draws: np.random.RandomState
) -> Index3:
    """The script's border click in high uptake; for its fault see `simulate_clicks`."""
    voxels = component.voxels
    if component.depths.min() < component.depths.max():
        return _as_index(voxels[draws.choice(len(voxels))])
    own = np.asarray(np.ravel_multi_index(tuple(voxels.T), is_background.shape))
    others_before_own = own - np.arange(len(own))
    while True:
        rank = draws.choice(is_background.size - len(own))
        own_before = np.searchsorted(others_before_own, rank, side="right")
        drawn = _as_index(np.array(np.unravel_index(rank + own_before, is_background.shape)))
        if is_background[drawn]:
            return drawn


def _jittered(
    index: Index3, jitter: int, is_allowed: NDArray[np.bool_], draws: random.Random
) -> Index3:
    i, j, k = (position + draws.randint(0, jitter) for position in index)
    is_inside = all(n < length for n, length in zip((i, j, k), is_allowed.shape, strict=True))
    return (i, j, k) if is_inside and is_allowed[i, j, k] else index


def _as_index(voxel: NDArray[np.integer]) -> Index3:
    i, j, k = voxel.tolist()
    return (i, j, k)
