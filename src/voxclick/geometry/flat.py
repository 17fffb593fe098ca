"""Images and regions of a single slice: one voxel thick on exactly one axis.

Nobody knows what lies beside a single slice. So what is asked of it, how deep a voxel lies or how
near two outlines are, is asked in its plane alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
from numpy.typing import NDArray

from voxclick.types import Vector3


def flat_axis(shape: Sequence[int]) -> int | None:
    """The axis on which something of this shape is one voxel thick, where that is a single one."""
    thin = [axis for axis, length in enumerate(shape) if length == 1]
    return thin[0] if len(thin) == 1 else None


def distance_to_border(
    mask: NDArray[np.bool_], spacing: Vector3, flat: int | None = None
) -> NDArray[np.float32]:
    """For each voxel of a mask, the distance to the nearest voxel centre outside of it.

    What lies beyond the border of the array counts as outside, as if one more layer of voxels
    were there; not along the flat axis.

    Args:
        mask: shape (i, j, k).
        spacing: between voxel centres along (i, j, k). In mm it gives mm.
        flat: axis along which the mask is one voxel thick and has no outside; None for none.

    Returns:
        0 outside the mask.
    """
    if flat is None:
        return edt.edt(mask, anisotropy=spacing, black_border=True)
    in_plane = tuple(step for axis, step in enumerate(spacing) if axis != flat)
    distances = edt.edt(mask.squeeze(flat), anisotropy=in_plane, black_border=True)
    return np.expand_dims(distances, flat)
