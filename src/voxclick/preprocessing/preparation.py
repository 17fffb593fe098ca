"""Images and labels on the network's grid."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxclick.clicks import Click
from voxclick.errors import GeometryError, UnsupportedImageError
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.memory_map import is_large, release, slabs, temporary_map
from voxclick.preprocessing.intensity import scale_intensity
from voxclick.preprocessing.regridding import Regridding
from voxclick.preprocessing.settings import PreprocessingSettings
from voxclick.types import ImageTensor, Index3, LabelTensor
from voxclick.volume import LabelMap, Volume, VolumeGeometry


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
        return PreparedImage(voxels, grids.placed(source), source, grids)

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
        return self.regridding.needed_for(self.regridding.box_to_oriented(box))

    def network_to_file(self, index: Index3) -> Index3:
        """The file's voxel at the centre of a network's voxel, clipped into the file's grid."""
        grids = self.regridding
        position = apply_affine(grids.oriented_from_network, np.array(index))
        oriented = _nearest_voxel(position, grids.oriented.shape)
        return _nearest_voxel(
            apply_affine(grids.file_from_oriented, np.array(oriented)), self.source.shape
        )


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
            grids.write_to_network(_finite(volume), channel)
            scale_intensity(channel, scaling)
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
            return grids.to_network(label_map.voxels).to(torch.uint8)
        label = torch.zeros(grids.network.shape, dtype=torch.uint8)
        largest = grids.to_network(label_map.voxels == 0)
        for index in np.setdiff1d(label_map.voxels, 0).tolist():
            share = grids.to_network(label_map.voxels == index)
            label[share > largest] = index
            largest = torch.maximum(largest, share)
        return label


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


def _finite(volume: Volume) -> NDArray[np.generic]:
    if not all(np.isfinite(part).all() for part in slabs(volume.voxels)):
        raise UnsupportedImageError(
            f"{_name(volume, 'the image')} holds NaN or infinite voxels; replace them first, as "
            "read_volume does for files"
        )
    return volume.voxels


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
