"""Intensities on the scale that the network was trained with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxclick.memory_map import slabs
from voxclick.percentiles import percentiles
from voxclick.preprocessing.settings import (
    IntensityScaling,
    LogScaling,
    PercentileScaling,
    RangeScaling,
)


def scale_intensity(channel: NDArray[np.float32], scaling: IntensityScaling) -> None:
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
