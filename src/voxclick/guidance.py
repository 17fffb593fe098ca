"""Guidance: clicks as network channels, one per label.

Everything here is in the network's grid: click positions are voxels (i, j, k) of the preprocessed
image, spacings are that grid's. The clicks of a label are a set: their order does not matter, and
a second click on the same voxel changes nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from monai.networks.layers import gaussian_1d
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from voxclick.errors import ClickError
from voxclick.geometry.box import Box
from voxclick.types import GuidanceTensor, Index3, Vector3

_DISK_SQUARED_RADIUS = {1: 4, 2: 18, 3: 41}
"""Squared radius in voxels of the ball that SW-FastEdit draws for a lone click, by sigma."""

_GAUSSIAN_CUTOFF_SIGMAS = 3.0
"""Where a Gaussian ends. The step there is 0.011; every further sigma would make each click
change a larger part of the volume for less."""

_SW_FASTEDIT_THRESHOLD = 0.1
"""SW-FastEdit's threshold on the blurred clicks, as a fraction of their maximum."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DiskGuidance(_Settings):
    """Every click by itself a ball of ones: r² <= 4, 18 or 41 voxels² for sigma 1, 2 or 3.

    These are the balls that `SwFastEditGuidance` draws for a lone click.
    """

    kind: Literal["disk"] = "disk"
    sigma: Literal[1, 2, 3] = 1


class GaussianGuidance(_Settings):
    """exp(-r² / 2 sigma²) around each click, zero beyond 3 sigma; the maximum over clicks.

    Attributes:
        sigma: in voxels.
    """

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class DistanceGuidance(_Settings):
    """max(0, 1 - r / radius) around each click; the maximum over clicks.

    Attributes:
        radius: in `unit`.
        unit: ``voxel`` of the network's grid (a ball of voxels) or ``mm`` (a ball in the patient).
    """

    kind: Literal["distance"] = "distance"
    radius: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    unit: Literal["voxel", "mm"] = "voxel"


class SwFastEditGuidance(_Settings):
    """The encoding of SW-FastEdit (Hadlich, Marinov et al., ISBI 2024), needed for its weights.

    All clicks of a label are blurred together, scaled to 0..1, and thresholded at 0.1. So clicks
    are not independent: the disks of all clicks shrink where some of them lie close together.

    Attributes:
        sigma: of the blur, in voxels.
    """

    kind: Literal["sw-fastedit"] = "sw-fastedit"
    sigma: float = Field(default=1.0, gt=0, allow_inf_nan=False)


GuidanceSettings: TypeAlias = Annotated[
    DiskGuidance | GaussianGuidance | DistanceGuidance | SwFastEditGuidance,
    Field(discriminator="kind"),
]
"""How clicks become channels; stored with the weights."""


def build_encoder(settings: GuidanceSettings, spacing_mm: Vector3) -> GuidanceEncoder:
    """The encoder for a network's grid with voxels of `spacing_mm` along (i, j, k)."""
    match settings:
        case DiskGuidance():
            return LocalEncoder(_disk_stamp(_DISK_SQUARED_RADIUS[settings.sigma]))
        case GaussianGuidance():
            return LocalEncoder(_gaussian_stamp(settings.sigma))
        case DistanceGuidance():
            in_mm = settings.unit == "mm"
            return LocalEncoder(
                _distance_stamp(settings.radius, spacing_mm if in_mm else (1.0, 1.0, 1.0))
            )
        case SwFastEditGuidance():
            return SwFastEditEncoder(settings.sigma)


_REMEMBERED = 16
"""Sets of clicks whose drawn voxels are remembered: two states of several labels."""


