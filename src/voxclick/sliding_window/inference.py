"""A whole volume through the network: by sliding windows, or in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal, TypeAlias

import torch
from monai.data.utils import compute_importance_map
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from voxclick.geometry.box import Box
from voxclick.sliding_window.grid import WindowGrid
from voxclick.sliding_window.precision import Precision, resolve_precision
from voxclick.types import Index3, LogitsTensor


class SlidingWindows(BaseModel):
    """Overlapping windows, blended.

    Attributes:
        window: voxels of a window along (i, j, k), in the network's grid.
        overlap: fraction of the window that neighbours share.
        blending: ``gaussian`` weights a window's centre more than its border (sigma an eighth of
            the window, MONAI's importance map); ``constant`` is a plain mean.
        window_batch: windows that run through the network at once.
        stitching: where the blended logits are kept; ``cpu`` spares a small GPU's memory.
        precision: dtype of the network's convolutions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sliding-windows"] = "sliding-windows"
    window: tuple[PositiveInt, PositiveInt, PositiveInt] = (128, 128, 128)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    blending: Literal["gaussian", "constant"] = "gaussian"
    window_batch: int = Field(default=1, ge=1)
    stitching: Literal["device", "cpu"] = "device"
    precision: Precision = "auto"


class OnePass(BaseModel):
    """The volume, or a box around its centre, in a single pass.

    Attributes:
        centre_crop: voxels of the centre box that the network sees; what lies outside becomes
            background. None for the whole volume.
        precision: dtype of the network's convolutions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["one-pass"] = "one-pass"
    centre_crop: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    precision: Precision = "auto"


InferenceSettings: TypeAlias = Annotated[SlidingWindows | OnePass, Field(discriminator="kind")]

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""

OUTSIDE_LOGIT = 20.0
"""Logit of background where a one-pass centre crop did not look: certain in float32, and far
from overflow when it is interpolated."""


class VolumeInference:
    """Runs a network over volumes.

    Args:
        network: maps (batch, channel, i, j, k) to logits (batch, label, i, j, k); is put into
            evaluation mode while it runs.
        settings: sliding windows or one pass.
        multiple: one pass pads its input to a multiple of this many voxels.
        device: where the network runs (and already is).
    """

    def __init__(
        self,
        network: nn.Module,
        settings: SlidingWindows | OnePass,
        multiple: Index3,
        device: torch.device,
    ) -> None:
        self.network = network
        self.settings = settings
        self.multiple = multiple
        self.device = device
        self.dtype = resolve_precision(settings.precision, device)

    def grid(self, shape: Index3) -> WindowGrid:
        """The windows that a volume of this shape takes."""
        if isinstance(self.settings, SlidingWindows):
            return WindowGrid.cover(shape, self.settings.window, self.settings.overlap)
        crop = _centre_box(shape, self.settings.centre_crop)
        i, j, k = (-(-n // m) * m for n, m in zip(crop.shape, self.multiple, strict=True))
        return WindowGrid.cover(crop.shape, (i, j, k), 0.0)

    @torch.inference_mode()
    def predict(self, volume: Tensor, on_window: ProgressCallback | None = None) -> LogitsTensor:
        """Logits of a volume.

        Args:
            volume: float tensor (channel, i, j, k), image channels and guidance together.
            on_window: told after every batch of windows.

        Returns:
            float32 logits (label, i, j, k) on the stitching device.
        """
        was_training = self.network.training
        self.network.eval()
        try:
            if isinstance(self.settings, SlidingWindows):
                return self._sliding(volume, self.settings, on_window)
            logits = self._one_pass(volume, self.settings)
            if on_window is not None:
                on_window(1, 1)
            return logits
        finally:
            self.network.train(was_training)

    def run(self, windows: Tensor) -> Tensor:
        """The network on a batch of windows (batch, channel, i, j, k), float32 logits."""
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=half):
            return self.network(windows.to(self.device)).float()

    def _sliding(
        self, volume: Tensor, settings: SlidingWindows, on_window: ProgressCallback | None
    ) -> LogitsTensor:
        grid = self.grid(_spatial(volume))
        stitching = self.device if settings.stitching == "device" else torch.device("cpu")
        padded = _pad(volume.to(stitching), grid)
        weight = compute_importance_map(
            settings.window, mode=settings.blending, sigma_scale=0.125, device=stitching
        )
        logits: Tensor | None = None
        total = torch.zeros(grid.padded_shape, device=stitching)
        done = 0
        for boxes in _batches(grid.boxes, settings.window_batch):
            windows = torch.stack([padded[(..., *box.to_slices())] for box in boxes])
            outputs = self.run(windows).to(stitching)
            if logits is None:
                logits = torch.zeros((outputs.shape[1], *grid.padded_shape), device=stitching)
            for box, output in zip(boxes, outputs, strict=True):
                logits[(..., *box.to_slices())] += output * weight
                total[box.to_slices()] += weight
            done += len(boxes)
            if on_window is not None:
                on_window(done, len(grid.boxes))
        assert logits is not None  # a grid has at least one window
        return (logits / total)[(..., *grid.volume_box.to_slices())]

    def _one_pass(self, volume: Tensor, settings: OnePass) -> LogitsTensor:
        crop = _centre_box(_spatial(volume), settings.centre_crop)
        inside = volume[(..., *crop.to_slices())].to(self.device)
        grid = self.grid(_spatial(volume))
        output = self.run(_pad(inside, grid)[None])[0][(..., *grid.volume_box.to_slices())]
        if crop.shape == _spatial(volume):
            return output
        logits = torch.zeros((output.shape[0], *_spatial(volume)), device=self.device)
        logits[0] = OUTSIDE_LOGIT
        logits[(..., *crop.to_slices())] = output
        return logits


def _spatial(volume: Tensor) -> Index3:
    i, j, k = volume.shape[-3:]
    return (i, j, k)


def _centre_box(shape: Index3, crop: Index3 | None) -> Box:
    if crop is None:
        return Box.of_shape(shape)
    size = [min(n, c) for n, c in zip(shape, crop, strict=True)]
    start = [(n - s) // 2 for n, s in zip(shape, size, strict=True)]
    i, j, k = start
    a, b, c = (x + s for x, s in zip(start, size, strict=True))
    return Box((i, j, k), (a, b, c))


def _pad(volume: Tensor, grid: WindowGrid) -> Tensor:
    amounts: list[int] = []
    for before, n, padded in reversed(
        list(zip(grid.padding_before, grid.shape, grid.padded_shape, strict=True))
    ):
        amounts += [before, padded - n - before]
    return nn.functional.pad(volume, amounts) if any(amounts) else volume


def _batches(boxes: tuple[Box, ...], size: int) -> Iterator[tuple[Box, ...]]:
    for start in range(0, len(boxes), size):
        yield boxes[start : start + size]
