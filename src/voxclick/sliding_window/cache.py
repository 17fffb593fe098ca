"""Results of windows, kept within a budget."""

from __future__ import annotations

import mmap
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from voxclick.errors import NotEnoughMemoryError
from voxclick.hardware import saying_when_memory_is_full
from voxclick.sliding_window.settings import CacheSettings
from voxclick.types import Index3

_GIB = 2**30
_LARGEST_FLOAT16 = 65504.0

_BLOCK_BYTES = 2**28
"""Of memory that results lie in; pages of it that hold none yet are not taken."""

Budget: TypeAlias = Literal["host_gib", "gpu_gib", "disk_gib"]

CacheKey = tuple[int, Hashable]
"""A window's number and what its input is known by."""


class WindowCache:
    """Margins of windows: those of the present state, and as many earlier ones as fit.

    An earlier state is found again by its key, so taking a click back costs nothing while its
    windows are still here. When the room is used up, results of earlier states go first, then
    those that the work at hand does not need, the longest unused before the others. What it does
    need stays, and what comes then is not kept: a scan of one window more than there is room for
    would otherwise find none of them again.

    Args:
        settings: dtype and budgets.
        margins: channels of a result.
        window: voxels of a result.
        device: of the network; its own memory is used only if it is a GPU.
    """

    def __init__(
        self, settings: CacheSettings, margins: int, window: Index3, device: torch.device
    ) -> None:
        shape = (margins, *window)
        self.dtype: torch.dtype = getattr(torch, settings.dtype)
        self._stores: list[_Store] = [_MemoryStore(settings, shape, torch.device("cpu"))]
        if device.type == "cuda":
            self._stores.insert(0, _MemoryStore(settings, shape, device))
        if settings.disk_gib:
            self._stores.append(_DiskStore(settings, shape))
        self._free = [store.capacity for store in self._stores]
        self._entries: OrderedDict[CacheKey, tuple[int, object]] = OrderedDict()
        self._present: frozenset[CacheKey] = frozenset()
        self._needed: frozenset[CacheKey] = frozenset()
        self.capacity = sum(self._free)

    def __contains__(self, key: CacheKey) -> bool:
        return key in self._entries

    @property
    def memory_bytes(self) -> int:
        """Of main memory and of the GPU's, that are taken; room that is given back stays taken."""
        return sum(store.memory_bytes for store in self._stores)

    def get(self, key: CacheKey) -> Tensor | None:
        """The margins under a key, in the cache's dtype, on the device where they are kept."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        place, entry = self._entries[key]
        return self._stores[place].read(entry)

    def put(self, key: CacheKey, margins: Tensor) -> None:
        """Keep margins that are `rounded`, if there is room."""
        while key not in self._entries and (place := self._place()) is not None:
            try:
                with saying_when_memory_is_full():
                    entry = self._stores[place].write(margins)
            except (NotEnoughMemoryError, OSError):
                self._grow_no_more(place)
                continue
            self._entries[key] = (place, entry)
            self._free[place] -= 1

    def rounded(self, margins: Tensor) -> Tensor:
        """Margins in the cache's dtype."""
        if self.dtype == torch.float16:
            # an overflow would be infinite, and blend to NaN with its opposite
            margins = margins.clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16)
        return margins.to(self.dtype)

    def prefer(self, present: frozenset[CacheKey]) -> None:
        """Name the results of the present state, which go after all others."""
        self._present, self._needed = present, frozenset()

    def need(self, keys: frozenset[CacheKey]) -> int:
        """Name the results that the work at hand needs, which stay while it goes on.

        Returns:
            How many of them there is still room for.
        """
        self._needed = keys
        return self.capacity - sum(key in keys for key in self._entries)

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._entries):
            self._drop(key)

    def _place(self) -> int | None:
        """The number of a store with room, which is made where there is none; None if it cannot."""
        for place, free in enumerate(self._free):
            if free:
                return place
        for stays in (self._present | self._needed, self._needed):
            goes = next((key for key in self._entries if key not in stays), None)
            if goes is not None:
                return self._drop(goes)
        return None

    def _grow_no_more(self, place: int) -> None:
        self.capacity -= self._free[place]
        self._free[place] = 0
        budget = self._stores[place].budget
        warnings.warn(
            f"there is less room than the cache may take (CacheSettings.{budget}); it has room for "
            f"{self.capacity} windows from now on",
            stacklevel=2,
        )

    def _drop(self, key: CacheKey) -> int:
        place, entry = self._entries.pop(key)
        self._stores[place].delete(entry)
        self._free[place] += 1
        return place


