"""A grid in body coordinates to paint uptake on.

Body coordinates are mm, RAS+: x to the patient's right, y to the front, z to the head; the origin
lies between the legs at the height of the crotch, in the middle of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from voxclick.geometry.box import Box
from voxclick.types import Index3, Vector3


@dataclass(frozen=True, eq=False)
class Canvas:
    """Attributes:
    origin_mm: body coordinates of voxel (0, 0, 0).
    spacing_mm: along x, y, z.
    suv: float32 uptake, painted in place.
    """

    origin_mm: Vector3
    spacing_mm: Vector3
    suv: NDArray[np.float32]

    @property
    def shape(self) -> Index3:
        i, j, k = self.suv.shape
        return (i, j, k)

    def box_around(self, centre_mm: Vector3, reach_mm: Vector3) -> Box:
        """The voxels within a reach of a point, cut at the border; may be empty."""
        start, stop = [], []
        for c, r, o, s in zip(centre_mm, reach_mm, self.origin_mm, self.spacing_mm, strict=True):
            start.append(int(np.floor((c - r - o) / s)))
            stop.append(int(np.ceil((c + r - o) / s)) + 1)
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])).clip(self.shape)

    def coordinates(self, box: Box) -> tuple[NDArray, NDArray, NDArray]:
        """Body coordinates of a box's voxels, as three arrays that broadcast to its shape."""
        x, y, z = (
            (o + s * np.arange(a, b)).astype(np.float32)
            for o, s, a, b in zip(self.origin_mm, self.spacing_mm, box.start, box.stop, strict=True)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def ellipsoid_radius(self, box: Box, centre_mm: Vector3, radii_mm: Vector3) -> NDArray:
        """Of each voxel in a box: 0 at the centre, 1 on the ellipsoid's surface."""
        squared = sum(
            ((p - c) / r) ** 2
            for p, c, r in zip(self.coordinates(box), centre_mm, radii_mm, strict=True)
        )
        return np.sqrt(squared, dtype=np.float32)


def smooth_noise(
    shape: tuple[int, ...], correlation: Vector3 | float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Gaussian noise of mean 0 and standard deviation 1, smooth over ``correlation`` voxels."""
    white = generator.standard_normal(shape, dtype=np.float32)
    smooth = gaussian_filter(white, correlation, mode="wrap")
    deviation = float(smooth.std())
    return (smooth - smooth.mean()) / (deviation if deviation > 0 else 1.0)