class GuidanceEncoder(ABC):
    """Draws clicks into channels, and knows which part of a channel a click can change."""

    def encode(
        self,
        clicks: Sequence[Sequence[Index3]],
        shape: Index3,
        device: torch.device | str | None = None,
    ) -> GuidanceTensor:
        """Draw all clicks.

        Args:
            clicks: ``clicks[l]`` are the voxels clicked for label l.
            shape: of the network's grid.

        Returns:
            float32, values 0 to 1, shape (label, i, j, k).

        Raises:
            ClickError: a click lies outside the grid.
        """
        guidance = torch.zeros((len(clicks), *shape), dtype=torch.float32, device=device)
        for channel, clicks_of_label in zip(guidance, clicks, strict=True):
            _check_inside(clicks_of_label, shape)
            self._draw(channel, clicks_of_label)
        return guidance

    def add(
        self,
        guidance: GuidanceTensor,
        label_index: int,
        click: Index3,
        earlier: Sequence[Index3],
    ) -> None:
        """Draw one more click of one label in place, at the cost of a disk.

        Args:
            guidance: what `encode` returned, or a view of it inside the network's input.
            label_index: the channel to draw in.
            click: the new click.
            earlier: the clicks of this label that the channel shows already. Encoders in which
                clicks influence each other need them.

        Raises:
            ClickError: the click lies outside the grid.
        """
        channel = guidance[label_index]
        _check_inside([click], channel.shape)
        self._draw_another(channel, click, earlier)

    def encode_box(
        self,
        clicks: Sequence[Sequence[Index3]],
        shape: Index3,
        box: Box,
        device: torch.device | None = None,
    ) -> GuidanceTensor:
        """A part of what `encode` draws, at the cost of that part.

        Args:
            clicks: ``clicks[l]`` are the voxels clicked for label l, anywhere in the grid.
            shape: of the network's grid.
            box: inside the grid.
        """
        guidance = torch.zeros((len(clicks), *box.shape), dtype=torch.float32, device=device)
        for channel, clicks_of_label in zip(guidance, clicks, strict=True):
            self._draw_box(channel, clicks_of_label, shape, box)
        return guidance

    @abstractmethod
    def key(self, clicks: Sequence[Index3], shape: Index3, box: Box) -> Hashable:
        """What one label's channel shows in a box: equal keys, equal voxels."""

    @abstractmethod
    def changed_box(
        self, before: Sequence[Index3], after: Sequence[Index3], shape: Index3
    ) -> Box | None:
        """The smallest box outside which one label's channel cannot differ.

        Args:
            before: the label's clicks in one state.
            after: its clicks in the other.
            shape: of the network's grid.

        Returns:
            A box inside the grid; None when both states give the same channel.
        """

    @abstractmethod
    def _draw(self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3]) -> None:
        """Draw clicks into an empty channel."""

    @abstractmethod
    def _draw_box(
        self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3], shape: Index3, box: Box
    ) -> None:
        """Draw what clicks of a grid leave in one box of it into an empty channel of the box."""

    @abstractmethod
    def _draw_another(
        self, channel: Float[Tensor, "i j k"], click: Index3, earlier: Sequence[Index3]
    ) -> None:
        """Draw a click into a channel that shows `earlier`."""


class LocalEncoder(GuidanceEncoder):
    """Every click by itself: the same stamp pasted at each click, the maximum where they meet.

    A click changes its stamp's box and nothing else, so windows that do not meet the box keep
    their result.
    """

    def __init__(self, stamp: Float[Tensor, "i j k"]) -> None:
        """
        Args:
            stamp: float32, odd length along each axis, the click at its centre.
        """
        self._stamp = stamp
        self._reach: Index3 = (stamp.shape[0] // 2, stamp.shape[1] // 2, stamp.shape[2] // 2)

    def changed_box(
        self, before: Sequence[Index3], after: Sequence[Index3], shape: Index3
    ) -> Box | None:
        changed_clicks = set(before) ^ set(after)
        return Box.union(Box.around(click, self._reach).clip(shape) for click in changed_clicks)

    def key(self, clicks: Sequence[Index3], shape: Index3, box: Box) -> Hashable:
        return frozenset(filter(box.grown(self._reach).contains, clicks))

    def _draw(self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3]) -> None:
        for click in clicks:
            self._paste(channel, click)

    def _draw_box(
        self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3], shape: Index3, box: Box
    ) -> None:
        for i, j, k in clicks:
            a, b, c = box.start
            self._paste(channel, (i - a, j - b, k - c))

    def _draw_another(
        self, channel: Float[Tensor, "i j k"], click: Index3, earlier: Sequence[Index3]
    ) -> None:
        self._paste(channel, click)

    def _paste(self, channel: Float[Tensor, "i j k"], click: Index3) -> None:
        box = Box.around(click, self._reach)
        inside = box.clip(channel.shape)
        if inside.is_empty:
            return
        part_of_stamp = tuple(
            slice(a - origin, b - origin)
            for a, b, origin in zip(inside.start, inside.stop, box.start, strict=True)
        )
        channel[inside.to_slices()].clamp_(min=self._stamp[part_of_stamp].to(channel))


