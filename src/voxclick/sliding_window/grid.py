"""Where the windows of a volume lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monai.data.utils import dense_patch_slices

from voxclick.geometry.box import Box
from voxclick.types import Index3


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a volume, in the fixed order in which they are blended.

    Boxes are voxels of the volume. They reach over its borders where it is smaller than a window,
    half on each side; there the network sees zeros.

    Attributes:
        shape: voxels of the volume.
        window: voxels of a window.
        boxes: one box per window.
    """

    shape: Index3
    window: Index3
    boxes: tuple[Box, ...]

    @staticmethod
    def cover(shape: Index3, window: Index3, overlap: float) -> WindowGrid:
        """Cover a volume of ``shape`` with windows that overlap by a fraction of their size.

        Positions are MONAI's (`dense_patch_slices`): a constant step of
        ``int(window * (1 - overlap))``, the last window pushed back inside.
        """
        padded = _three(max(n, w) for n, w in zip(shape, window, strict=True))
        steps = [
            w if w == n else max(1, int(w * (1 - overlap)))
            for n, w in zip(padded, window, strict=True)
        ]
        before = _three((p - n) // 2 for p, n in zip(padded, shape, strict=True))
        boxes = tuple(
            Box(_three(s.start for s in slices), _three(s.stop for s in slices)).relative_to(before)
            for slices in dense_patch_slices(padded, window, steps)
        )
        return WindowGrid(shape, window, boxes)

    @staticmethod
    def at_centre(shape: Index3, size: Index3 | None, multiple: Index3) -> WindowGrid:
        """A single window in the middle, its size rounded up to a multiple on each axis.

        Args:
            size: of the window; None, or more than there is, for the whole volume.
        """
        wanted = [min(n, s) for n, s in zip(shape, size or shape, strict=True)]
        window = _three(-(-n // m) * m for n, m in zip(wanted, multiple, strict=True))
        # where the volume is smaller, half of the padding comes before it, rounded down as above
        start = _three(
            (n - w) // 2 if n >= w else -((w - n) // 2) for n, w in zip(shape, window, strict=True)
        )
        return WindowGrid(shape, window, (Box.of_shape(window).relative_to(_negative(start)),))

    def touching(self, box: Box) -> list[int]:
        """The numbers of the windows that share voxels with a box, in order."""
        return [number for number, window in enumerate(self.boxes) if window.meets(box)]

    def around(self, centre: Index3) -> Box:
        """A window, not one of the grid's, with ``centre`` as near to its middle as the volume
        allows."""
        start = _three(
            min(max(c - w // 2, 0), n - w) if n > w else (n - w) // 2
            for c, w, n in zip(centre, self.window, self.shape, strict=True)
        )
        return Box.of_shape(self.window).relative_to(_negative(start))


def _negative(index: Index3) -> Index3:
    return _three(-x for x in index)


def _three(values: Iterable[int]) -> Index3:
    i, j, k = (int(value) for value in values)
    return (i, j, k)
