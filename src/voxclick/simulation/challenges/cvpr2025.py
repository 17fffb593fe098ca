"""Box and corrective clicks of the CVPR 2025 challenge of interactive 3D segmentation.

Source: github.com/JunMa11/CVPR-MedSegFMCompetition, `CVPR25_iter_eval.py` for the clicks and
`get_boxes.py` for the boxes. Its arrays are (z, y, x): the transpose of these here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import edt
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import block_reduce

from voxclick.errors import GeometryError
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.simulation.errors import bounding_box, largest_component
from voxclick.types import Index3

_SEED = 42

_LARGEST_CROP = 60_000_000
"""Voxels of a padded crop above which depths are measured at half the resolution."""


@dataclass(frozen=True)
class CorrectiveClick:
    """A click on one class.

    Attributes:
        index: voxel (i, j, k).
        is_foreground: whether it says that the class is there, or that it is not.
    """

    index: Index3
    is_foreground: bool


def box_prompt(label: NDArray[np.bool_]) -> Box | None:
    """The box of one class, as wide as the class is on its middle slice.

    Along k the box holds all of the class; along i and j it holds what is on the middle one of
    the slices that have any, the upper of two middle ones. So the class may reach out of it on
    other slices. An image of a single slice along i or j has its box around all of the class.

    The challenge's boxes were then widened along i and j by 0 to 5 voxels for every 256 of the
    image, drawn from one stream for all cases, so that no single case can be repeated: this one
    stays tight.

    Args:
        label: one class, shape (i, j, k).

    Returns:
        None for an empty class.
    """
    if flat_axis(label.shape) in (0, 1):
        return bounding_box(torch.from_numpy(label))
    slices = np.flatnonzero(label.any(axis=(0, 1)))
    if len(slices) == 0:
        return None
    in_plane = np.argwhere(label[:, :, slices[len(slices) // 2]])
    (i0, j0), (i1, j1) = in_plane.min(axis=0).tolist(), in_plane.max(axis=0).tolist()
    return Box((i0, j0, int(slices[0])), (i1 + 1, j1 + 1, int(slices[-1]) + 1))


def next_click(label: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> CorrectiveClick | None:
    """The click that corrects one class: at the deepest voxel of its largest error.

    Errors are the voxels that are in one of label and prediction alone; missed and excess voxels
    that touch are one error. Of its 26-connected components the one with the most voxels counts,
    the first of equals. Depth is the Euclidean distance to its outside in voxels, whatever the
    spacing, and what is beyond the image is outside; in an image of a single slice, which the
    challenge does not have, only in its plane. Among equally deep voxels NumPy's legacy generator
    chooses, seeded with 42 for every click: the same error gives the same click.

    Where the component's bounding box, padded on every side by a quarter of its extent (at least
    one voxel), has more than 6e7 voxels, depth is that in blocks of 2 x 2 x 2 voxels, of which
    those with any voxel of the component count as inside.

    Args:
        label: one class, shape (i, j, k).
        prediction: of that class, on the same grid.

    Returns:
        A foreground click where the label is set, else a background click; None where nothing is
        wrong.

    Raises:
        GeometryError: label and prediction differ in shape.
    """
    if label.shape != prediction.shape:
        raise GeometryError(
            f"label and prediction must share a grid, got {label.shape} and {prediction.shape} "
            "voxels"
        )
    is_wrong = np.ascontiguousarray((label != prediction).T)
    if not is_wrong.any():
        return None
    component = largest_component(is_wrong.view(np.uint8))
    depth = _squared_depth(component.mask, flat_axis(is_wrong.shape))
    deepest = np.argwhere(depth == depth.max())
    chosen = deepest[np.random.RandomState(_SEED).choice(len(deepest))]
    k, j, i = (chosen + component.box.start).tolist()
    return CorrectiveClick((i, j, k), bool(label[i, j, k]))


def _squared_depth(component: NDArray[np.bool_], flat: int | None = None) -> NDArray[np.float32]:
    """Squared distances to the outside of a component in its bounding box; 0 outside.

    Squared they are whole numbers, and equal ones are equal. Nothing is outside along the flat axis
    of a single slice.
    """
    if flat is not None:
        return np.expand_dims(_squared_depth(component.squeeze(flat)), flat)
    padding = [max(1, extent // 4) for extent in component.shape]
    padded_size = math.prod(n + 2 * p for n, p in zip(component.shape, padding, strict=True))
    if padded_size <= _LARGEST_CROP:
        # one layer of outside says as much as the whole padding
        return edt.edtsq(component, black_border=True)
    padded = np.pad(component, [(p, p) for p in padding])
    depth = edt.edtsq(np.ascontiguousarray(block_reduce(padded, 2, np.max)))
    for axis in range(depth.ndim):
        depth = depth.repeat(2, axis=axis)
    inside = tuple(slice(p, p + n) for n, p in zip(component.shape, padding, strict=True))
    return depth[inside] * component
