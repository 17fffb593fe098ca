"""Validation: whole volumes, simulated clicks, Dice per click, all in the network's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from voxclick.geometry.box import Box
from voxclick.guidance import build_encoder
from voxclick.model_files import Model, ModelSettings
from voxclick.preprocessing import label_of_margins
from voxclick.session import ClickedImage
from voxclick.simulation import SimulatedUser
from voxclick.simulation.errors import dice_of_label
from voxclick.training.cache import PreparedCase
from voxclick.training.settings import ValidationSettings


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """Attributes:
    dice: mean over cases and foreground labels after 0, 1, … clicks.
    example: image, label and prediction of the first case, (i, j, k) arrays, for a picture.
    """

    dice: tuple[float, ...]
    example: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def mean_dice(self) -> float:
        """Over the clicks: what the best model is chosen by."""
        return sum(self.dice) / len(self.dice)


def validate_case(
    case: PreparedCase,
    settings: ModelSettings,
    network: nn.Module,
    validation: ValidationSettings,
    seed: int,
) -> tuple[list[float], torch.Tensor]:
    """Dice after 0, 1, … steps of clicks, as many as there may be, and the last prediction.

    A network without clicks gets one prediction, whose Dice stands for all steps.
    """
    steps = validation.stopping.max_steps
    device = next(network.parameters()).device
    label = case.label
    shape = (label.shape[0], label.shape[1], label.shape[2])
    inference = Model(settings, network, device).inference(shape)
    encoder = settings.guidance and build_encoder(settings.guidance, case.spacing_mm)

    def read_image(box: Box) -> torch.Tensor:
        return case.image[(slice(None), *box.to_slices())]

    user = SimulatedUser(validation.strategy, validation.stopping, seed, len(settings.labels))
    scores: list[float] = []
    while True:
        clicks = [list(of_label) for of_label in user.clicked]
        source = ClickedImage(read_image, shape, encoder, clicks)
        margins = inference.margins(source, Box.of_shape(shape))
        prediction = label_of_margins(margins).cpu()
        scores.append(_mean_dice(label, prediction, len(settings.labels)))
        if encoder is None or user.next_clicks(label, prediction, case.spacing_mm) is None:
            return scores + scores[-1:] * (steps + 1 - len(scores)), prediction


def validate(
    cases: Sequence[PreparedCase],
    settings: ModelSettings,
    network: nn.Module,
    validation: ValidationSettings,
    seed: int,
) -> tuple[torch.Tensor, tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
    """Validate some cases.

    Returns:
        The sum of Dice over the cases per step, shape (most steps + 1,), and the first case's
        picture.
    """
    total = torch.zeros(validation.stopping.max_steps + 1, dtype=torch.float64)
    example = None
    for case in cases:
        scores, prediction = validate_case(case, settings, network, validation, seed)
        total += torch.tensor(scores, dtype=torch.float64)
        if example is None:
            example = (case.image[0].numpy(), case.label.numpy() > 0, prediction.numpy() > 0)
    return total, example


def _mean_dice(label: torch.Tensor, prediction: torch.Tensor, label_count: int) -> float:
    dice = [dice_of_label(label, prediction, index) for index in range(1, label_count)]
    return sum(dice) / len(dice)
