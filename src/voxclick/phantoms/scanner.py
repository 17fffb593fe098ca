"""What a PET scanner makes of the true uptake."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from voxclick.phantoms.canvas import smooth_noise
from voxclick.types import Vector3

_FWHM_PER_SIGMA = 2.3548


def scan(
    suv: NDArray[np.float32], spacing_mm: Vector3, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Blur (4 to 7 mm full width at half maximum) and noise.

    The noise's variance is proportional to the uptake, as counts are; reconstruction and filtering
    correlate it over neighbouring voxels.
    """
    sigma_mm = generator.uniform(4, 7) / _FWHM_PER_SIGMA
    blurred = gaussian_filter(suv, [sigma_mm / step for step in spacing_mm])
    level = generator.uniform(0.04, 0.14)
    noise = smooth_noise(suv.shape, 0.7, generator)
    return np.maximum(blurred + level * np.sqrt(blurred + 0.02) * noise, 0).astype(np.float32)
