"""Where a prediction is wrong: missed and excess regions, and connected components.

Label and prediction are label indices on the same grid, axes (i, j, k), on any one device.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from voxclick.geometry.box import Box
from voxclick.types import Index3, LabelTensor


@dataclass(frozen=True, eq=False)
class Component:
    """A connected region, in its bounding box.

    Attributes:
        box: where it lies in the array it was found in.
        mask: which voxels of the box belong to it.
        value: what all its voxels hold in that array.
    """

    box: Box
    mask: NDArray[np.bool_]
    value: int


def missed_region(
    label: LabelTensor, prediction: LabelTensor, label_index: int
) -> Bool[Tensor, "i j k"]:
    """The voxels that are this label and were not predicted so.

    For the background these are the voxels that any foreground label has in excess.
    """
    return (label == label_index) & (prediction != label_index)


def dice_of_label(label: LabelTensor, prediction: LabelTensor, label_index: int) -> float:
    """2 |P ∩ L| / (|P| + |L|) of one label; 1 where it is in neither."""
    is_label = label == label_index
    is_predicted = prediction == label_index
    total = int(is_label.sum() + is_predicted.sum())
    return 2 * int((is_label & is_predicted).sum()) / total if total else 1.0


def bounding_box(region: Bool[Tensor, "i j k"]) -> Box | None:
    """The smallest box that holds the region; None when it is empty."""
    in_jk = region.any(dim=0)
    if not in_jk.any():
        return None
    occupied = (region.any(dim=2).any(dim=1), in_jk.any(dim=1), in_jk.any(dim=0))
    ends = [along_axis.nonzero().flatten()[[0, -1]].tolist() for along_axis in occupied]
    (i0, i1), (j0, j1), (k0, k1) = ends
    return Box((i0, j0, k0), (i1 + 1, j1 + 1, k1 + 1))


def largest_component(regions: NDArray[np.integer], clicked: Collection[Index3] = ()) -> Component:
    """The 26-connected region of one non-zero value with the most voxels.

    Args:
        regions: shape (i, j, k), not all zero; voxels of different values do not connect.
        clicked: voxels clicked so far. A component of which every voxel has been clicked is
            taken only when all others are, too.

    Returns:
        Of equally large components the one that comes first in the array.

    Raises:
        ValueError: `regions` is zero everywhere.
    """
    components = cc3d.connected_components(regions, connectivity=26)
    statistics = cc3d.statistics(components)
    sizes = statistics["voxel_counts"].astype(np.int64)
    sizes[0] = 0  # the voxels outside all regions
    if not sizes.any():
        raise ValueError("there is no component in an array that is zero everywhere")
    clicked_components = np.array([components[v] for v in set(clicked)], dtype=np.int64)
    clicks_in = np.bincount(clicked_components, minlength=len(sizes))
    has_unclicked_voxel = sizes > clicks_in
    if has_unclicked_voxel.any():
        sizes[~has_unclicked_voxel] = 0
    largest = int(sizes.argmax())
    slices = statistics["bounding_boxes"][largest]
    mask = components[slices] == largest
    return Component(
        box=Box(tuple(s.start for s in slices), tuple(s.stop for s in slices)),
        mask=mask,
        value=int(regions[slices][mask][0]),
    )
