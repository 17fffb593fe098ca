"""A volume through the network, a window at a time, and only those windows that are needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor, nn

from voxclick.geometry.box import Box
from voxclick.sliding_window.cache import WindowCache
from voxclick.sliding_window.grid import WindowGrid
from voxclick.sliding_window.network import WindowNetwork
from voxclick.sliding_window.precision import resolve_precision
from voxclick.sliding_window.settings import CacheSettings, OnePass, SlidingWindows
from voxclick.sliding_window.source import WindowSource
from voxclick.types import Index3, MarginsTensor

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""

WindowsCallback: TypeAlias = Callable[[int], None]
"""Called with the number of windows that have just run; what it raises ends the work."""

BACKGROUND_MARGIN = -20.0
"""Where no window looked: surely background, and far from overflow when it is interpolated."""


class VolumeInference:
    """One volume, of which windows are run when they are needed and then remembered.

    What it answers depends on the source alone, to the last bit: windows are blended in the
    grid's order from their own results, whether those have just run or were kept. Nothing is ever
    added to or taken from an earlier answer.

    Args:
        network: maps (batch, channel, i, j, k) to logits (batch, label, i, j, k).
        settings: sliding windows or one pass.
        multiple: one pass rounds its input up to a multiple of this many voxels.
        device: where the network runs (and already is).
        shape: voxels of the volume.
        labels: of the network, background included.
        cache: how many results are kept.
        backend: what computes the network, for `computed_by`.
        layout: of the network's input in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: SlidingWindows | OnePass,
        multiple: Index3,
        device: torch.device,
        shape: Index3,
        labels: int,
        cache: CacheSettings,
        backend: str = "torch",
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        dtype = resolve_precision(settings.precision, device)
        self.network = WindowNetwork(network, device, dtype, layout)
        self._backend = backend
        self._margins = labels - 1
        if isinstance(settings, SlidingWindows):
            self.grid = WindowGrid.cover(shape, settings.window, settings.overlap)
            self._window_batch = settings.window_batch
            stitching, blending = settings.stitching, settings.blending
        else:
            self.grid = WindowGrid.at_centre(shape, settings.centre_crop, multiple)
            self._window_batch, stitching, blending = 1, "device", "constant"
        self._stitching = device if stitching == "device" else torch.device("cpu")
        self._weight = compute_importance_map(
            self.grid.window, mode=blending, sigma_scale=0.125, device=self._stitching
        )
        self._background = torch.tensor(BACKGROUND_MARGIN).expand(self._margins, *self.grid.window)
        self._cache = WindowCache(cache, self._margins, self.grid.window, device)
        if self._cache.capacity < len(self.grid.boxes):
            warnings.warn(
                f"the cache has room for {self._cache.capacity} of this volume's "
                f"{len(self.grid.boxes)} windows; the others are computed again when they are "
                "needed, which is slow; give it more memory or a part of the disk, or keep float16",
                stacklevel=2,
            )

    @property
    def computed_by(self) -> str:
        """The same where results of the same weights are rounded alike.

        Backend and kind of device, precision, layout, windows at once (fewer than the settings say
        on a GPU that was full) and the cache's dtype.
        """
        return (
            f"{self._backend} {self.network.computed_by}, "
            f"{self._window_batch} windows at once, kept in {self._cache.dtype}"
        )

    @property
    def memory_bytes(self) -> int:
        """Of main memory and of the GPU's, that the kept results take."""
        return self._cache.memory_bytes

    def changed(self, before: WindowSource, after: WindowSource) -> list[int]:
        """The numbers of the windows that see something else than before."""
        return [
            number
            for number, box in enumerate(self.grid.boxes)
            if before.key(box) != after.key(box)
        ]

    def missing(self, source: WindowSource, windows: Iterable[int]) -> Iterator[int]:
        """Those of the windows that the network would have to look at."""
        for number in windows:
            box = self.grid.boxes[number]
            if (number, source.key(box)) not in self._cache and not source.is_background(box):
                yield number

    def prefer(self, source: WindowSource) -> None:
        """Keep the results of this source in preference to all others."""
        self._cache.prefer(
            frozenset((number, source.key(box)) for number, box in enumerate(self.grid.boxes))
        )

    def kept(self, source: WindowSource) -> dict[int, Tensor]:
        """The results of this source that are kept, by the windows' numbers."""
        found = {
            number: self._cache.get((number, source.key(box)))
            for number, box in enumerate(self.grid.boxes)
        }
        return {number: result for number, result in found.items() if result is not None}

    def keep(self, source: WindowSource, results: Mapping[int, Tensor]) -> None:
        """Keep results that `kept` gave, as far as there is room."""
        self.prefer(source)
        for number, result in results.items():
            self._cache.put((number, source.key(self.grid.boxes[number])), result)

    @torch.inference_mode()
    def run(
        self, source: WindowSource, windows: Sequence[int], on_windows: WindowsCallback | None
    ) -> None:
        """Run windows so that `margins` finds them; no more than the cache can keep."""
        room = self._cache.need(frozenset((n, source.key(self.grid.boxes[n])) for n in windows))
        fitting = list(islice(self.missing(source, windows), room))
        for _ in self._results(source, fitting, on_windows):
            pass

    @torch.inference_mode()
    def margins(
        self, source: WindowSource, box: Box, on_windows: WindowsCallback | None = None
    ) -> MarginsTensor:
        """The blended answer in a box of the volume.

        Args:
            source: the network's input.
            box: inside the volume.
            on_windows: told of every batch that ran.

        Returns:
            float32 margins (foreground, i, j, k) of the box, on the stitching device.
        """
        window_batch = self._window_batch
        total = torch.zeros(box.shape, device=self._stitching)
        blended = torch.zeros((self._margins, *box.shape), device=self._stitching)
        windows = self.grid.touching(box)
        for number, result in zip(windows, self._results(source, windows, on_windows), strict=True):
            window = self.grid.boxes[number]
            common = window.intersect(box)
            there = common.relative_to(box.start).to_slices()
            here = common.relative_to(window.start).to_slices()
            weight = self._weight[here]
            # two roundings, on any layout of memory: addcmul rounds once on some
            blended[(..., *there)] += result[(..., *here)].to(weight) * weight
            total[there] += weight
        if self._window_batch != window_batch:  # halved: the first results were of larger batches
            return self.margins(source, box, on_windows)
        is_seen = total > 0
        return (blended / total).where(is_seen, BACKGROUND_MARGIN)

    @torch.inference_mode()
    def preview(
        self,
        source: WindowSource,
        centre: Index3,
        before: WindowSource | None,
        on_windows: WindowsCallback | None = None,
    ) -> tuple[Box, MarginsTensor]:
        """A quick answer near one voxel, from one window around it.

        In the outer quarter of the window it fades into the answer for ``before``, save where the
        volume ends. If windows would have to run for that answer, there is no outer quarter, and
        without ``before`` the whole window stands alone.

        Returns:
            A box of the volume, and the margins in it.
        """
        window = self.grid.around(centre)
        inside = window.clip(self.grid.shape)
        here = inside.relative_to(window.start).to_slices()
        # nobody keeps it, so it need not be rounded like others: no batch is filled up
        result = self.network.margins(source.read(window)[None])[(0, ..., *here)].to(
            self._stitching
        )
        if on_windows is not None:
            on_windows(1)
        if before is None:
            return inside, result
        if next(self.missing(before, self.grid.touching(inside)), None) is not None:
            middle = self._middle(window)
            return middle, result[(..., *middle.relative_to(inside.start).to_slices())]
        shown = self.margins(before, inside)
        return inside, torch.lerp(shown, result, self._fading(window)[here])

    def _middle(self, window: Box) -> Box:
        """A window's middle half, and on to those faces where the volume ends."""
        quarter = (size // 4 for size in window.shape)
        faces = zip(window.start, window.stop, quarter, self.grid.shape, strict=True)
        (a, i), (b, j), (c, k) = (
            (max(0, start + q if start > 0 else 0), stop - q if stop < n else n)
            for start, stop, q, n in faces
        )
        return Box((a, b, c), (i, j, k))

    def _fading(self, window: Box) -> Tensor:
        """One in a window's middle half, falling linearly towards those faces inside the volume."""
        fading = torch.ones(window.shape, device=self._stitching)
        for axis, size in enumerate(window.shape):
            rise = (torch.arange(1, size + 1, device=self._stitching) / (size / 4 + 1)).clamp(max=1)
            along = [-1 if other == axis else 1 for other in range(3)]
            if window.start[axis] > 0:
                fading *= rise.view(along)
            if window.stop[axis] < self.grid.shape[axis]:
                fading *= rise.flip(0).view(along)
        return fading

    def _results(
        self, source: WindowSource, windows: Sequence[int], on_windows: WindowsCallback | None
    ) -> Iterator[Tensor]:
        """The margins of windows, in their order; those not kept run a batch at a time."""
        just_run: dict[int, Tensor] = {}
        for place, number in enumerate(windows):
            box = self.grid.boxes[number]
            result = just_run.pop(number, None)
            if result is None:
                result = self._cache.get((number, source.key(box)))
            if result is None and source.is_background(box):
                result = self._background
            if result is None:
                following = (n for n in windows[place + 1 :] if n not in just_run)
                ahead = islice(self.missing(source, following), self._window_batch - 1)
                just_run |= self._run_and_keep(source, [number, *ahead], on_windows)
                result = just_run.pop(number)
            yield result

    def _run_and_keep(
        self, source: WindowSource, numbers: list[int], on_windows: WindowsCallback | None
    ) -> dict[int, Tensor]:
        boxes = [self.grid.boxes[number] for number in numbers]
        # rounded as they would be kept: results must not depend on whether there was room
        rounded = [self._cache.rounded(margins) for margins in self._run(source, boxes)]
        results = dict(zip(numbers, rounded, strict=True))
        for number, box in zip(numbers, boxes, strict=True):
            self._cache.put((number, source.key(box)), results[number])
        if on_windows is not None:
            on_windows(len(numbers))
        return results

    def _run(self, source: WindowSource, windows: Sequence[Box]) -> list[Tensor]:
        """Margins of at most a batch of windows, all from batches of the same size."""
        results: list[Tensor] = []
        while len(results) < len(windows):
            part = windows[len(results) : len(results) + self._window_batch]
            inputs = [source.read(window) for window in part]
            filled = inputs + inputs[-1:] * (self._window_batch - len(inputs))
            try:
                results += self.network.margins(torch.stack(filled))[: len(inputs)]
            except torch.OutOfMemoryError:
                if self._window_batch == 1:
                    raise
                self._halve_window_batch()
                results.clear()
        return results

    def _halve_window_batch(self) -> None:
        warnings.warn(
            f"the GPU's memory does not hold {self._window_batch} windows at once; going on with "
            f"{self._window_batch // 2} (inference.window_batch)",
            stacklevel=2,
        )
        self._window_batch //= 2
        # results of the larger batch may differ in their last bits
        self._cache.clear()
