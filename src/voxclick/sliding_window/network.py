"""A network as windows go through it: in which precision, and in which layout of memory."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)
"""Channels first, as PyTorch has them, and channels last."""

_TRIALS = 3
_CLEARLY_FASTER = 0.9
"""Of the time with channels first. What differs by less would be settled by chance, and another
process might round otherwise."""

_ROUNDING = 0.5
"""Of an answer's mean size. Bfloat16 moves a trained network's answer by less than a hundredth of
it, that of random weights by a tenth; a kernel that errs moves it by about as much as it is."""

_CUDNN_FLAGS = threading.RLock()
"""They are the whole process's: two threads would put back what the other one has set."""

_TRYING = threading.Lock()
"""Two trials at once would time each other."""

_chosen: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], torch.memory_format]] = (
    WeakKeyDictionary()
)


class WindowNetwork:
    """A network that answers batches of windows, rounding them alike every time.

    Args:
        network: maps (batch, channel, i, j, k) to logits (batch, label, i, j, k).
        device: where the network is.
        dtype: of its convolutions.
        layout: of its input in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._network = network
        self._device = device
        self._dtype = dtype
        self._layout = layout

    @property
    def computed_by(self) -> str:
        """The same where answers of the same weights are rounded alike."""
        channels = "last" if self._layout == torch.channels_last_3d else "first"
        return f"on {self._device.type} in {self._dtype}, given channels {channels}"

    @torch.inference_mode()
    def margins(self, windows: Tensor) -> Tensor:
        """Run a batch.

        Args:
            windows: (batch, channel, i, j, k), on any device.

        Returns:
            float32 (batch, foreground, i, j, k) on the network's device: each label's logit less
            that of the background.
        """
        was_training = self._network.training
        self._network.eval()
        half = self._dtype != torch.float32
        try:
            with (
                torch.autocast(self._device.type, dtype=self._dtype, enabled=half),
                _repeatable_convolutions(self._device, self._dtype),
            ):
                logits = self._network(windows.to(self._device, memory_format=self._layout))
        finally:
            self._network.train(was_training)
        logits = logits.float()
        return logits[:, 1:] - logits[:, :1]


def faster_layout(
    network: nn.Module, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> torch.memory_format:
    """Try both layouts on the network's device; channels first unless the other is clearly faster.

    Which one cuDNN is faster with depends on the card, the precision, and the versions of cuDNN
    and PyTorch. A network that was tried is not tried again in the process. Other work on the
    device, from this process or another, may lead the trial astray, which costs speed alone.

    Args:
        network: on ``device``; with `lay_out_for` its norms keep both layouts.
        device: where the network is.
        dtype: of its convolutions.
        shape: of its input, (batch, channel, i, j, k).
    """
    key = (device, dtype, shape)
    with _TRYING:
        known = _chosen.setdefault(network, {})
        if key not in known:
            layout = _by_trial(network, device, dtype, shape)
            if layout is None:  # another time there may be more room
                return torch.contiguous_format
            known[key] = layout
        return known[key]


def _by_trial(
    network: nn.Module, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
) -> torch.memory_format | None:
    """The layout, with half the batch where it does not fit; None where no window fits."""
    ways = {layout: WindowNetwork(network, device, dtype, layout) for layout in _LAYOUTS}
    took: dict[torch.memory_format, list[float]] = {layout: [] for layout in _LAYOUTS}
    answers: dict[torch.memory_format, Tensor] = {}
    try:
        # no random numbers: whoever trains would draw others after it
        windows = torch.linspace(0, 1, math.prod(shape), device=device).view(shape)
        for _ in range(1 + _TRIALS):
            for layout, way in ways.items():
                seconds, answers[layout] = _timed(way, windows)
                took[layout].append(seconds)
    except torch.OutOfMemoryError:
        batch, *window = shape
        return None if batch == 1 else _by_trial(network, device, dtype, (batch // 2, *window))
    except RuntimeError as error:
        if len(took[torch.contiguous_format]) == len(took[torch.channels_last_3d]):
            raise  # it does not even run as it is
        warnings.warn(f"the network does not run with channels last ({error})", stacklevel=2)
        return torch.contiguous_format
    first, last = (min(took[layout][1:]) for layout in _LAYOUTS)  # each warmed up once
    if last >= _CLEARLY_FASTER * first:
        return torch.contiguous_format
    if not _are_alike(*(answers[layout] for layout in _LAYOUTS)):
        warnings.warn(
            "channels last change what the network answers; they stay first", stacklevel=2
        )
        return torch.contiguous_format
    return torch.channels_last_3d


def _timed(way: WindowNetwork, windows: Tensor) -> tuple[float, Tensor]:
    with _CUDNN_FLAGS:  # or it would count what it waits for other sessions
        start = perf_counter()
        margins = way.margins(windows)
        margins.flatten()[0].item()  # which waits for the device
        return perf_counter() - start, margins


def _are_alike(first: Tensor, last: Tensor) -> bool:
    """Whether answers differ by rounding alone. Some versions of cuDNN had kernels that erred."""
    return bool((last - first).abs().mean() <= _ROUNDING * first.abs().mean())


@contextmanager
def _repeatable_convolutions(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """On a GPU, the same kernels for every run, and only those that round the same each time.

    Who asks for float32 gets it: TensorFloat-32, which PyTorch allows by default, keeps 10 bits.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    allow_tf32 = cudnn.allow_tf32 and dtype != torch.float32
    with (
        _CUDNN_FLAGS,
        cudnn.flags(
            enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=allow_tf32
        ),
    ):
        yield
