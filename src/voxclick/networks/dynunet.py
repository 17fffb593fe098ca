"""MONAI's DynUNet in named sizes.

``dynunet``, ``dynunet-small``, ``dynunet-big`` and ``dynunet-huge`` are the sizes of SW-FastEdit
(its ``dynunet``, ``smalldynunet``, ``bigdynunet``, ``hugedynunet``), parameter for parameter, so
that its weights fit. ``dynunet-light`` is ours, for training and clicking on a CPU.

``dynunet-2d`` and ``dynunet-light-2d`` look at one slice at a time: kernels and strides are 1 along
k. They are 2D networks in all but their tensors, which keep the third axis.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from monai.networks.nets.dynunet import DynUNet
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from voxclick.types import Index3

Stride: TypeAlias = PositiveInt | tuple[PositiveInt, PositiveInt, PositiveInt]
Kernel: TypeAlias = int | tuple[int, int, int]


def _three(per_axis: Stride | Kernel) -> Index3:
    return per_axis if isinstance(per_axis, tuple) else (per_axis, per_axis, per_axis)


class DynUNetOptions(BaseModel):
    """The free choices of a DynUNet; one entry of `strides` per level, the first being 1.

    Attributes:
        strides: down-sampling from level to level, per axis or one number for all axes.
        kernel: of the convolutions at every level, in the same way; odd. (3, 3, 1) looks at each
            slice by itself.
        filters: channels per level; None takes nnU-Net's 32, 64, 128, 256, 320, 320, …
        residual: residual blocks instead of plain ones.
        norm: ``instance`` (the original's), or ``batch``, which is faster and keeps what a window
            shows far away from a click out of the click's effect.
        dropout: probability in every block, None for none.
        deep_supervision_heads: coarser outputs that also get a loss in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strides: tuple[Stride, ...]
    kernel: Kernel = 3
    filters: tuple[PositiveInt, ...] | None = None
    residual: bool = True
    norm: Literal["instance", "batch"] = "instance"
    dropout: float | None = Field(default=None, ge=0, lt=1)
    deep_supervision_heads: int = 0

    @model_validator(mode="after")
    def _levels_agree(self) -> DynUNetOptions:
        if len(self.strides) < 3:
            raise ValueError(f"a DynUNet has at least 3 levels, got strides {self.strides}")
        if any(n < 1 or n % 2 == 0 for n in _three(self.kernel)):
            raise ValueError(f"kernel must be odd along each axis, got {self.kernel}")
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


_IN_PLANE = (2, 2, 1)

PRESETS = {
    "dynunet": DynUNetOptions(strides=(1, 2, 2, 2, 2, (2, 2, 1))),
    "dynunet-small": DynUNetOptions(strides=(1, 2, (2, 2, 1))),
    "dynunet-big": DynUNetOptions(strides=(1, 2, 2, 2, 2, 2, (2, 2, 1))),
    "dynunet-huge": DynUNetOptions(
        strides=(1, 2, 2, 2, 2, 2, 2), filters=(32, 64, 128, 192, 256, 384, 512), dropout=0.1
    ),
    "dynunet-light": DynUNetOptions(strides=(1, 2, 2, 2), filters=(16, 32, 64, 128)),
    "dynunet-2d": DynUNetOptions(strides=(1, *[_IN_PLANE] * 5), kernel=(3, 3, 1)),
    "dynunet-light-2d": DynUNetOptions(
        strides=(1, *[_IN_PLANE] * 3), kernel=(3, 3, 1), filters=(16, 32, 64, 128)
    ),
}


def build_dynunet(in_channels: int, out_channels: int, options: DynUNetOptions) -> DynUNet:
    """A DynUNet on three axes.

    In training mode with deep supervision its output has the shape
    (batch, 1 + heads, label, i, j, k), otherwise (batch, label, i, j, k).
    """
    strides = [_three(stride) for stride in options.strides]
    return DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[_three(options.kernel)] * len(strides),
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
    per_axis = [_three(stride) for stride in options.strides]
    i, j, k = (math.prod(stride[axis] for stride in per_axis) for axis in range(3))
    return (i, j, k)
