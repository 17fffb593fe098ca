"""The loss of a learning step."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from voxclick.training.settings import LossSettings


class SegmentationLoss(nn.Module):
    """Soft Dice, alone or with cross entropy, over one output or several supervised ones.

    With deep supervision the output at depth d counts 2^-d as much as the finest, as in nnU-Net.
    """

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        loss = DiceCELoss if settings.name == "dice-ce" else DiceLoss
        self._loss = loss(
            to_onehot_y=True,
            softmax=True,
            include_background=settings.include_background,
            squared_pred=settings.squared_dice,
        )

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Args:
        output: logits (batch, label, i, j, k), or (batch, depth, label, i, j, k).
        label: label indices (batch, i, j, k).
        """
        target = label[:, None]
        if output.ndim == 5:
            return self._loss(output.float(), target)
        depths = output.unbind(dim=1)
        weights = torch.tensor([0.5**depth for depth in range(len(depths))])
        weights = (weights / weights.sum()).tolist()
        terms = [w * self._loss(o.float(), target) for w, o in zip(weights, depths, strict=True)]
        return torch.stack(terms).sum()
