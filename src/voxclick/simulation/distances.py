"""Exact Euclidean distances to the outside of a region."""

from __future__ import annotations

import edt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from voxclick.types import Vector3

_CHUNK_ELEMENTS = 2**26
"""Largest intermediate of the min-plus product: 256 MB of float32."""


def distance_to_outside(
    region: Bool[Tensor, "i j k"], spacing: Vector3 = (1.0, 1.0, 1.0)
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

    Returns:
        float32 on the same device, 0 outside the region.
    """
    if region.device.type == "cpu":
        distances = edt.edt(region.numpy(), anisotropy=spacing, black_border=True)
        return torch.from_numpy(distances)
    return _distance_by_lines(region, spacing)


def _distance_by_lines(region: Bool[Tensor, "i j k"], spacing: Vector3) -> Float[Tensor, "i j k"]:
    """`distance_to_outside` in torch alone, on any device.

    The squared distance is a minimum over i', j', k' of a sum with one term per axis, so the
    axes can be minimised one after the other (Felzenszwalb and Huttenlocher, 2012).
    """
    padded = torch.nn.functional.pad(region, (1, 1, 1, 1, 1, 1))
    squared = torch.zeros(padded.shape, dtype=torch.float32, device=region.device)
    squared.masked_fill_(padded, torch.inf)
    for axis, step in enumerate(spacing):
        along_axis = squared.movedim(axis, -1)
        squared = _min_plus_along_lines(along_axis, step).movedim(-1, axis)
    return squared[1:-1, 1:-1, 1:-1].sqrt()


def _min_plus_along_lines(squared: Float[Tensor, "a b n"], step: float) -> Float[Tensor, "a b n"]:
    """min over m of squared[..., m] + (step * (n - m))²."""
    length = squared.shape[-1]
    position = torch.arange(length, dtype=torch.float32, device=squared.device) * step
    step_cost = (position[:, None] - position) ** 2
    lines = squared.reshape(-1, length)
    lines_at_once = max(1, _CHUNK_ELEMENTS // length**2)
    nearest = [(chunk[:, None, :] + step_cost).amin(dim=-1) for chunk in lines.split(lines_at_once)]
    return torch.cat(nearest).reshape(squared.shape)
