"""Optimizers, learning-rate schedules and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from monai.optimizers.novograd import Novograd
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from voxclick.training.settings import OptimizerSettings, ScheduleSettings


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """An optimizer over these parameters."""
    kinds: dict[str, Callable[..., Optimizer]] = {
        "adam": Adam,
        "adamw": AdamW,
        "novograd": Novograd,
    }
    return kinds[settings.name](
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def build_schedule(optimizer: Optimizer, settings: ScheduleSettings, steps: int) -> LambdaLR:
    """A schedule that is stepped once per optimizer step, over ``steps`` of them."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))


def learning_rate_factor(step: int, steps: int, settings: ScheduleSettings) -> float:
    """Fraction of the peak learning rate at optimizer step ``step`` of ``steps``."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = min(1.0, (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps))
    if settings.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if settings.name == "polynomial":
        return (1 - done) ** settings.power
    if settings.name == "multi-step":
        passed = sum(done >= milestone for milestone in settings.milestones)
        return settings.milestone_factor**passed
    return 1.0


_Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that follows it as an exponential moving average, buffers included.

    The decay rises from 0.1 towards its value, min(decay, (1 + n) / (10 + n)) after n updates, so
    that the random first weights are soon forgotten.
    """

    @torch.no_grad()
    def follow(averages: _Tensors, current: _Tensors, n: Tensor | int) -> None:
        count = int(n)
        rate = 1 - min(decay, (1 + count) / (10 + count))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, rate)
            else:  # a counter
                average.copy_(value)

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
