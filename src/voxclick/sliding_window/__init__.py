"""Volumes of any size through a network that sees windows of one size.

This package knows tensors and boxes; it knows nothing of clicks.
"""

from voxclick.sliding_window.grid import WindowGrid
from voxclick.sliding_window.inference import ProgressCallback, VolumeInference, WindowsCallback
from voxclick.sliding_window.settings import (
    CacheSettings,
    InferenceSettings,
    OnePass,
    SlidingWindows,
)
from voxclick.sliding_window.source import TensorSource, WindowSource, pad_to_window

__all__ = [
    "CacheSettings",
    "InferenceSettings",
    "OnePass",
    "ProgressCallback",
    "SlidingWindows",
    "TensorSource",
    "VolumeInference",
    "WindowGrid",
    "WindowSource",
    "WindowsCallback",
    "pad_to_window",
]
