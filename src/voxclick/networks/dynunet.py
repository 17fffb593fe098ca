"""MONAI's DynUNet in named sizes.

``dynunet``, ``dynunet-small``, ``dynunet-big`` and ``dynunet-huge`` are the sizes of SW-FastEdit
(its ``dynunet``, ``smalldynunet``, ``bigdynunet``, ``hugedynunet``), parameter for parameter, so
that its weights fit. ``dynunet-light`` is ours, for training and clicking on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from monai.networks.nets.dynunet import DynUNet
from pydantic import BaseModel, ConfigDict, model_validator

from voxclick.types import Index3

Stride: TypeAlias = int | tuple[int, int, int]


class DynUNetOptions(BaseModel):
    """The free choices of a DynUNet; one entry of `strides` per level, the first being 1.

    Attributes:
        strides: down-sampling from level to level, per axis or one number for all axes.
        filters: channels per level; None takes nnU-Net's 32, 64, 128, 256, 320, 320, …
        residual: residual blocks instead of plain ones.
        norm: ``instance`` (the original's), or ``batch``, which is faster and keeps what a window
            shows far away from a click out of the click's effect.
        dropout: probability in every block, None for none.
        deep_supervision_heads: coarser outputs that also get a loss in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strides: tuple[Stride, ...]
    filters: tuple[int, ...] | None = None
    residual: bool = True
    norm: Literal["instance", "batch"] = "instance"
    dropout: float | None = None
    deep_supervision_heads: int = 0

    @model_validator(mode="after")
    def _levels_agree(self) -> DynUNetOptions:
        if len(self.strides) < 3:
            raise ValueError(f"a DynUNet has at least 3 levels, got strides {self.strides}")
        if self.filters is not None and len(self.filters) != len(self.strides):
            raise ValueError(
                f"filters and strides must have one entry per level, got {len(self.filters)} "
                f"and {len(self.strides)}"
            )
        if not 0 <= self.deep_supervision_heads <= len(self.strides) - 2:
            raise ValueError(
                f"deep_supervision_heads must lie in 0…{len(self.strides) - 2} for "
                f"{len(self.strides)} levels, got {self.deep_supervision_heads}"
            )
        return self


PRESETS = {
    "dynunet": DynUNetOptions(strides=(1, 2, 2, 2, 2, (2, 2, 1))),
    "dynunet-small": DynUNetOptions(strides=(1, 2, (2, 2, 1))),
    "dynunet-big": DynUNetOptions(strides=(1, 2, 2, 2, 2, 2, (2, 2, 1))),
    "dynunet-huge": DynUNetOptions(
        strides=(1, 2, 2, 2, 2, 2, 2), filters=(32, 64, 128, 192, 256, 384, 512), dropout=0.1
    ),
    "dynunet-light": DynUNetOptions(strides=(1, 2, 2, 2), filters=(16, 32, 64, 128)),
}


def build_dynunet(in_channels: int, out_channels: int, options: DynUNetOptions) -> DynUNet:
    """A 3D DynUNet with kernel 3 everywhere.

    In training mode with deep supervision its output has the shape
    (batch, 1 + heads, label, i, j, k), otherwise (batch, label, i, j, k).
    """
    strides = [list(s) if isinstance(s, tuple) else s for s in options.strides]
    return DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=None if options.filters is None else list(options.filters),
        dropout=options.dropout,
        norm_name=options.norm,
        deep_supervision=options.deep_supervision_heads > 0,
        deep_supr_num=max(1, options.deep_supervision_heads),
        res_block=options.residual,
    )


def dynunet_multiple(options: DynUNetOptions) -> Index3:
    """Windows must have a multiple of this many voxels along (i, j, k)."""
    per_axis = [_per_axis(stride) for stride in options.strides]
    i, j, k = (math.prod(stride[axis] for stride in per_axis) for axis in range(3))
    return (i, j, k)


def _per_axis(stride: Stride) -> Sequence[int]:
    return stride if isinstance(stride, tuple) else (stride, stride, stride)
