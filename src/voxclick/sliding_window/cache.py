"""Results of windows, kept within a budget."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voxclick.sliding_window.settings import CacheSettings
from voxclick.types import Index3

_GIB = 2**30
_LARGEST_FLOAT16 = 65504.0

CacheKey = tuple[int, Hashable]
"""A window's number and what its input is known by."""


class WindowCache:
    """Margins of windows: those of the present state, and as many earlier ones as fit.

    An earlier state is found again by its key, so taking a click back costs nothing while its
    windows are still here. When the room is used up, results of earlier states go first, the
    longest unused before the others.

    Args:
        settings: dtype and budgets.
        margins: channels of a result.
        window: voxels of a result.
        device: of the network; its own memory is used only if it is a GPU.
    """

    def __init__(
        self, settings: CacheSettings, margins: int, window: Index3, device: torch.device
    ) -> None:
        dtype = getattr(torch, settings.dtype)
        shape = (margins, *window)
        entry_bytes = int(np.prod(shape)) * dtype.itemsize
        self._stores: list[_Store] = [_MemoryStore(torch.device("cpu"), dtype, settings.host_gib)]
        if device.type == "cuda":
            self._stores.insert(0, _MemoryStore(device, dtype, settings.gpu_gib))
        if settings.disk_gib:
            self._stores.append(_DiskStore(settings, shape))
        self._free = [int(store.gib * _GIB) // entry_bytes for store in self._stores]
        self._entries: OrderedDict[CacheKey, tuple[int, object]] = OrderedDict()
        self._present: frozenset[CacheKey] = frozenset()
        self.capacity = sum(self._free)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: CacheKey) -> bool:
        return key in self._entries

    def get(self, key: CacheKey) -> Tensor | None:
        """The margins under a key, in the cache's dtype, on the device where they are kept."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        place, entry = self._entries[key]
        return self._stores[place].read(entry)

    def put(self, key: CacheKey, margins: Tensor) -> None:
        """Keep margins, if there is any room at all."""
        if self.capacity == 0 or key in self._entries:
            return
        place = next((number for number, free in enumerate(self._free) if free), None)
        if place is None:
            place = self._make_room()
        self._entries[key] = (place, self._stores[place].write(margins))
        self._free[place] -= 1

    def prefer(self, present: frozenset[CacheKey]) -> None:
        """Name the results of the present state, which are the last to go."""
        self._present = present

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._entries):
            self._drop(key)

    def _make_room(self) -> int:
        earlier = (key for key in self._entries if key not in self._present)
        return self._drop(next(earlier, next(iter(self._entries))))

    def _drop(self, key: CacheKey) -> int:
        place, entry = self._entries.pop(key)
        self._stores[place].delete(entry)
        self._free[place] += 1
        return place


class _Store(ABC):
    """One kind of room for results."""

    gib: float

    @abstractmethod
    def write(self, margins: Tensor) -> object:
        """Keep a result; returns what it is found by."""

    @abstractmethod
    def read(self, entry: object) -> Tensor:
        """A result; it may be a view of what is kept."""

    @abstractmethod
    def delete(self, entry: object) -> None:
        """Give a result's room back."""


class _MemoryStore(_Store):
    def __init__(self, device: torch.device, dtype: torch.dtype, gib: float) -> None:
        self.gib = gib
        self._device = device
        self._dtype = dtype

    def write(self, margins: Tensor) -> object:
        return _rounded(margins, self._dtype).to(self._device, copy=True)

    def read(self, entry: object) -> Tensor:
        assert isinstance(entry, Tensor)
        return entry

    def delete(self, entry: object) -> None:
        pass  # the reference was the last


class _DiskStore(_Store):
    """A file per result; mapped into memory while it is read, so that it does not stay there."""

    def __init__(self, settings: CacheSettings, shape: tuple[int, ...]) -> None:
        self.gib = settings.disk_gib
        self._folder = tempfile.TemporaryDirectory(prefix="voxclick-", dir=settings.folder)
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        self._shape = shape
        self._written = 0

    def write(self, margins: Tensor) -> object:
        path = Path(self._folder.name) / f"window-{self._written:06d}"
        self._written += 1
        _rounded(margins, self._dtype).cpu().numpy().tofile(path)
        return path

    def read(self, entry: object) -> Tensor:
        assert isinstance(entry, Path)
        count = int(np.prod(self._shape))
        mapped = torch.from_file(str(entry), shared=False, size=count, dtype=self._dtype)
        return mapped.view(self._shape)

    def delete(self, entry: object) -> None:
        assert isinstance(entry, Path)
        entry.unlink()


def _rounded(margins: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:
        # an overflow would be infinite, and blend to NaN with its opposite
        margins = margins.clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16)
    return margins.to(dtype)
