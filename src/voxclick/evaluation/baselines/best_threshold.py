"""The best that one threshold can do, with the label in hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from voxclick.evaluation.baselines.baseline import Baseline
from voxclick.types import Index3
from voxclick.volume import Volume

_PART = 2**22
"""Voxels that are sorted at a time: 16 MB of float32."""


class BestThreshold(Baseline):
    """All voxels of the image at or above the threshold that gives the best Dice.

    An oracle: it knows the label and needs no clicks. Of equally good thresholds it takes the
    highest; without labelled voxels the mask is empty.
    """

    def __init__(self, image: Volume, label: NDArray[np.bool_]) -> None:
        """Args:
        image: what is labelled should be brighter than the rest.
        label: the truth, on the image's grid.
        """
        super().__init__(image)
        self._label = label

    def _segment(
        self, foreground: Sequence[Index3], background: Sequence[Index3]
    ) -> NDArray[np.bool_]:
        return self._voxels >= self._threshold

    @cached_property
    def _threshold(self) -> float:
        """The best of all thresholds, exactly.

        Only values of labelled voxels can be best: between two of them, a lower threshold adds
        voxels outside the label alone. So all other voxels need only be counted above each.
        """
        values, counts = np.unique(self._voxels[self._label], return_counts=True)
        if len(values) == 0:
            return float("inf")
        labelled = int(counts.sum())
        overlap = np.cumsum(counts[::-1])[::-1]
        predicted = np.zeros(len(values), dtype=np.int64)
        for part in self._parts_from(values[0]):
            predicted += len(part) - np.searchsorted(part, values)
        dice = 2 * overlap / (predicted + labelled)
        return float(values[np.flatnonzero(dice == dice.max())[-1]])

    def _parts_from(self, smallest: np.float32) -> Iterator[NDArray[np.float32]]:
        """All voxels at or above this, sorted part by part."""
        flat = self._voxels.ravel(order="K")
        for start in range(0, len(flat), _PART):
            part = flat[start : start + _PART]
            yield np.sort(part[part >= smallest])
