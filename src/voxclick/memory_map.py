"""Arrays larger than memory: in temporary files, of which only what is being used is in memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

LARGE_BYTES = 2 * 2**30
"""Volumes that take more than this as float32 are kept in temporary files."""

_SLAB_BYTES = 64 * 2**20


def is_large(shape: Sequence[int]) -> bool:
    """Whether a volume of this shape is kept in a file rather than in memory."""
    return 4 * int(np.prod(shape, dtype=np.int64)) > LARGE_BYTES


def temporary_map(
    shape: Sequence[int], dtype: type[Scalar], folder: Path | None = None
) -> NDArray[Scalar]:
    """An array of zeros in a temporary file, which goes when the array does.

    Args:
        shape: of the array.
        dtype: of the array.
        folder: for the file; None for the system's folder of temporary files.

    Raises:
        OSError: the folder cannot be written, or its disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=tuple(shape))


def release(array: NDArray[np.generic]) -> None:
    """Take what is in memory of a mapped array out of it; its file still has it.

    An array that lies in memory anyway is left as it is, and so is a copy-on-write map: what was
    written to it is nowhere else.
    """
    owner = _owner(array)
    if not is_mapped(array) or getattr(owner, "mode", None) == "c":
        return
    if isinstance(owner.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.base.madvise(mmap.MADV_DONTNEED)


def is_mapped(array: NDArray[np.generic]) -> bool:
    """Whether an array lies in a file."""
    # a copy of a memmap in memory is an np.memmap, too
    return isinstance(_owner(array).base, mmap.mmap)


def slabs(array: NDArray[Scalar]) -> Iterator[NDArray[Scalar]]:
    """An array in parts of some tens of megabytes, one after another as they lie in memory."""
    axis = int(np.argmax(array.strides)) if array.ndim else 0
    along = np.moveaxis(array, axis, 0)
    count = max(1, min(len(along), -(-array.nbytes // _SLAB_BYTES)))
    for part in np.array_split(along, count):
        yield np.moveaxis(part, 0, axis)
        release(array)


def _owner(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The array that a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
