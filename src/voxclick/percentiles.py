"""Exact percentiles of more numbers than fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Parts = Callable[[], Iterable[NDArray[np.floating]]]
"""Gives all numbers, in parts; it is asked more than once."""

_HALF = 16
"""Bits of a float32 that are counted at a time."""


def percentiles(parts: Parts, wanted: Sequence[float]) -> list[float]:
    """NumPy's percentiles (its method ``linear``) of float32 numbers, in two passes over them.

    The bits of a float32, its sign turned round, count up as the numbers do. So the first pass
    counts their upper halves, and the second the lower halves of those few upper ones that a
    percentile lies among.

    Args:
        parts: float32 without NaN, at least one number.
        wanted: each from 0 to 100.
    """
    upper_counts = np.zeros(1 << _HALF, dtype=np.int64)
    for part in parts():
        upper_counts += np.bincount(_ordered(part) >> _HALF, minlength=1 << _HALF)
    count = int(upper_counts.sum())
    positions = [(count - 1) * percent / 100 for percent in wanted]
    ranks = sorted({r for p in positions for r in (int(p), min(int(p) + 1, count - 1))})
    up_to = np.cumsum(upper_counts)
    upper = {rank: int(np.searchsorted(up_to, rank, side="right")) for rank in ranks}
    lower_counts = _lower_counts(parts, set(upper.values()))
    value = {
        rank: _value(half, rank - int(up_to[half] - upper_counts[half]), lower_counts[half])
        for rank, half in upper.items()
    }
    found = []
    for position in positions:
        below, above = value[int(position)], value[min(int(position) + 1, count - 1)]
        found.append(below + (above - below) * (position - int(position)))
    return found


def _lower_counts(parts: Parts, halves: set[int]) -> dict[int, NDArray[np.int64]]:
    counts = {half: np.zeros(1 << _HALF, dtype=np.int64) for half in halves}
    for part in parts():
        ordered = _ordered(part)
        for half, counted in counts.items():
            among = ordered[ordered >> _HALF == half] & ((1 << _HALF) - 1)
            counted += np.bincount(among, minlength=1 << _HALF)
    return counts


def _value(upper: int, rank: int, lower_counts: NDArray[np.int64]) -> float:
    """The number of this rank among those with one upper half."""
    lower = int(np.searchsorted(np.cumsum(lower_counts), rank, side="right"))
    ordered = np.uint32(upper << _HALF | lower)
    sign = np.uint32(1 << 31)
    bits = ordered ^ sign if ordered & sign else ~ordered
    return float(np.array(bits, dtype=np.uint32).view(np.float32))


def _ordered(part: NDArray[np.floating]) -> NDArray[np.uint32]:
    """float32 as integers of the same order; both zeros are one number."""
    bits = (np.ascontiguousarray(part, dtype=np.float32) + np.float32(0)).view(np.uint32).ravel()
    sign = np.uint32(1 << 31)
    return np.where(bits & sign, ~bits, bits | sign)
