"""Where a simulated user clicks next.

A strategy is its own settings: a frozen model with a name, called with label and prediction.
All randomness is drawn from a generator on the CPU, so that a seed gives the same clicks whatever
device the volumes are on. No voxel is clicked twice while another candidate is left.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from voxclick.errors import GeometryError
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.simulation.distances import distance_to_outside
from voxclick.simulation.errors import (
    bounding_box,
    dice_of_label,
    largest_component,
    missed_region,
)
from voxclick.types import Index3, LabelTensor, Vector3

_TIE_TOLERANCE = 1e-5
"""Depths within this fraction of each other are equal: above float32's rounding, so that no
device decides on a click by it, and far below what a voxel makes."""

Weighting: TypeAlias = Literal["uniform", "border-distance"]
"""Weights of a region's voxels: all alike, or exp(d) - 1 with the distance d in voxels to the
outside of the region."""


@dataclass(frozen=True)
class SimulatedClick:
    """A click on the grid of the label and prediction that it comes from.

    Attributes:
        label_index: the label that is truly there; 0 is background.
        index: voxel (i, j, k).
    """

    label_index: int
    index: Index3


@dataclass(frozen=True, eq=False)
class Situation:
    """What the user sees before a step.

    Attributes:
        label: the truth, label indices of shape (i, j, k).
        prediction: label indices, same grid and device.
        spacing_mm: of that grid.
        clicked: for every label of the model, background first, the voxels clicked so far.
    """

    label: LabelTensor
    prediction: LabelTensor
    spacing_mm: Vector3
    clicked: Sequence[Sequence[Index3]]


class _Strategy(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __call__(
        self,
        label: LabelTensor,
        prediction: LabelTensor,
        spacing_mm: Vector3,
        generator: torch.Generator,
        clicked: Sequence[Sequence[Index3]],
    ) -> list[SimulatedClick]:
        """The clicks of the next step; see `Situation` for the arguments.

        Args:
            generator: on the CPU; advanced by what is drawn.

        Returns:
            No click where the strategy finds nothing to click.

        Raises:
            GeometryError: label and prediction differ in shape.
        """
        if label.shape != prediction.shape:
            raise GeometryError(
                f"label and prediction must share a grid, got {tuple(label.shape)} and "
                f"{tuple(prediction.shape)} voxels"
            )
        return self._choose(Situation(label, prediction, spacing_mm, clicked), generator)

    @abstractmethod
    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]: ...


class LargestError(_Strategy):
    """One click where the error is worst: on the deepest voxel of the largest error component.

    A component is 26-connected and its voxels, all wrong, share their true label: missed tissue
    of a foreground label, or excess, which is missed background. The click carries that label.
    The deepest voxel has the largest distance in mm to the outside of the component, in a volume
    of a single slice within its plane; the generator decides between equals.

    Attributes:
        scatter: probability of any voxel of the component instead, each as likely as the others:
            in training, for people do not always hit the middle. The protocol has 0.
    """

    name: Literal["largest-error"] = "largest-error"
    scatter: float = Field(default=0.0, ge=0, le=1)

    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]:
        is_wrong = seen.label != seen.prediction
        box = bounding_box(is_wrong)
        if box is None:
            return []
        wrong_in_box = is_wrong[box.to_slices()]
        # shifted by one: 0 means correct here, and background is a true label too
        true_label_of_errors = (seen.label[box.to_slices()].short() + 1) * wrong_in_box
        clicked = _relative_to(box, itertools.chain.from_iterable(seen.clicked))
        component = largest_component(true_label_of_errors.cpu().numpy(), clicked)
        region = torch.from_numpy(component.mask)
        clicked_inside = _relative_to(component.box, clicked)
        if self.scatter and _draw_fraction(generator) < self.scatter:
            voxel = _draw_uniform(_without_clicked(region, clicked_inside), generator)
        else:
            depth_mm = distance_to_outside(region, seen.spacing_mm, flat_axis(seen.label.shape))
            voxel = _draw_deepest(region, depth_mm, generator, clicked_inside)
        index = _moved(_moved(voxel, component.box.start), box.start)
        return [SimulatedClick(component.value - 1, index)]


class Corrective(_Strategy):
    """One click for every label, background included, whose missed region is not empty.

    SW-FastEdit's default for validation. It means to weight voxels by their distance to the
    region's border but clips that distance to 1.7e-7 first, which makes it ``uniform``;
    ``border-distance`` is what it means.
    """

    name: Literal["corrective"] = "corrective"
    weighting: Weighting = "uniform"

    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]:
        return _click_in_each(
            (
                missed_region(seen.label, seen.prediction, label_index)
                for label_index in range(len(seen.clicked))
            ),
            self.weighting,
            generator,
            seen.clicked,
        )


class NonCorrective(_Strategy):
    """One click for every label that is there, uniform over its voxels, right or wrong."""

    name: Literal["non-corrective"] = "non-corrective"

    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]:
        return _click_in_each(
            (seen.label == label_index for label_index in range(len(seen.clicked))),
            "uniform",
            generator,
            seen.clicked,
        )


class PatchCorrective(_Strategy):
    """`Corrective`, for each label inside the patch with the worst Dice loss for that label.

    The patches are a grid without overlap that starts at voxel (0, 0, 0). Only those that miss
    voxels of the label compete, so that every label with errors gets its click; of equal ones
    the first wins.

    Attributes:
        patch_size: voxels along each axis.
    """

    name: Literal["patch-corrective"] = "patch-corrective"
    patch_size: int = Field(default=128, ge=1)
    weighting: Weighting = "uniform"

    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]:
        return _click_in_each(
            (self._missed_in_worst_patch(seen, index) for index in range(len(seen.clicked))),
            self.weighting,
            generator,
            seen.clicked,
        )

    def _missed_in_worst_patch(self, seen: Situation, label_index: int) -> Bool[Tensor, "i j k"]:
        missed = missed_region(seen.label, seen.prediction, label_index)
        patches = [patch for patch in self._grid(missed.shape) if missed[patch.to_slices()].any()]
        if not patches:
            return missed
        worst = min(
            patches,
            key=lambda patch: dice_of_label(
                seen.label[patch.to_slices()], seen.prediction[patch.to_slices()], label_index
            ),
        )
        in_worst = torch.zeros_like(missed)
        in_worst[worst.to_slices()] = missed[worst.to_slices()]
        return in_worst

    def _grid(self, shape: Sequence[int]) -> list[Box]:
        size = self.patch_size
        starts = itertools.product(*(range(0, length, size) for length in shape))
        return [Box((i, j, k), (i + size, j + size, k + size)).clip(shape) for i, j, k in starts]


class DeepGrow(_Strategy):
    """`Corrective`, but each step only with some probability.

    Attributes:
        probability: of clicking in a step; 0.4 is what DeepEdit trains with.
    """

    name: Literal["deepgrow"] = "deepgrow"
    probability: float = Field(default=0.4, ge=0, le=1)
    weighting: Weighting = "uniform"

    def _choose(self, seen: Situation, generator: torch.Generator) -> list[SimulatedClick]:
        if _draw_fraction(generator) >= self.probability:
            return []
        return Corrective(weighting=self.weighting)._choose(seen, generator)


ClickStrategy: TypeAlias = Annotated[
    LargestError | Corrective | NonCorrective | PatchCorrective | DeepGrow,
    Field(discriminator="name"),
]


def _click_in_each(
    regions: Iterable[Bool[Tensor, "i j k"]],
    weighting: Weighting,
    generator: torch.Generator,
    clicked: Sequence[Sequence[Index3]],
) -> list[SimulatedClick]:
    """One click in the region of each label that is not empty."""
    clicks: list[SimulatedClick] = []
    for label_index, region in enumerate(regions):
        box = bounding_box(region)
        if box is None:
            continue
        voxel = _draw_weighted(
            region[box.to_slices()],
            flat_axis(region.shape),
            weighting,
            generator,
            _relative_to(box, clicked[label_index]),
        )
        clicks.append(SimulatedClick(label_index, _moved(voxel, box.start)))
    return clicks


def _draw_deepest(
    region: Bool[Tensor, "i j k"],
    depth_mm: Float[Tensor, "i j k"],
    generator: torch.Generator,
    clicked: Sequence[Index3],
) -> Index3:
    candidates = _without_clicked(region, clicked)
    deepest_mm = depth_mm[candidates].max()
    return _draw_uniform(candidates & (depth_mm >= deepest_mm * (1 - _TIE_TOLERANCE)), generator)


def _draw_weighted(
    region: Bool[Tensor, "i j k"],
    flat: int | None,
    weighting: Weighting,
    generator: torch.Generator,
    clicked: Sequence[Index3],
) -> Index3:
    candidates = _without_clicked(region, clicked)
    if weighting == "uniform":
        return _draw_uniform(candidates, generator)
    # in voxels: a squared distance is an integer then, the same on every device
    distances = distance_to_outside(region, flat=flat)[candidates].cpu().double()
    # (exp(d) - 1) / exp(deepest): the same proportions, and no overflow
    deepest = distances.max()
    cumulative = (torch.exp(distances - deepest) - torch.exp(-deepest)).cumsum(0)
    drawn = _draw_fraction(generator) * cumulative[-1]
    rank = min(int(torch.searchsorted(cumulative, drawn, right=True)), len(cumulative) - 1)
    i, j, k = candidates.nonzero()[rank].tolist()
    return (i, j, k)


def _draw_uniform(candidates: Bool[Tensor, "i j k"], generator: torch.Generator) -> Index3:
    # slice by slice, as the list of all background voxels of a large volume would take gigabytes
    count_to_slice = candidates.sum(dim=(1, 2)).cumsum(0).cpu()
    rank = int(_draw_fraction(generator) * int(count_to_slice[-1]))
    i = int(torch.searchsorted(count_to_slice, rank, right=True))
    rank_in_slice = rank - (int(count_to_slice[i - 1]) if i else 0)
    j, k = candidates[i].nonzero()[rank_in_slice].tolist()
    return (i, j, k)


def _draw_fraction(generator: torch.Generator) -> float:
    """Uniform in [0, 1); 53 random bits, as 24 would not tell the voxels of a volume apart."""
    return torch.rand((), dtype=torch.float64, generator=generator).item()


def _without_clicked(
    region: Bool[Tensor, "i j k"], clicked: Sequence[Index3]
) -> Bool[Tensor, "i j k"]:
    """The region less the clicked voxels, or all of it when nothing else is left."""
    unclicked = region.clone()
    for index in clicked:
        unclicked[index] = False
    return unclicked if unclicked.any() else region


def _relative_to(box: Box, indices: Iterable[Index3]) -> list[Index3]:
    """The voxels that lie inside the box, counted from its start."""
    i, j, k = box.start
    return [_moved(index, (-i, -j, -k)) for index in indices if box.contains(index)]


def _moved(index: Index3, by: Index3) -> Index3:
    return (index[0] + by[0], index[1] + by[1], index[2] + by[2])
