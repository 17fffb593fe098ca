"""Half-open boxes of voxel indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxclick.types import Index3


@dataclass(frozen=True)
class Box:
    """The voxels with ``start <= (i, j, k) < stop``. Empty when stop <= start on any axis."""

    start: Index3
    stop: Index3

    @staticmethod
    def of_shape(shape: Sequence[int]) -> Box:
        """The box of a whole volume of this shape."""
        return Box((0, 0, 0), (int(shape[0]), int(shape[1]), int(shape[2])))

    @staticmethod
    def around(center: Index3, radius: int | Index3) -> Box:
        """The box reaching ``radius`` voxels to both sides of ``center``, both ends included."""
        i, j, k = center
        a, b, c = (radius, radius, radius) if isinstance(radius, int) else radius
        return Box((i - a, j - b, k - c), (i + a + 1, j + b + 1, k + c + 1))

    @staticmethod
    def union(boxes: Iterable[Box | None]) -> Box | None:
        """The smallest box that holds all non-empty ``boxes``; None when there is none."""
        filled = [box for box in boxes if box is not None and not box.is_empty]
        if not filled:
            return None
        start = tuple(min(box.start[axis] for box in filled) for axis in range(3))
        stop = tuple(max(box.stop[axis] for box in filled) for axis in range(3))
        return Box(start, stop)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def holding(mask: NDArray[np.bool_]) -> Box | None:
        """The smallest box that holds all that is true in (i, j, k); None where nothing is."""
        if not mask.any():
            return None
        start, stop = [0, 0, 0], [0, 0, 0]
        for axis in range(3):
            places = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
            start[axis], stop[axis] = int(places[0]), int(places[-1]) + 1
            # what follows need only look between
            mask = mask[(slice(None),) * axis + (slice(start[axis], stop[axis]),)]
        return Box(tuple(start), tuple(stop))  # pyright: ignore[reportArgumentType]

    @property
    def shape(self) -> Index3:
        """Voxels along each axis, never negative."""
        (i, j, k), (m, n, o) = self.start, self.stop
        return (max(0, m - i), max(0, n - j), max(0, o - k))

    @property
    def is_empty(self) -> bool:
        (i, j, k), (m, n, o) = self.start, self.stop
        return m <= i or n <= j or o <= k

    def intersect(self, other: Box) -> Box:
        """The common voxels; empty (but valid) when there are none."""
        (i, j, k), (m, n, o) = self.start, self.stop
        (a, b, c), (d, e, f) = other.start, other.stop
        return Box(
            (max(i, a), max(j, b), max(k, c)),
            (min(m, d), min(n, e), min(o, f)),
        )

    def clip(self, shape: Sequence[int]) -> Box:
        """The part inside a volume of this shape."""
        return self.intersect(Box.of_shape(shape))

    def meets(self, other: Box) -> bool:
        """Whether there is a common voxel."""
        return not self.intersect(other).is_empty

    def grown(self, voxels: int | Index3) -> Box:
        """This many voxels more on both sides of every axis."""
        by = (voxels, voxels, voxels) if isinstance(voxels, int) else voxels
        start = tuple(a - n for a, n in zip(self.start, by, strict=True))
        stop = tuple(b + n for b, n in zip(self.stop, by, strict=True))
        return Box(start, stop)  # pyright: ignore[reportArgumentType]

    def moved(self, by: Index3) -> Box:
        """A box of the same shape elsewhere; the other way round than `relative_to`."""
        i, j, k = by
        return self.relative_to((-i, -j, -k))

    def relative_to(self, origin: Index3) -> Box:
        """The same voxels, counted from another one."""
        start = tuple(a - o for a, o in zip(self.start, origin, strict=True))
        stop = tuple(b - o for b, o in zip(self.stop, origin, strict=True))
        return Box(start, stop)  # pyright: ignore[reportArgumentType]

    def slabs(self, thickness: int) -> Iterator[Box]:
        """The box in parts of so many voxels along the first axis; the last may be thinner."""
        _, j, k = self.start
        stop, m, n = self.stop
        for i in range(self.start[0], stop, thickness):
            yield Box((i, j, k), (min(i + thickness, stop), m, n))

    def contains(self, index: Sequence[int]) -> bool:
        (a, b, c), (d, e, f) = self.start, self.stop
        i, j, k = index
        return a <= i < d and b <= j < e and c <= k < f

    def to_slices(self) -> tuple[slice, slice, slice]:
        """Slices for the last three axes of an array."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return (i, j, k)
