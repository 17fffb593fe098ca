"""What the network sees: an image and the clicks in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from voxclick.geometry.box import Box
from voxclick.guidance import GuidanceEncoder
from voxclick.sliding_window import pad_to_window
from voxclick.types import Index3


class ClickedImage:
    """An image with a set of clicks, in the network's grid; a source of windows.

    Clicks are drawn when a window is read: nothing as large as the volume is kept for them.

    Args:
        read_image: gives the image (channel, i, j, k) in a box, on any device.
        shape: voxels of the volume.
        encoder: None for a network without clicks.
        clicks: ``clicks[l]`` are the voxels clicked for label l.
        is_air: tells of a window's image that a network need not look at it.
    """

    def __init__(
        self,
        read_image: Callable[[Box], Tensor],
        shape: Index3,
        encoder: GuidanceEncoder | None,
        clicks: Sequence[Sequence[Index3]],
        is_air: Callable[[Box], bool] = lambda window: False,
    ) -> None:
        self._read_image = read_image
        self._shape = shape
        self._encoder = encoder
        self._clicks = clicks
        self._is_air = is_air
        self._keys: dict[Box, tuple[Hashable, ...]] = {}

    def read(self, window: Box) -> Tensor:
        inside = window.clip(self._shape)
        values = self._read_image(inside)
        if self._encoder is not None:
            guidance = self._encoder.encode_box(self._clicks, self._shape, inside, values.device)
            values = torch.cat([values, guidance])
        return pad_to_window(values, inside, window)

    def is_background(self, window: Box) -> bool:
        return not any(self.key(window)) and self._is_air(window)

    def key(self, window: Box) -> tuple[Hashable, ...]:
        if self._encoder is None:
            return ()
        if window not in self._keys:
            inside = window.clip(self._shape)
            self._keys[window] = tuple(
                self._encoder.key(clicks, self._shape, inside) for clicks in self._clicks
            )
        return self._keys[window]