class SwFastEditEncoder(GuidanceEncoder):
    """SW-FastEdit's ``AddGuidanceSignal`` with disks, computed only near the clicks.

    There a channel of zeros gets a one at each click and passes through MONAI's
    ``GaussianFilter(3, sigma)``; the result is scaled by (x - min) / (max - min), and what
    exceeds 0.1 becomes 1. The blur is a sum of one kernel per click and zero elsewhere, so
    summing kernels over the voxels they reach gives the same, at a cost that does not grow with
    the volume. Sums are float64: they differ from MONAI's by float32's rounding, about 1e-7.
    """

    def __init__(self, sigma: float) -> None:
        kernel = gaussian_1d(torch.tensor(sigma)).double()
        self._weights = torch.einsum("i,j,k->ijk", kernel, kernel, kernel).flatten()
        along_axis = torch.arange(len(kernel)) - len(kernel) // 2
        self._offsets = torch.cartesian_prod(along_axis, along_axis, along_axis)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find_drawn_voxels)

    def changed_box(
        self, before: Sequence[Index3], after: Sequence[Index3], shape: Index3
    ) -> Box | None:
        drawn = torch.cat([self._drawn_voxels(before, shape), self._drawn_voxels(after, shape)])
        voxels, times = torch.unique(drawn, return_counts=True)
        changed = voxels[times == 1]
        if len(changed) == 0:
            return None
        indices = torch.stack(torch.unravel_index(changed, shape))
        return Box(tuple(indices.amin(1).tolist()), tuple((indices.amax(1) + 1).tolist()))

    def key(self, clicks: Sequence[Index3], shape: Index3, box: Box) -> Hashable:
        indices = self._drawn_inside(clicks, shape, box)
        return tuple(map(tuple, indices.T.tolist()))

    def _draw(self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3]) -> None:
        self._fill(channel, clicks, 1.0)

    def _draw_box(
        self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3], shape: Index3, box: Box
    ) -> None:
        i, j, k = self._drawn_inside(clicks, shape, box)
        channel[i, j, k] = 1.0

    def _drawn_inside(
        self, clicks: Sequence[Index3], shape: Index3, box: Box
    ) -> Int[Tensor, "3 n"]:
        """The voxels above the threshold in a box, counted from its first."""
        drawn = torch.stack(torch.unravel_index(self._drawn_voxels(clicks, shape), shape))
        inside = box.clip(shape)
        start, stop = torch.tensor(inside.start)[:, None], torch.tensor(inside.stop)[:, None]
        is_inside = ((drawn >= start) & (drawn < stop)).all(dim=0)
        return drawn[:, is_inside] - torch.tensor(box.start)[:, None]

    def _draw_another(
        self, channel: Float[Tensor, "i j k"], click: Index3, earlier: Sequence[Index3]
    ) -> None:
        self._fill(channel, earlier, 0.0)
        self._fill(channel, [*earlier, click], 1.0)

    def _fill(
        self, channel: Float[Tensor, "i j k"], clicks: Sequence[Index3], value: float
    ) -> None:
        drawn = self._drawn_voxels(clicks, channel.shape).to(channel.device)
        channel[torch.unravel_index(drawn, channel.shape)] = value

    def _drawn_voxels(self, clicks: Sequence[Index3], shape: Sequence[int]) -> Int[Tensor, " n"]:
        """The voxels above the threshold, as sorted indices into the flattened grid.

        Every window of a volume asks for those of the same clicks, so the last are remembered.
        """
        return self._remembered(tuple(clicks), tuple(shape))

    def _find_drawn_voxels(
        self, clicks: tuple[Index3, ...], shape: tuple[int, ...]
    ) -> Int[Tensor, " n"]:
        if not clicks:
            return torch.empty(0, dtype=torch.int64)
        voxels, blurred = self._blur(clicks, shape)
        is_whole_grid_reached = len(voxels) == math.prod(shape)
        lowest = blurred.min() if is_whole_grid_reached else blurred.new_zeros(())
        scale = blurred.max() - lowest
        return voxels[blurred - lowest > _SW_FASTEDIT_THRESHOLD * scale]

    def _blur(
        self, clicks: Sequence[Index3], shape: Sequence[int]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """The voxels that the kernel of any click reaches, and their sums of kernels."""
        # sorted, so that rounding is the same whatever the order of the clicks
        centres = torch.tensor(sorted(set(clicks)))
        reached = centres[:, None, :] + self._offsets
        is_inside = ((reached >= 0) & (reached < torch.tensor(shape))).all(dim=-1)
        i, j, k = reached[is_inside].unbind(-1)
        voxels, position = torch.unique((i * shape[1] + j) * shape[2] + k, return_inverse=True)
        weights = self._weights.expand(len(centres), -1)[is_inside]
        return voxels, weights.new_zeros(len(voxels)).index_add_(0, position, weights)


def _check_inside(clicks: Sequence[Index3], shape: Sequence[int]) -> None:
    grid = Box.of_shape(shape)
    for click in clicks:
        if not grid.contains(click):
            raise ClickError(
                f"the click at voxel {tuple(click)} lies outside the network's grid of "
                f"{tuple(shape)} voxels"
            )


def _disk_stamp(squared_radius: int) -> Float[Tensor, "i j k"]:
    reach = math.isqrt(squared_radius)
    return (_squared_distances((reach, reach, reach)) <= squared_radius).float()


def _gaussian_stamp(sigma: float) -> Float[Tensor, "i j k"]:
    radius = _GAUSSIAN_CUTOFF_SIGMAS * sigma
    reach = math.floor(radius)
    squared = _squared_distances((reach, reach, reach))
    return (torch.exp(-squared / (2 * sigma**2)) * (squared <= radius**2)).float()


def _distance_stamp(radius: float, spacing: Vector3) -> Float[Tensor, "i j k"]:
    # at the distance `radius` the value is 0 already: such voxels would only widen the box
    i, j, k = (max(0, math.ceil(radius / step) - 1) for step in spacing)
    distances = _squared_distances((i, j, k), spacing).sqrt()
    return (1 - distances / radius).clamp(min=0).float()


def _squared_distances(reach: Index3, spacing: Vector3 = (1.0, 1.0, 1.0)) -> Float[Tensor, "i j k"]:
    """float64 squared distances to the centre of an array of 2 * reach + 1 voxels."""
    i, j, k = (
        torch.arange(-n, n + 1, dtype=torch.float64) * step
        for n, step in zip(reach, spacing, strict=True)
    )
    return i[:, None, None] ** 2 + j[:, None] ** 2 + k**2
