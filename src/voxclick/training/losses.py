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
        self._click_weight = settings.click_weight

    def forward(self, output: Tensor, label: Tensor, to_correct: Tensor | None = None) -> Tensor:
        """Args:
        output: logits (batch, label, i, j, k), or (batch, depth, label, i, j, k).
        label: label indices (batch, i, j, k).
        to_correct: bool (batch, i, j, k), what the clicks were meant to correct.
        """
        depths = output.unbind(dim=1) if output.ndim == 6 else (output,)
        weights = [0.5**depth for depth in range(len(depths))]
        terms = [
            w * self._loss(o.float(), label[:, None]) for w, o in zip(weights, depths, strict=True)
        ]
        loss = torch.stack(terms).sum() / sum(weights)
        if self._click_weight and to_correct is not None and to_correct.any():
            at_clicks = depths[0].float().movedim(1, -1)[to_correct]
            loss = loss + self._click_weight * nn.functional.cross_entropy(
                at_clicks, label[to_correct].long()
            )
        return loss
