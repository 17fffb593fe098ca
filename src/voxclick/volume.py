"""Volumes: voxels with the affine that says where they lie in the patient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import ClickError, GeometryError
from voxclick.geometry.affine import AFFINE_TOLERANCE_MM, apply_affine, as_affine, spacing_of
from voxclick.types import Index3, Vector3


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """A grid without voxels.

    Attributes:
        shape: voxels along (i, j, k).
        affine: 4 x 4 float64, voxel index (i, j, k) to RAS+ patient mm.
    """

    shape: Index3
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a volume must have three axes of 1 voxel or more: {self.shape}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", as_affine(self.affine))

    @cached_property
    def spacing_mm(self) -> Vector3:
        return spacing_of(self.affine)

    @cached_property
    def voxel_volume_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def corners_mm(self) -> NDArray[np.float64]:
        """Patient mm of the eight corner voxels' centres, shape (8, 3)."""
        corners = list(itertools.product(*((0, n - 1) for n in self.shape)))
        return apply_affine(self.affine, np.array(corners, dtype=np.float64))

    def to_mm(self, index: tuple[float, float, float]) -> Vector3:
        """RAS+ patient mm of a (fractional) voxel index."""
        x, y, z = apply_affine(self.affine, np.array(index)).tolist()
        return (x, y, z)

    def to_index(self, position_mm: Vector3) -> Index3:
        """The voxel whose centre is nearest (in index space) to a RAS+ position in mm.

        Raises:
            ClickError: the position lies outside the volume, or is not finite.
        """
        if not np.isfinite(position_mm).all():
            raise ClickError(f"expected a position in mm, got {tuple(position_mm)}")
        inverse = as_affine(np.linalg.inv(self.affine))
        i, j, k = np.rint(apply_affine(inverse, np.array(position_mm))).astype(int).tolist()
        if not all(0 <= x < n for x, n in zip((i, j, k), self.shape, strict=True)):
            raise ClickError(
                f"the position {tuple(position_mm)} mm (RAS) lies outside the image: it is voxel "
                f"{(i, j, k)} of {self.shape}"
            )
        return (i, j, k)

    def matches(self, other: VolumeGeometry, tolerance_mm: float = AFFINE_TOLERANCE_MM) -> bool:
        """Whether both grids have the same shape and put their corners in the same places."""
        return self.shape == other.shape and bool(
            np.abs(self.corners_mm - other.corners_mm).max() <= tolerance_mm
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """One scalar 3D image.

    Attributes:
        voxels: array of shape (i, j, k), any real dtype.
        affine: 4 x 4, voxel index to RAS+ patient mm.
        path: the file it was read from, for messages; None when made in memory.
    """

    voxels: NDArray[np.generic]
    affine: NDArray[np.float64]
    path: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise GeometryError(f"a volume must have three axes, got shape {self.voxels.shape}")
        object.__setattr__(self, "affine", as_affine(self.affine))

    @cached_property
    def geometry(self) -> VolumeGeometry:
        i, j, k = self.voxels.shape
        return VolumeGeometry((i, j, k), self.affine)

    @property
    def shape(self) -> Index3:
        return self.geometry.shape

    @property
    def spacing_mm(self) -> Vector3:
        return self.geometry.spacing_mm


@dataclass(frozen=True, eq=False)
class LabelMap(Volume):
    """A volume of label indices (an integer dtype); 0 is background.

    Attributes:
        labels: label names by index, ``labels[0]`` is the background.

    Raises:
        GeometryError: no integers, or negative ones.
    """

    labels: tuple[str, ...] = field(default=("background", "foreground"), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.issubdtype(self.voxels.dtype, np.integer):
            raise GeometryError(f"a label map must hold integers, got {self.voxels.dtype}")
        is_signed = np.issubdtype(self.voxels.dtype, np.signedinteger)
        if is_signed and self.voxels.size and int(np.min(self.voxels)) < 0:
            raise GeometryError(f"a label map holds indices from 0, got {np.min(self.voxels)}")

    def mask(self, label: str) -> NDArray[np.bool_]:
        """The voxels of one label."""
        if label not in self.labels:
            raise KeyError(f"no label {label!r}; there are {', '.join(self.labels)}")
        return self.voxels == self.labels.index(label)
