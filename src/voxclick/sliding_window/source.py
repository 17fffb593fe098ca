"""Where the windows of a volume come from."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from torch import Tensor
from torch.nn.functional import pad

from voxclick.geometry.box import Box


class WindowSource(Protocol):
    """The network's input, to be read a window at a time; it does not change."""

    def read(self, window: Box) -> Tensor:
        """The input in a window, (channel, i, j, k), zero outside the volume."""
        ...

    def is_background(self, window: Box) -> bool:
        """Whether the network need not look at a window, as it is background throughout."""
        ...

    def key(self, window: Box) -> Hashable:
        """Of two sources of the same volume, equal keys mean equal input in the window."""
        ...


class TensorSource:
    """A volume that lies in memory as one tensor (channel, i, j, k)."""

    def __init__(self, volume: Tensor) -> None:
        self._volume = volume

    def read(self, window: Box) -> Tensor:
        inside = window.clip(self._volume.shape[1:])
        return pad_to_window(self._volume[(..., *inside.to_slices())], inside, window)

    def is_background(self, window: Box) -> bool:
        return False

    def key(self, window: Box) -> Hashable:
        return None


def pad_to_window(values: Tensor, inside: Box, window: Box) -> Tensor:
    """Zeros around the part of a window (..., i, j, k) that lies inside the volume."""
    amounts: list[int] = []
    for axis in (2, 1, 0):
        amounts += [
            inside.start[axis] - window.start[axis],
            window.stop[axis] - inside.stop[axis],
        ]
    return pad(values, amounts) if any(amounts) else values
