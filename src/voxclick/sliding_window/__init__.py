"""Volumes of any size through a network that sees windows of one size.

This package knows tensors and boxes; it knows nothing of clicks.
"""

from voxclick.sliding_window.grid import WindowGrid
from voxclick.sliding_window.inference import (
    InferenceSettings,
    OnePass,
    ProgressCallback,
    SlidingWindows,
    VolumeInference,
)

__all__ = [
    "InferenceSettings",
    "OnePass",
    "ProgressCallback",
    "SlidingWindows",
    "VolumeInference",
    "WindowGrid",
]
