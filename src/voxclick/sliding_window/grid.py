"""Where the windows of a volume lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monai.data.utils import dense_patch_slices

from voxclick.geometry.box import Box
from voxclick.types import Index3


@dataclass(frozen=True)
class WindowGrid:
    """The windows that cover a volume, in the fixed order in which they are blended.

    A volume smaller than the window on an axis is padded there, half on each side; boxes are
    those of the padded volume. Positions are MONAI's (`dense_patch_slices`): a constant step of
    ``int(window * (1 - overlap))``, the last window pushed back inside.

    Attributes:
        shape: voxels of the volume itself.
        window: voxels of a window.
        boxes: one box per window, in the padded volume.
        padding_before: voxels of padding in front of the volume along (i, j, k).
        padded_shape: voxels of the padded volume.
    """

    shape: Index3
    window: Index3
    boxes: tuple[Box, ...]
    padding_before: Index3
    padded_shape: Index3

    @staticmethod
    def cover(shape: Index3, window: Index3, overlap: float) -> WindowGrid:
        """Cover a volume of ``shape`` with windows that overlap by a fraction of their size."""
        padded = _three(max(n, w) for n, w in zip(shape, window, strict=True))
        steps = [
            w if w == n else max(1, int(w * (1 - overlap)))
            for n, w in zip(padded, window, strict=True)
        ]
        boxes = tuple(
            Box(_three(s.start for s in slices), _three(s.stop for s in slices))
            for slices in dense_patch_slices(padded, window, steps)
        )
        before = _three((p - n) // 2 for p, n in zip(padded, shape, strict=True))
        return WindowGrid(shape, window, boxes, before, padded)

    @property
    def volume_box(self) -> Box:
        """The unpadded volume inside the padded one."""
        stop = _three(b + n for b, n in zip(self.padding_before, self.shape, strict=True))
        return Box(self.padding_before, stop)


def _three(values: Iterable[int]) -> Index3:
    i, j, k = (int(value) for value in values)
    return (i, j, k)
