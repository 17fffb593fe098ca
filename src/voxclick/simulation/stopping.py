"""When a simulated user stops clicking.

Three rules (most steps, Dice reached, coin) make the five criteria: a criterion stops as soon as
one of its rules does. Like a strategy, a criterion is its own settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from voxclick.simulation.errors import dice_of_label
from voxclick.types import LabelTensor


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a simulated user is.

    Attributes:
        steps_done: rounds of clicks so far.
        label: the truth, label indices of shape (i, j, k).
        prediction: the latest, same grid and device.
        label_count: labels of the model, background included.
    """

    steps_done: int
    label: LabelTensor
    prediction: LabelTensor
    label_count: int

    @cached_property
    def dice_loss(self) -> float:
        """1 - mean Dice over the foreground labels; a label in neither volume has Dice 1."""
        dice = [
            dice_of_label(self.label, self.prediction, label_index)
            for label_index in range(1, self.label_count)
        ]
        return 1 - sum(dice) / len(dice)


StoppingRule: TypeAlias = Callable[[Progress, torch.Generator], bool]
"""Asked before each step: whether to stop. May draw from the generator (on the CPU)."""


def most_steps(steps: int) -> StoppingRule:
    """Stop after this many steps."""
    return lambda progress, _: progress.steps_done >= steps


def dice_reached(dice_loss: float) -> StoppingRule:
    """Stop once the Dice loss is below this."""
    return lambda progress, _: progress.dice_loss < dice_loss


def coin(stop_probability: Callable[[Progress], float]) -> StoppingRule:
    """Stop with a probability that may depend on the progress."""

    def is_stopped(progress: Progress, generator: torch.Generator) -> bool:
        drawn = torch.rand((), dtype=torch.float64, generator=generator).item()
        return drawn < stop_probability(progress)

    return is_stopped


class _Criterion(BaseModel, ABC):
    """Attributes:
    max_steps: the most rounds of clicks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_steps: int = Field(default=10, ge=0)

    def stops(self, progress: Progress, generator: torch.Generator) -> bool:
        """Whether the user stops before the next step; asked once per step."""
        return any(rule(progress, generator) for rule in self._rules())

    @abstractmethod
    def _rules(self) -> Sequence[StoppingRule]: ...


class MaxSteps(_Criterion):
    """Stop after `max_steps`."""

    name: Literal["max-steps"] = "max-steps"

    def _rules(self) -> Sequence[StoppingRule]:
        return [most_steps(self.max_steps)]


class MaxStepsOrProbability(_Criterion):
    """Before each step stop with probability 1 - `probability`."""

    name: Literal["max-steps-or-probability"] = "max-steps-or-probability"
    probability: float = Field(default=0.5, ge=0, le=1)

    def _rules(self) -> Sequence[StoppingRule]:
        return [most_steps(self.max_steps), coin(lambda _: 1 - self.probability)]


class MaxStepsOrDice(_Criterion):
    """Stop once the Dice loss is below `dice_loss`."""

    name: Literal["max-steps-or-dice"] = "max-steps-or-dice"
    dice_loss: float = Field(default=0.1, ge=0, le=1)

    def _rules(self) -> Sequence[StoppingRule]:
        return [most_steps(self.max_steps), dice_reached(self.dice_loss)]


class MaxStepsProbabilityDice(_Criterion):
    """Before each step stop with probability 1 - the current Dice loss."""

    name: Literal["max-steps-probability-dice"] = "max-steps-probability-dice"

    def _rules(self) -> Sequence[StoppingRule]:
        return [most_steps(self.max_steps), coin(lambda progress: 1 - progress.dice_loss)]


class DeepGrowProbability(_Criterion):
    """Click at all only with `probability`, then up to `max_steps`."""

    name: Literal["deepgrow-probability"] = "deepgrow-probability"
    probability: float = Field(default=0.4, ge=0, le=1)

    def _rules(self) -> Sequence[StoppingRule]:
        def at_first_step(progress: Progress) -> float:
            return 1 - self.probability if progress.steps_done == 0 else 0.0

        return [most_steps(self.max_steps), coin(at_first_step)]


class UniformSteps(_Criterion):
    """Every number of steps from 0 to `max_steps` is equally likely.

    Before step s (from 0) it stops with probability 1 / (`max_steps` - s + 1). Ours, for
    training: the learning step then sees few clicks as often as many.
    """

    name: Literal["uniform-steps"] = "uniform-steps"

    def _rules(self) -> Sequence[StoppingRule]:
        return [
            most_steps(self.max_steps),
            coin(lambda progress: 1 / (self.max_steps - progress.steps_done + 1)),
        ]


StoppingCriterion: TypeAlias = Annotated[
    MaxSteps
    | MaxStepsOrProbability
    | MaxStepsOrDice
    | MaxStepsProbabilityDice
    | DeepGrowProbability
    | UniformSteps,
    Field(discriminator="name"),
]
