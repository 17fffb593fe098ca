"""Training crops and their augmentation: parameters drawn from a seed, then applied.

The same seed gives the same crop bit for bit, on any worker, in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from monai.networks.layers import GaussianFilter
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
)
from torch import Tensor

from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.resampling import sample
from voxclick.types import ImageTensor, Index3, LabelTensor

Range = tuple[float, float]


def _ordered(limits: Range) -> Range:
    if limits[0] > limits[1]:
        raise ValueError(f"the smaller limit comes first, got {limits}")
    return limits


_Factors = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
_Sigmas = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_ordered)]


class AugmentationSettings(BaseModel):
    """Crops of a single slice are varied in its plane alone.

    Attributes:
    positive_fraction: share of the crops that are centred on a foreground voxel, as far as the
        volume's border allows; the others lie anywhere, or where `inside_body` says.
    inside_body: keeps the other crops out of the air: they lie in the box around all that is
        brighter than air (`ModelSettings.air_below`), as far as they fit in.
    flip_probability: of a flip, for each axis by itself.
    rotate90_probability: of a rotation by 90, 180 or 270 degrees in the plane of i and j; crops
        that are not square there are turned by 180.
    affine_probability: of a small rotation and zoom.
    rotation_degrees: largest angle around each axis.
    zoom: smallest and largest magnification; every axis also gets up to 10 % of its own.
    intensity_probability: of each of scaling, gamma and noise by itself.
    intensity_scale: smallest and largest factor on the (already scaled) intensities.
    gamma: smallest and largest exponent on them.
    noise: largest standard deviation of added Gaussian noise.
    blur_probability: of a Gaussian blur.
    blur_sigma: smallest and largest, in voxels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive_fraction: float = Field(default=0.6, ge=0, le=1)
    inside_body: bool = False
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    rotate90_probability: float = Field(default=0.5, ge=0, le=1)
    affine_probability: float = Field(default=0.0, ge=0, le=1)
    rotation_degrees: float = Field(default=17.0, ge=0)
    zoom: _Factors = (0.75, 1.3)
    intensity_probability: float = Field(default=0.0, ge=0, le=1)
    intensity_scale: _Factors = (0.7, 1.4)
    gamma: _Factors = (0.8, 1.25)
    noise: float = Field(default=0.05, ge=0)
    blur_probability: float = Field(default=0.0, ge=0, le=1)
    blur_sigma: _Sigmas = (0.4, 1.0)


