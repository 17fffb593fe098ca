"""What a training run can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from voxclick.augmentation import AugmentationSettings
from voxclick.simulation import (
    ClickStrategy,
    LargestError,
    MaxSteps,
    SimulationSettings,
    StoppingCriterion,
)
from voxclick.sliding_window.precision import Precision


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimizerSettings(_Settings):
    """Attributes:
    name: Adam and AdamW are PyTorch's, Novograd is MONAI's.
    learning_rate: the peak; the schedule goes down from here.
    weight_decay: decoupled for AdamW, L2 for the others.
    """

    name: Literal["adam", "adamw", "novograd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-5, ge=0, allow_inf_nan=False)


class ScheduleSettings(_Settings):
    """How the learning rate falls over the optimizer steps of the whole run.

    Attributes:
        name: ``cosine`` to zero, ``polynomial`` to zero with `power`, ``multi-step`` (times
            `milestone_factor` at each milestone), or ``constant``.
        warmup_steps: linear rise from zero before that.
        power: of the polynomial.
        milestones: fractions of the run.
        milestone_factor: what is left of the rate there.
    """

    name: Literal["cosine", "polynomial", "multi-step", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    power: float = Field(default=0.9, gt=0)
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    milestone_factor: float = Field(default=0.1, gt=0, lt=1)


class ValidationSettings(_Settings):
    """Attributes:
    strategy: where the simulated user of a validation clicks.
    stopping: when it stops. Its last Dice stands for the steps that it leaves out.
    """

    strategy: ClickStrategy = LargestError()
    stopping: StoppingCriterion = MaxSteps(max_steps=5)


class LossSettings(_Settings):
    """Attributes:
    name: soft Dice, or soft Dice plus cross entropy.
    include_background: whether background counts as a label in the Dice part.
    squared_dice: squares in the Dice denominator, as the original has it.
    click_weight: weight of an extra cross entropy over what the clicks were meant to correct:
        the voxels within 2 voxels of a click along each axis, and within `click_reach` the wrong
        ones of its label. Without it a network may learn to overlook clicks.
    click_reach: in voxels.
    """

    name: Literal["dice", "dice-ce"] = "dice-ce"
    include_background: bool = True
    squared_dice: bool = True
    click_weight: float = Field(default=0.0, ge=0)
    click_reach: int = Field(default=6, ge=2)


class TrainingSettings(_Settings):
    """Attributes:
    epochs: of `steps_per_epoch` optimizer steps each.
    steps_per_epoch: None for as many as show every case about once.
    batch_size: crops per optimizer step and process.
    crop: voxels of a training crop along (i, j, k), in the network's grid.
    workers: processes that prepare crops; 0 prepares them in the training process itself.
    simulation: how clicks are simulated before the learning step; None trains without clicks
        (then the model's `guidance` must be None too).
    pool_size: None clicks every crop to its end and then learns it once (the original's loop).
        A number holds so many crops at once and learns each after every click: the learning
        step's own prediction places the next click, so that no forward pass serves clicks alone.
    average_decay: decay of the exponential moving average of the weights, which is what is
        validated and saved; None for none.
    gradient_clip: largest norm of the gradient; None for no limit.
    validate_every: epochs between validations; the last epoch is always validated.
    validation: who clicks in a validation. The best model is the one with the highest mean Dice
        over all steps, the one without clicks included.
    """

    epochs: int = Field(default=100, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=2, ge=1)
    crop: tuple[PositiveInt, PositiveInt, PositiveInt] = (128, 128, 128)
    workers: int = Field(default=0, ge=0)
    augmentation: AugmentationSettings = AugmentationSettings()
    simulation: SimulationSettings | None = SimulationSettings()
    pool_size: int | None = Field(default=None, ge=1)
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    loss: LossSettings = LossSettings()
    precision: Precision = "auto"
    average_decay: float | None = Field(default=None, gt=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0)
    validate_every: int = Field(default=10, ge=1)
    validation: ValidationSettings = ValidationSettings()
