"""The way from the file's grid to the network's, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from monai.data.utils import compute_shape_offset, zoom_affine
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from torch import Tensor

from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.memory_map import release
from voxclick.preprocessing.sampling import blocks, interpolate, window_under
from voxclick.types import Vector3
from voxclick.volume import VolumeGeometry

_SPACING_TOLERANCE_MM = 1e-3
"""An axis this near to the wanted spacing keeps its own (MONAI's tolerance in `Spacing`)."""

_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
"""nibabel's orientation array of an image that lies as the network sees it."""


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

    def placed(self, source: VolumeGeometry) -> VolumeGeometry:
        """The network's grid where it lies in the patient, if the file's grid is `source`."""
        i, j, k = self.file_from_oriented[:3, 3].tolist()
        affine = self.network.affine.copy()
        affine[:3, 3] += source.to_mm((i, j, k))
        return VolumeGeometry(self.network.shape, affine)

    def to_network(self, voxels: NDArray[np.generic]) -> Tensor:
        """Voxels of the file as float32 on the network's grid, interpolated linearly."""
        channel = np.empty(self.network.shape, dtype=np.float32)
        self.write_to_network(voxels, channel)
        return torch.from_numpy(channel)

    def write_to_network(self, voxels: NDArray[np.generic], channel: NDArray[np.float32]) -> None:
        """`to_network` into an array that is there, a block at a time."""
        oriented = self.orient(voxels)
        for block in blocks(Box.of_shape(self.network.shape)):
            if block.start[2] == 0:
                # a file's array often runs along i, so that a block touches many pages of it
                release(voxels)
                release(channel)
            if not self.resamples:
                channel[block.to_slices()] = oriented[block.to_slices()]
                continue
            sampling = self.oriented_from_network
            window = window_under(block, sampling, self.oriented.shape)
            values = np.array(oriented[window.to_slices()], dtype=np.float64)
            (sampled,) = interpolate(torch.from_numpy(values)[None], window, block, sampling)
            channel[block.to_slices()] = sampled.numpy()

    def needed_for(self, block: Box) -> Box:
        """The network's voxels that a block of the oriented grid is interpolated from."""
        if not self.resamples:
            return block
        return window_under(block, self.network_from_oriented, self.network.shape)

    def reached_from(self, box: Box) -> Box:
        """A box of the oriented grid outside which nothing depends on a box of the network's."""
        if not self.resamples:
            return box
        return window_under(box.grown(1), self.oriented_from_network, self.oriented.shape)


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
    spacing = np.where(np.abs(own - wanted) <= _SPACING_TOLERANCE_MM, own, wanted)
    affine = zoom_affine(oriented.affine, spacing, diagonal=False)
    shape, offset = compute_shape_offset(oriented.shape, oriented.affine, affine)
    affine[:3, 3] = offset
    i, j, k = shape.tolist()
    network = VolumeGeometry((i, j, k), affine)
    return oriented if network.matches(oriented) else network


def _inverse(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def _mapped(box: Box, whole_numbers: NDArray[np.float64]) -> Box:
    """A box where a matrix of flips and swaps puts it."""
    ends = np.array([box.start, [b - 1 for b in box.stop]])
    corners = np.rint(apply_affine(whole_numbers, ends)).astype(int)
    i, j, k = corners.min(axis=0).tolist()
    m, n, o = corners.max(axis=0).tolist()
    return Box((i, j, k), (m + 1, n + 1, o + 1))
