"""Exact Euclidean distances to the outside of a region."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from voxclick.geometry.box import Box
from voxclick.geometry.flat import distance_to_border
from voxclick.types import Vector3

_CHUNK_ELEMENTS = 2**26
"""Largest intermediate of the min-plus product: 256 MB of float32."""


def distance_to_outside(
    region: Bool[Tensor, "i j k"],
    spacing: Vector3 = (1.0, 1.0, 1.0),
    flat: int | None = None,
) -> Float[Tensor, "i j k"]:
    """For each voxel of a region, the distance to the nearest voxel centre outside of it.

    What lies beyond the border of the array counts as outside, as if one more layer of voxels
    were there. So a region's distances are the same in the whole volume and in its bounding box,
    always finite, and where a region leaves the volume its deepest voxel is in the middle of what
    can be seen of it.

    Args:
        region: on any device; on the CPU the package `edt` does the work, elsewhere the same
            result comes from a separable minimum over lines.
        spacing: between voxel centres along (i, j, k). In mm it gives mm.
        flat: where the whole volume is a single slice (`geometry.flat`), the axis across it: along
            it nothing counts as outside, or all of the slice would be one voxel deep. None for a
            volume of several slices, also if the region itself is in one of them.

    Returns:
        float32 on the same device, 0 outside the region.
    """
    if region.device.type == "cpu":
        return torch.from_numpy(distance_to_border(region.numpy(), spacing, flat))
    return _distance_by_lines(region, spacing, flat)


def _distance_by_lines(
    region: Bool[Tensor, "i j k"], spacing: Vector3, flat: int | None = None
) -> Float[Tensor, "i j k"]:
    """`distance_to_outside` in torch alone, on any device.

    The squared distance is a minimum over i', j', k' of a sum with one term per axis, so the
    axes can be minimised one after the other (Felzenszwalb and Huttenlocher, 2012).
    """
    layers = [0 if axis == flat else 1 for axis in range(3)]
    padded = torch.nn.functional.pad(region, [n for n in reversed(layers) for _ in range(2)])
    squared = torch.zeros(padded.shape, dtype=torch.float32, device=region.device)
    squared.masked_fill_(padded, torch.inf)
    for axis, step in enumerate(spacing):
        if axis == flat:
            continue
        along_axis = squared.movedim(axis, -1)
        squared = _min_plus_along_lines(along_axis, step).movedim(-1, axis)
    inside = Box.of_shape(region.shape).relative_to((-layers[0], -layers[1], -layers[2]))
    return squared[inside.to_slices()].sqrt()


def _min_plus_along_lines(squared: Float[Tensor, "a b n"], step: float) -> Float[Tensor, "a b n"]:
    """min over m of squared[..., m] + (step * (n - m))²."""
    length = squared.shape[-1]
    position = torch.arange(length, dtype=torch.float32, device=squared.device) * step
    step_cost = (position[:, None] - position) ** 2
    lines = squared.reshape(-1, length)
    lines_at_once = max(1, _CHUNK_ELEMENTS // length**2)
    nearest = [(chunk[:, None, :] + step_cost).amin(dim=-1) for chunk in lines.split(lines_at_once)]
    return torch.cat(nearest).reshape(squared.shape)