class CropSampler:
    """Draws where the crops of one case lie.

    It remembers the foreground voxels, so that drawing does not search the volume each time.

    Args:
        label: label indices (i, j, k).
        within: crops that are not centred on foreground lie in this box as far as they fit; None
            for the whole volume.
    """

    def __init__(self, label: LabelTensor, within: Box | None = None) -> None:
        self._shape = np.array(label.shape)
        self._within = Box.of_shape(label.shape) if within is None else within
        self._foreground = torch.nonzero(label.flatten()).squeeze(1).numpy().astype(np.int64)

    def draw_start(
        self, crop: Index3, positive_fraction: float, generator: np.random.Generator
    ) -> Index3:
        """The crop's first voxel; negative where the volume is smaller than the crop.

        On such an axis the volume lies anywhere inside the crop, else the crop inside the volume.
        """
        room = self._shape - np.array(crop)
        low, high = np.minimum(room, 0), np.maximum(room, 0)
        if len(self._foreground) and generator.random() < positive_fraction:
            voxel = generator.choice(self._foreground)
            centre = np.array(np.unravel_index(voxel, self._shape))
            wanted = centre - np.array(crop) // 2
            start = np.where(
                room >= 0, np.clip(wanted, low, high), generator.integers(low, high + 1)
            )
        else:
            ends = (self._within.start, np.array(self._within.stop) - crop)
            first, last = np.minimum(*ends), np.maximum(*ends)
            start = generator.integers(np.clip(first, low, high), np.clip(last, low, high) + 1)
        i, j, k = start.tolist()
        return (i, j, k)


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What was drawn for one crop.

    Attributes:
        start: the crop's first voxel.
        flips: axes to flip, 0 to 2.
        quarter_turns: rotations by 90 degrees from i to j.
        affine: 3 x 3, from offsets to the crop's centre to offsets in the volume; None for none.
        intensity_scale: factor.
        gamma: exponent.
        noise: standard deviation.
        noise_seed: of the noise.
        blur_sigma: in voxels, 0 for none.
    """

    start: Index3
    flips: tuple[int, ...]
    quarter_turns: int
    affine: NDArray[np.float64] | None
    intensity_scale: float
    gamma: float
    noise: float
    noise_seed: int
    blur_sigma: float


def draw_augmentation(
    sampler: CropSampler, crop: Index3, settings: AugmentationSettings, seed: int
) -> Augmentation:
    """Draw everything for one crop."""
    generator = np.random.default_rng(seed)

    def happens(probability: float) -> bool:
        # drawn even when certain, so that one setting does not shift the draws of the others
        return bool(generator.random() < probability)

    def uniform(limits: Range, probability: float, otherwise: float) -> float:
        drawn = generator.uniform(*limits)
        return float(drawn) if happens(probability) else otherwise

    start = sampler.draw_start(crop, settings.positive_fraction, generator)
    flips = tuple(axis for axis in range(3) if happens(settings.flip_probability))
    turns = int(generator.integers(1, 4)) if happens(settings.rotate90_probability) else 0
    affine = _draw_affine(settings, generator, flat_axis(crop))
    return Augmentation(
        start=start,
        flips=flips,
        quarter_turns=turns if crop[0] == crop[1] else 2 * (turns % 2),
        affine=affine if happens(settings.affine_probability) else None,
        intensity_scale=uniform(settings.intensity_scale, settings.intensity_probability, 1.0),
        gamma=uniform(settings.gamma, settings.intensity_probability, 1.0),
        noise=uniform((0.0, settings.noise), settings.intensity_probability, 0.0),
        noise_seed=int(generator.integers(0, 2**31)),
        blur_sigma=uniform(settings.blur_sigma, settings.blur_probability, 0.0),
    )


def augment(
    image: ImageTensor,
    label: LabelTensor,
    crop: Index3,
    settings: AugmentationSettings,
    seed: int,
    *,
    sampler: CropSampler | None = None,
) -> tuple[ImageTensor, LabelTensor]:
    """One training sample.

    Args:
        image: float32 (channel, i, j, k), preprocessed.
        label: label indices (i, j, k).
        crop: voxels of the sample along (i, j, k); what lies outside the volume is 0 and
            background.
        settings: how much is varied.
        seed: decides everything.
        sampler: of this label, if crops are drawn from it more than once.

    Returns:
        Image (channel, *crop) and label (*crop), both contiguous.
    """
    drawn = draw_augmentation(sampler or CropSampler(label), crop, settings, seed)
    image, label = _cut(image, label, crop, drawn)
    if drawn.quarter_turns:
        image = torch.rot90(image, drawn.quarter_turns, (1, 2))
        label = torch.rot90(label, drawn.quarter_turns, (0, 1))
    if drawn.flips:
        image = image.flip([axis + 1 for axis in drawn.flips])
        label = label.flip(drawn.flips)
    return _vary_intensity(image, drawn).contiguous(), label.contiguous()


def _draw_affine(
    settings: AugmentationSettings, generator: np.random.Generator, flat: int | None
) -> NDArray[np.float64]:
    """Rotation and zoom; of a single slice, around and beside its flat axis."""
    zoom = generator.uniform(*settings.zoom) * generator.uniform(0.9, 1.1, size=3)
    largest = math.radians(settings.rotation_degrees)
    angles = generator.uniform(-largest, largest, size=3)
    if flat is not None:
        zoom[flat] = 1.0
        angles[np.arange(3) != flat] = 0.0
    matrix = np.diag(1 / zoom)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[[a, b], [a, b]] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _cut(
    image: ImageTensor, label: LabelTensor, crop: Index3, drawn: Augmentation
) -> tuple[ImageTensor, LabelTensor]:
    if drawn.affine is None:
        return _slice(image, crop, drawn.start), _slice(label[None], crop, drawn.start)[0]
    centre = (np.array(crop) - 1) / 2
    to_volume = np.eye(4)
    to_volume[:3, :3] = drawn.affine
    to_volume[:3, 3] = np.array(drawn.start) + centre - drawn.affine @ centre
    return (
        sample(image, to_volume, crop, "zeros"),
        _sample_label(label, to_volume, crop),
    )


def _slice(volume: Tensor, crop: Index3, start: Index3) -> Tensor:
    cut = volume.new_zeros((len(volume), *crop))
    source, target = [], []
    for first, length, n in zip(start, crop, volume.shape[1:], strict=True):
        low, high = max(first, 0), min(first + length, n)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    cut[(slice(None), *target)] = volume[(slice(None), *source)]
    return cut


def _sample_label(label: LabelTensor, to_volume: NDArray[np.float64], crop: Index3) -> LabelTensor:
    """The label with the largest share of each voxel, as `Preprocessing.prepare_label` has it."""
    present = torch.unique(label)
    shares = torch.stack([label == index for index in present]).float()
    # beyond the volume every share is 0, and there is background
    sampled = torch.cat([torch.zeros(1, *crop), sample(shares, to_volume, crop, "zeros")])
    indices = torch.cat([present.new_zeros(1), present])
    return indices[sampled.argmax(dim=0)]


def _blurred(image: ImageTensor, sigma: float) -> ImageTensor:
    """A Gaussian blur; of a single slice in its plane, as beside it are zeros, not neighbours."""
    flat = flat_axis(image.shape[1:])
    if flat is None:
        return GaussianFilter(3, sigma)(image[None])[0]
    return GaussianFilter(2, sigma)(image.squeeze(flat + 1)[None])[0].unsqueeze(flat + 1)


def _vary_intensity(image: ImageTensor, drawn: Augmentation) -> ImageTensor:
    if drawn.blur_sigma:
        image = _blurred(image, drawn.blur_sigma)
    if drawn.gamma != 1:
        # on 0 to 1, so that the exponent moves the middle and keeps the ends
        low = image.amin(dim=(1, 2, 3), keepdim=True)
        span = (image.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1e-6)
        image = ((image - low) / span) ** drawn.gamma * span + low
    if drawn.intensity_scale != 1:
        image = image * drawn.intensity_scale
    if drawn.noise:
        generator = torch.Generator().manual_seed(drawn.noise_seed)
        image = image + torch.randn(image.shape, generator=generator) * drawn.noise
    return image
