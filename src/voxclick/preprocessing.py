"""From the image file to what the network sees, and back.

Two steps lead from the file's grid to the network's: flips and swaps of axes to RAS+ (exact), then
resampling to the spacing the network was trained with. Both are worked out in a frame whose origin
is the first voxel, so that neither the file's axis order nor its place in the scanner can change a
bit of what the network sees. Nothing is resampled where the spacing already fits.

An image of a single slice is turned so that its slice lies along k, wherever the scan or the file
has it; the axes in its plane keep the order of the patient's. It stays one slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from monai.data.utils import compute_shape_offset, zoom_affine
from monai.networks.layers import AffineTransform
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from voxclick.clicks import Click
from voxclick.errors import GeometryError, UnsupportedImageError
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.memory_map import is_large, release, slabs, temporary_map
from voxclick.percentiles import percentiles
from voxclick.types import ImageTensor, Index3, LabelTensor, MarginsTensor, Vector3
from voxclick.volume import LabelMap, Volume, VolumeGeometry

SPACING_TOLERANCE_MM = 1e-3
"""An axis this near to the wanted spacing keeps its own (MONAI's tolerance in `Spacing`)."""

_BLOCK_VOXELS = 64
"""Edge of the cubes that are resampled one by one: it bounds memory, and restoring passes over the
cubes that hold background alone."""

_ROUNDING = 1e-6
"""Of a voxel: what the place of a voxel's centre may be off."""

_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
"""nibabel's orientation array of an image that lies as the network sees it."""

_PositiveMm: TypeAlias = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PercentileScaling(_Settings):
    """Percentiles `low` and `high` of the image to 0 and 1, clipped."""

    kind: Literal["percentile"] = "percentile"
    low: float = Field(default=0.05, ge=0, le=100)
    high: float = Field(default=99.95, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> PercentileScaling:
        _refuse_empty_range(self.low, self.high)
        return self


class RangeScaling(_Settings):
    """The values `low` and `high` to 0 and 1, clipped unless told otherwise."""

    kind: Literal["range"] = "range"
    low: float
    high: float
    clip: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> RangeScaling:
        _refuse_empty_range(self.low, self.high)
        return self


class LogScaling(_Settings):
    """log(1 + max(x, 0)) / log(1 + high), not clipped: for SUV, whose hot end is long and thin."""

    kind: Literal["log"] = "log"
    high: float = Field(gt=0)


IntensityScaling: TypeAlias = Annotated[
    PercentileScaling | RangeScaling | LogScaling, Field(discriminator="kind")
]


class PreprocessingSettings(_Settings):
    """What is stored with the weights.

    Attributes:
        spacing_mm: of the network's grid along x, y and z; None keeps the image's own. Of a single
            slice the first two are those in its plane, and its thickness stays.
        intensity: one scaling per image channel.
    """

    spacing_mm: tuple[_PositiveMm, _PositiveMm, _PositiveMm] | None = None
    intensity: tuple[IntensityScaling, ...] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Regridding:
    """How the voxels of the file become the voxels of the network.

    Attributes:
        orientation: nibabel's orientation array, from the file's axes to RAS+, and of a single
            slice on to (in its plane, in its plane, across it).
        oriented: the file's grid with its axes flipped and swapped so, and its first voxel at 0 mm.
        network: the network's grid in the same frame; the very object `oriented` where nothing
            is resampled.
    """

    orientation: NDArray[np.float64]
    oriented: VolumeGeometry
    network: VolumeGeometry

    @staticmethod
    def between(source: VolumeGeometry, spacing_mm: Vector3 | None) -> Regridding:
        """Plan the way from a file's grid to a RAS+ grid of this spacing (None: its own)."""
        orientation = _slice_last(_orientation_to_ras(source.affine), flat_axis(source.shape))
        i, j, k = orientation[:, 0].argsort().tolist()
        shape = (source.shape[i], source.shape[j], source.shape[k])
        affine = source.affine @ inv_ornt_aff(orientation, source.shape)
        affine[:3, 3] = 0.0
        oriented = VolumeGeometry(shape, affine + 0.0)  # no negative zeros
        return Regridding(orientation, oriented, _network_grid(oriented, spacing_mm))

    @property
    def resamples(self) -> bool:
        return self.network is not self.oriented

    @cached_property
    def file_from_oriented(self) -> NDArray[np.float64]:
        """4 x 4, voxel of the oriented grid to voxel of the file; whole numbers."""
        file_shape = np.array(self.oriented.shape)[self.orientation[:, 0].astype(int)]
        return inv_ornt_aff(self.orientation, file_shape)

    @cached_property
    def oriented_from_file(self) -> NDArray[np.float64]:
        """4 x 4, voxel of the file to voxel of the oriented grid; whole numbers."""
        return np.rint(_inverse(self.file_from_oriented))

    @cached_property
    def network_from_oriented(self) -> NDArray[np.float64]:
        """4 x 4, voxel of the oriented grid to (fractional) voxel of the network's."""
        return _inverse(self.network.affine) @ self.oriented.affine if self.resamples else np.eye(4)

    @cached_property
    def oriented_from_network(self) -> NDArray[np.float64]:
        """4 x 4, voxel of the network's grid to (fractional) voxel of the oriented one."""
        return _inverse(self.network_from_oriented)

    def box_to_file(self, box: Box) -> Box:
        """The file's voxels that a box of the oriented grid holds."""
        return _mapped(box, self.file_from_oriented)

    def box_to_oriented(self, box: Box) -> Box:
        """The oriented grid's voxels that a box of the file holds."""
        return _mapped(box, self.oriented_from_file)

    def orient(self, voxels: NDArray[np.generic]) -> NDArray[np.generic]:
        """The file's array with its axes turned as `orientation` says; a view."""
        return apply_orientation(voxels, self.orientation)

    def disorient(self, voxels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An array on the oriented grid turned back to the file's axes."""
        back = ornt_transform(_RAS, self.orientation)
        return np.ascontiguousarray(apply_orientation(voxels, back))


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as the network sees it.

    Attributes:
        voxels: float32, (channel, i, j, k) on the network's grid; of a large image, a map of a
            temporary file.
        geometry: the network's grid, its axes along RAS+ as nearly as the scan allows; of a single
            slice, those in its plane and then the one across it.
        source: the grid of the image file.
        regridding: what lies between the two grids.
    """

    voxels: NDArray[np.float32]
    geometry: VolumeGeometry
    source: VolumeGeometry
    regridding: Regridding

    @staticmethod
    def of_source(
        voxels: NDArray[np.float32], source: VolumeGeometry, settings: PreprocessingSettings
    ) -> PreparedImage:
        """The prepared image that these settings make on the way from a file's grid.

        Raises:
            GeometryError: the voxels do not have the shape of the network's grid.
        """
        grids = Regridding.between(source, settings.spacing_mm)
        if voxels.shape[1:] != grids.network.shape:
            raise GeometryError(
                f"a prepared image of {source.shape} voxels has the shape {grids.network.shape}, "
                f"got {voxels.shape[1:]}"
            )
        return PreparedImage(voxels, _placed(grids, source), source, grids)

    @cached_property
    def image(self) -> ImageTensor:
        """The voxels as a tensor, which shares their memory."""
        return torch.from_numpy(self.voxels)

    def read(self, box: Box) -> Tensor:
        """A copy of the voxels (channel, i, j, k) in a box of the network's grid."""
        values = self.image[(slice(None), *box.to_slices())].clone()
        release(self.voxels)
        return values

    def click_to_network(self, index: Index3) -> Index3:
        """The network's voxel at the centre of a file's voxel, clipped into the network's grid."""
        grids = self.regridding
        oriented = apply_affine(grids.oriented_from_file, np.array(index))
        position = apply_affine(grids.network_from_oriented, oriented)
        return _nearest_voxel(position, grids.network.shape)

    def clicks_to_network(
        self, clicks: Collection[Click], labels: Sequence[str]
    ) -> list[list[Index3]]:
        """The clicked voxels of the network's grid, one list per label, in the labels' order."""
        return [
            [self.click_to_network(click.index) for click in clicks if click.label == label]
            for label in labels
        ]

    def box_to_network(self, box: Box) -> Box:
        """The network's voxels that the labels in a box of the file depend on."""
        return _needed_for(self.regridding.box_to_oriented(box), self.regridding)

    def network_to_file(self, index: Index3) -> Index3:
        """The file's voxel at the centre of a network's voxel, clipped into the file's grid."""
        grids = self.regridding
        position = apply_affine(grids.oriented_from_network, np.array(index))
        oriented = _nearest_voxel(position, grids.oriented.shape)
        return _nearest_voxel(
            apply_affine(grids.file_from_oriented, np.array(oriented)), self.source.shape
        )


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


class Preprocessing:
    """Prepares images for a network and brings its answer back to the file's grid."""

    def __init__(self, settings: PreprocessingSettings) -> None:
        self.settings = settings

    def prepare(self, volumes: Sequence[Volume], folder: Path | None = None) -> PreparedImage:
        """Orient, resample (linearly) and scale the channels of one image.

        Args:
            volumes: one per channel.
            folder: for the temporary file of an image that is too large to be kept in memory;
                None for the system's.

        Raises:
            GeometryError: not one volume per channel, or volumes on different grids.
            UnsupportedImageError: NaN or infinite voxels, which `read_volume` would have filled.
        """
        _check_channels(volumes, len(self.settings.intensity))
        source = volumes[0].geometry
        grids = Regridding.between(source, self.settings.spacing_mm)
        shape = (len(volumes), *grids.network.shape)
        on_disk = is_large(shape)
        image = temporary_map(shape, np.float32, folder) if on_disk else np.empty(shape, np.float32)
        for volume, channel, scaling in zip(volumes, image, self.settings.intensity, strict=True):
            _write_to_network(_finite(volume), grids, channel)
            _scale_intensity(channel, scaling)
        return PreparedImage.of_source(image, source, self.settings)

    def prepare_label(self, label_map: LabelMap, prepared: PreparedImage) -> LabelTensor:
        """Bring a label map to the network's grid.

        Each label's share of a voxel is interpolated linearly and the largest wins, as in
        nnU-Net: on the coarser grid that follows a surface better than the nearest voxel does.
        Equal shares count as the label with the lower index.

        Returns:
            uint8 label indices.

        Raises:
            GeometryError: the label map does not lie on the image's grid.
        """
        if not label_map.geometry.matches(prepared.source):
            raise GeometryError(
                f"{_name(label_map, 'the label map')} lies on another grid than its image: "
                f"{_grid(label_map.geometry)}, expected {_grid(prepared.source)}"
            )
        grids = prepared.regridding
        if not grids.resamples:
            return _to_network(label_map.voxels, grids).to(torch.uint8)
        label = torch.zeros(grids.network.shape, dtype=torch.uint8)
        largest = _to_network(label_map.voxels == 0, grids)
        for index in np.setdiff1d(label_map.voxels, 0).tolist():
            share = _to_network(label_map.voxels == index, grids)
            label[share > largest] = index
            largest = torch.maximum(largest, share)
        return label

    def restore(
        self,
        read: ReadMargins,
        prepared: PreparedImage,
        changed: Sequence[Box] | None = None,
    ) -> Iterator[LabelPatch]:
        """Label voxels of the file: linear interpolation of the margins, then the largest wins.

        Background is where no margin is positive; equal margins count as the label with the
        lower index. A voxel's label does not depend on which others are restored with it.

        Args:
            read: the margins in a box of the network's grid, on any device.
            prepared: the image that the margins belong to.
            changed: boxes of the network's grid: only what depends on them (and a little around
                it) is read and restored. None for everything.

        Yields:
            Labels of boxes of the file that do not overlap.
        """
        grids = prepared.regridding
        parts = list(_parts_of_blocks(grids, changed))
        for _, row in itertools.groupby(parts, key=lambda part: part.block.start[0]):
            # what lies together in a row is read at once: what it shares is computed once
            in_row = list(row)
            for together in _filling(part.box for part in in_row):
                here = [part for part in in_row if together.contains(part.box.start)]
                under = Box.union(part.needed for part in here)
                assert under is not None  # no part is empty
                margins = read(under)
                for part in here:
                    there = part.needed.relative_to(under.start).to_slices()
                    yield _patch(_label_part(margins[(..., *there)], part, grids), part.box, grids)

    def restore_inside(
        self,
        margins: MarginsTensor,
        box: Box,
        prepared: PreparedImage,
        shown: NDArray[np.uint8],
    ) -> LabelPatch:
        """Label the file's voxels whose centres lie in one box, from what is known there alone.

        Args:
            margins: (foreground, i, j, k) in the box.
            box: of the network's grid.
            prepared: the image that the margins belong to.
            shown: uint8 label indices of the whole file, which the other voxels of the patch keep.
        """
        grids = prepared.regridding
        target = box
        if grids.resamples:
            target = _window_under(box, grids.oriented_from_network, grids.oriented.shape)
        labels = grids.orient(shown)[target.to_slices()].astype(np.uint8)
        for block in _blocks(target):
            is_inside = _is_inside(block, box, grids)
            if is_inside.any():
                needed = _needed_for(block, grids).intersect(box)
                there = margins[(..., *needed.relative_to(box.start).to_slices())]
                known = _label_block(there, needed, grids, block)
                np.copyto(
                    labels[block.relative_to(target.start).to_slices()], known, where=is_inside
                )
        return _patch(labels, target, grids)


def label_of_margins(margins: MarginsTensor) -> LabelTensor:
    """uint8 label indices (i, j, k): the largest margin that is positive, else background."""
    if len(margins) == 1:
        return (margins[0] > 0).to(torch.uint8)
    best, label = margins.max(dim=0)
    return torch.where(best > 0, label + 1, 0).to(torch.uint8)


def check_slices(shape: Index3, window: Index3, name: str) -> None:
    """Refuse a single slice for a network that looks at several together.

    Padded with zeros it could run, but would see what no scan has shown it in training.

    Args:
        shape: of the image on the network's grid.
        window: what the network sees at once.
        name: of the image.

    Raises:
        UnsupportedImageError: the image is one slice, the window has more.
    """
    if flat_axis(shape) is not None and window[2] > 1:
        raise UnsupportedImageError(
            f"{name}: is a single slice, but the network looks at {window[2]} together (windows of "
            f"{window[0]} x {window[1]} x {window[2]} voxels); take the whole volume, or a network "
            "and windows of one slice (docs/how-to/two-dimensional.md)"
        )


def _refuse_empty_range(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")


def _orientation_to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """nibabel's orientation array of the axes, the same for every way to store a volume.

    At 45 degrees two axes point equally much to the right, and rounding decides between them. So
    the question is put with the axes in an order, and with signs, that storage cannot change.
    """
    axes = affine[:3, :3]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(3)])
    order = np.lexsort(axes * signs)
    sorted_affine = np.eye(4)
    sorted_affine[:3, :3] = (axes * signs)[:, order]
    orientation = np.empty((3, 2))
    orientation[order] = io_orientation(sorted_affine)
    orientation[:, 1] *= signs
    return orientation


def _slice_last(orientation: NDArray[np.float64], flat: int | None) -> NDArray[np.float64]:
    """An orientation that ends with one axis of the file, the others in their order before it."""
    if flat is None:
        return orientation
    axes = orientation[:, 0].copy()
    axes[axes > axes[flat]] -= 1
    axes[flat] = 2
    return np.stack([axes, orientation[:, 1]], axis=1)


def _network_grid(oriented: VolumeGeometry, spacing_mm: Vector3 | None) -> VolumeGeometry:
    """The grid of MONAI's `Spacing`: first voxels in the same place, any shear taken out."""
    if spacing_mm is None:
        return oriented
    own, wanted = np.array(oriented.spacing_mm), np.array(spacing_mm)
    if flat_axis(oriented.shape) == 2:
        wanted[2] = own[2]
    spacing = np.where(np.abs(own - wanted) <= SPACING_TOLERANCE_MM, own, wanted)
    affine = zoom_affine(oriented.affine, spacing, diagonal=False)
    shape, offset = compute_shape_offset(oriented.shape, oriented.affine, affine)
    affine[:3, 3] = offset
    i, j, k = shape.tolist()
    network = VolumeGeometry((i, j, k), affine)
    return oriented if network.matches(oriented) else network


def _inverse(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def _placed(grids: Regridding, source: VolumeGeometry) -> VolumeGeometry:
    """The network's grid where it lies in the patient."""
    i, j, k = grids.file_from_oriented[:3, 3].tolist()
    affine = grids.network.affine.copy()
    affine[:3, 3] += source.to_mm((i, j, k))
    return VolumeGeometry(grids.network.shape, affine)


def _to_network(voxels: NDArray[np.generic], grids: Regridding) -> Tensor:
    """Voxels of the file as float32 on the network's grid, interpolated linearly."""
    channel = np.empty(grids.network.shape, dtype=np.float32)
    _write_to_network(voxels, grids, channel)
    return torch.from_numpy(channel)


def _write_to_network(
    voxels: NDArray[np.generic], grids: Regridding, channel: NDArray[np.float32]
) -> None:
    """`_to_network` into an array that is there, a block at a time."""
    oriented = grids.orient(voxels)
    for block in _blocks(Box.of_shape(grids.network.shape)):
        if block.start[2] == 0:
            # a file's array often runs along i, so that a block touches many pages of it
            release(voxels)
            release(channel)
        if not grids.resamples:
            channel[block.to_slices()] = oriented[block.to_slices()]
            continue
        sampling = grids.oriented_from_network
        window = _window_under(block, sampling, grids.oriented.shape)
        values = np.array(oriented[window.to_slices()], dtype=np.float64)
        (sampled,) = _interpolate(torch.from_numpy(values)[None], window, block, sampling)
        channel[block.to_slices()] = sampled.numpy()


def _finite(volume: Volume) -> NDArray[np.generic]:
    if not all(np.isfinite(part).all() for part in slabs(volume.voxels)):
        raise UnsupportedImageError(
            f"{_name(volume, 'the image')} holds NaN or infinite voxels; replace them first, as "
            "read_volume does for files"
        )
    return volume.voxels


def _label_block(margins: Tensor, needed: Box, grids: Regridding, block: Box) -> NDArray[np.uint8]:
    """Labels of a block of the oriented grid from the margins in the box that it needs.

    Interpolation stays between its inputs, so without a positive margin there is background
    throughout.
    """
    if not (margins > 0).any():
        return np.zeros(block.shape, dtype=np.uint8)
    margins = margins.detach()
    if grids.resamples:
        margins = _interpolate(margins.double(), needed, block, grids.network_from_oriented)
    return label_of_margins(margins).cpu().numpy()


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


def _parts_of_blocks(grids: Regridding, changed: Sequence[Box] | None) -> Iterator[_Part]:
    """What depends on boxes of the network's grid, block by block; None for all of it."""
    whole = Box.of_shape(grids.oriented.shape)
    reached = [whole]
    if changed is not None:
        reached = [_reached_from(box, grids) for box in changed if not box.is_empty]
    for block in _blocks(whole):
        box = Box.union(block.intersect(other) for other in reached)
        if box is not None:
            # rounding may put the corner of a part just outside its block's
            needed = _needed_for(box, grids).intersect(_needed_for(block, grids))
            yield _Part(block, box, needed)


def _label_part(margins: Tensor, part: _Part, grids: Regridding) -> NDArray[np.uint8]:
    """Labels of a part of a block, to the last bit as if the whole block had been labelled.

    The places between the network's voxels are rounded for a whole block. So it is interpolated
    whole, from zeros where the part needs nothing.
    """
    if part.box == part.block or not grids.resamples:
        return _label_block(margins, part.needed, grids, part.box)
    needed = _needed_for(part.block, grids)
    filled = margins.new_zeros((len(margins), *needed.shape))
    filled[(..., *part.needed.relative_to(needed.start).to_slices())] = margins
    labels = _label_block(filled, needed, grids, part.block)
    return labels[part.box.relative_to(part.block.start).to_slices()]


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


def _blocks(box: Box) -> Iterator[Box]:
    """The cubes that a grid is cut into, as far as they lie in a box of it."""
    edge = _BLOCK_VOXELS
    starts = (range(a // edge * edge, b, edge) for a, b in zip(box.start, box.stop, strict=True))
    for i, j, k in itertools.product(*starts):
        yield Box((i, j, k), (i + edge, j + edge, k + edge)).intersect(box)


def _needed_for(block: Box, grids: Regridding) -> Box:
    """The network's voxels that a block of the oriented grid is interpolated from."""
    if not grids.resamples:
        return block
    return _window_under(block, grids.network_from_oriented, grids.network.shape)


def _reached_from(box: Box, grids: Regridding) -> Box:
    """A box of the oriented grid outside which nothing depends on a box of the network's."""
    if not grids.resamples:
        return box
    return _window_under(box.grown(1), grids.oriented_from_network, grids.oriented.shape)


def _window_under(block: Box, sampling: NDArray[np.float64], shape: Index3) -> Box:
    """The source voxels that a block of the target interpolates between.

    Args:
        block: voxels of the target.
        sampling: 4 x 4, voxel of the target to voxel of the source.
        shape: of the source.
    """
    ends = [(a, b - 1) for a, b in zip(block.start, block.stop, strict=True)]
    corners = apply_affine(sampling, np.array(list(itertools.product(*ends))))
    last = np.array(shape) - 1
    # one voxel more on each side, as rounding may move a position across a voxel's centre
    i, j, k = np.clip(np.floor(corners.min(axis=0)) - 1, 0, last).astype(int).tolist()
    m, n, o = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, last).astype(int).tolist()
    return Box((i, j, k), (m + 1, n + 1, o + 1))


def _interpolate(values: Tensor, window: Box, block: Box, sampling: NDArray[np.float64]) -> Tensor:
    """Sample (channel, i, j, k) values of a source window, linearly, at a target block's voxels.

    This is the layer inside MONAI's `SpatialResample`, which itself leaves out what it takes for
    an identity within 0.001: on one block of many that would tear the image.
    """
    to_window, from_block = np.eye(4), np.eye(4)
    to_window[:3, 3] = np.negative(window.start)
    from_block[:3, 3] = block.start
    theta = torch.from_numpy(to_window @ sampling @ from_block).to(values)
    layer = AffineTransform(
        mode="bilinear",
        padding_mode="border",
        normalized=False,
        align_corners=False,
        reverse_indexing=True,
    )
    return layer(values[None], theta=theta, spatial_size=block.shape)[0]


def _scale_intensity(channel: NDArray[np.float32], scaling: IntensityScaling) -> None:
    """Scale a channel in place, a slab at a time."""
    if isinstance(scaling, PercentileScaling):
        low, high = percentiles(lambda: slabs(channel), (scaling.low, scaling.high))
        if low == high:  # nearly all voxels are equal: the few that differ must still be seen
            low, high = percentiles(lambda: slabs(channel), (0.0, 100.0))
        scaling = RangeScaling.model_construct(low=low, high=high)
    for part in slabs(channel):
        _scale(torch.from_numpy(part), scaling)


def _scale(image: Tensor, scaling: LogScaling | RangeScaling) -> None:
    if isinstance(scaling, LogScaling):
        image.clamp_(min=0).log1p_().div_(float(np.log1p(scaling.high)))
        return
    if scaling.low == scaling.high:
        image.zero_()
        return
    image.sub_(scaling.low).div_(scaling.high - scaling.low)
    if scaling.clip:
        image.clamp_(0, 1)


def _mapped(box: Box, whole_numbers: NDArray[np.float64]) -> Box:
    """A box where a matrix of flips and swaps puts it."""
    ends = np.array([box.start, [b - 1 for b in box.stop]])
    corners = np.rint(apply_affine(whole_numbers, ends)).astype(int)
    i, j, k = corners.min(axis=0).tolist()
    m, n, o = corners.max(axis=0).tolist()
    return Box((i, j, k), (m + 1, n + 1, o + 1))


def _nearest_voxel(position: NDArray[np.float64], shape: Index3) -> Index3:
    i, j, k = np.clip(np.rint(position), 0, np.array(shape) - 1).astype(int).tolist()
    return (i, j, k)


def _check_channels(volumes: Sequence[Volume], expected: int) -> None:
    if len(volumes) != expected:
        raise GeometryError(f"expected {expected} image channels, got {len(volumes)}")
    first = volumes[0]
    for volume in volumes[1:]:
        if not volume.geometry.matches(first.geometry):
            raise GeometryError(
                f"the channels of one image must share a grid, but {_name(first, 'the first')} "
                f"has {_grid(first.geometry)} and {_name(volume, 'another')} has "
                f"{_grid(volume.geometry)}; resample one of them to the other's grid"
            )


def _name(volume: Volume, otherwise: str) -> str:
    return otherwise if volume.path is None else str(volume.path)


def _grid(geometry: VolumeGeometry) -> str:
    return f"shape {geometry.shape} and affine {np.round(geometry.affine[:3], 3).tolist()}"