class _Store(ABC):
    """One kind of room for results.

    Args:
        settings: dtype of the results, and how much room there may be.
        shape: of a result.
        budget: the setting that says how much.
    """

    def __init__(self, settings: CacheSettings, shape: tuple[int, ...], budget: Budget) -> None:
        self.budget = budget
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        self._shape = shape
        self._count = int(np.prod(shape))
        self._entry_bytes = self._count * self._dtype.itemsize
        self.capacity = int(getattr(settings, budget) * _GIB) // self._entry_bytes

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """That the store has taken."""

    @abstractmethod
    def write(self, margins: Tensor) -> object:
        """Keep a result; returns what it is found by.

        Raises:
            OSError: the disk is full, or PyTorch's and Python's errors for memory.
        """

    @abstractmethod
    def read(self, entry: object) -> Tensor:
        """A result; it may be a view of what is kept."""

    @abstractmethod
    def delete(self, entry: object) -> None:
        """Give a result's room back."""


class _MemoryStore(_Store):
    """Results in large blocks: one by one, between what comes and goes, they would leave holes."""

    def __init__(self, settings: CacheSettings, shape: tuple[int, ...], device: torch.device):
        super().__init__(settings, shape, "host_gib" if device.type == "cpu" else "gpu_gib")
        self._device = device
        self._free: list[Tensor] = []
        self._taken = 0
        self._most = 0

    @property
    def memory_bytes(self) -> int:
        # main memory takes a block's pages when they are first written to, a GPU all of it at once
        taken = self._most if self._device.type == "cpu" else self._taken
        return taken * self._entry_bytes

    def write(self, margins: Tensor) -> object:
        if not self._free:
            count = min(max(1, _BLOCK_BYTES // self._entry_bytes), self.capacity - self._taken)
            self._free = list(self._block(count))
            self._taken += count
        result = self._free.pop().copy_(margins)
        self._most = max(self._most, self._taken - len(self._free))
        return result

    def _block(self, count: int) -> Tensor:
        if self._device.type != "cpu":
            return torch.empty((count, *self._shape), dtype=self._dtype, device=self._device)
        # not from the C library's heap: between a network's layers, which come and go, it would
        # leave holes there that fit none of them
        pages = mmap.mmap(-1, count * self._entry_bytes)
        return torch.frombuffer(pages, dtype=self._dtype).view((count, *self._shape))

    def read(self, entry: object) -> Tensor:
        assert isinstance(entry, Tensor)
        return entry

    def delete(self, entry: object) -> None:
        assert isinstance(entry, Tensor)
        self._free.append(entry)


class _DiskStore(_Store):
    """A file per result; mapped into memory while it is read, so that it does not stay there."""

    def __init__(self, settings: CacheSettings, shape: tuple[int, ...]) -> None:
        super().__init__(settings, shape, "disk_gib")
        self._folder = tempfile.TemporaryDirectory(prefix="voxclick-", dir=settings.folder)
        self._written = 0

    @property
    def memory_bytes(self) -> int:
        return 0

    def write(self, margins: Tensor) -> object:
        path = Path(self._folder.name) / f"window-{self._written:06d}"
        self._written += 1
        try:
            # ndarray.tofile does not hear of what fails when the file is closed
            path.write_bytes(margins.to("cpu", self._dtype).contiguous().numpy().data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def read(self, entry: object) -> Tensor:
        assert isinstance(entry, Path)
        mapped = torch.from_file(str(entry), shared=False, size=self._count, dtype=self._dtype)
        return mapped.view(self._shape)

    def delete(self, entry: object) -> None:
        assert isinstance(entry, Path)
        entry.unlink()
