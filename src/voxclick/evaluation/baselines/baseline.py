"""What every simple method offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import ClickError
from voxclick.geometry.box import Box
from voxclick.types import Index3
from voxclick.volume import Volume


class Baseline(ABC):
    """A simple method on one image, for one label.

    It may remember what it found for earlier clicks, but its answer depends on the clicks of the
    call alone, not on their order or on earlier calls.
    """

    def __init__(self, image: Volume) -> None:
        self._voxels = np.asarray(image.voxels, dtype=np.float32)
        self._spacing_mm = image.spacing_mm

    def segment(
        self, foreground: Sequence[Index3], background: Sequence[Index3]
    ) -> NDArray[np.bool_]:
        """The label by the clicks so far.

        Args:
            foreground: voxels (i, j, k) clicked as the label.
            background: voxels clicked as something else.

        Returns:
            A new mask on the image's grid. Without a foreground click it is empty, except for
            methods that need no clicks.

        Raises:
            ClickError: a click lies outside the image.
        """
        whole = Box.of_shape(self._voxels.shape)
        for click in (*foreground, *background):
            if not whole.contains(click):
                raise ClickError(
                    f"the click {tuple(click)} lies outside the image of {whole.shape} voxels; "
                    "expected a voxel index (i, j, k) of the image's own array"
                )
        return self._segment(foreground, background)

    @abstractmethod
    def _segment(
        self, foreground: Sequence[Index3], background: Sequence[Index3]
    ) -> NDArray[np.bool_]: ...

    def _empty_mask(self) -> NDArray[np.bool_]:
        return np.zeros(self._voxels.shape, dtype=np.bool_)
