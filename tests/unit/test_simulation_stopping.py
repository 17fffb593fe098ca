"""Stopping criteria: certain ones at their limit, coins by how often they stop."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from voxclick.simulation import (
    DeepGrowProbability,
    MaxSteps,
    MaxStepsOrDice,
    MaxStepsOrProbability,
    MaxStepsProbabilityDice,
    StoppingCriterion,
    UniformSteps,
)
from voxclick.simulation.stopping import Progress

LABEL = torch.tensor([0, 0, 1, 1, 1, 1])[:, None, None]
PREDICTION = torch.tensor([0, 1, 0, 1, 1, 1])[:, None, None]  # Dice 2 * 3 / (4 + 4)
TRIALS = 2000


def progress(steps_done=0, prediction=PREDICTION, label=LABEL, label_count=2) -> Progress:
    return Progress(steps_done, label, prediction, label_count)


def share_stopped(criterion, at: Progress) -> float:
    generator = torch.Generator().manual_seed(0)
    return sum(criterion.stops(at, generator) for _ in range(TRIALS)) / TRIALS


# 3 standard deviations of a share of 2000 coins are 0.034 at most
def near(share: float):
    return pytest.approx(share, abs=0.034)


def test_dice_loss_is_the_mean_over_foreground_labels():
    assert progress().dice_loss == 0.25
    label = torch.tensor([0, 1, 1, 2, 2])[:, None, None]
    prediction = torch.tensor([0, 1, 1, 2, 0])[:, None, None]
    # Dice 1, 2/3, and 1 for the label that is in neither volume
    mean = (1 + 2 / 3 + 1) / 3
    assert progress(0, prediction, label, label_count=4).dice_loss == pytest.approx(1 - mean)


@pytest.mark.parametrize(
    "criterion",
    [
        MaxSteps(max_steps=3),
        MaxStepsOrProbability(max_steps=3, probability=1),
        MaxStepsOrDice(max_steps=3, dice_loss=0),
        MaxStepsProbabilityDice(max_steps=3),
        DeepGrowProbability(max_steps=3, probability=1),
    ],
)
def test_every_criterion_ends_at_its_most_steps(criterion):
    nothing_right = progress(2, 1 - LABEL)
    assert nothing_right.dice_loss == 1
    assert share_stopped(criterion, nothing_right) == 0
    assert share_stopped(criterion, progress(3, 1 - LABEL)) == 1


def test_no_steps_at_all():
    assert share_stopped(MaxSteps(max_steps=0), progress()) == 1


@pytest.mark.parametrize("steps_done", [0, 4])
def test_or_probability_stops_before_each_step(steps_done):
    criterion = MaxStepsOrProbability(probability=0.8)
    assert share_stopped(criterion, progress(steps_done)) == near(0.2)


def test_or_dice_stops_once_the_loss_is_below():
    assert share_stopped(MaxStepsOrDice(dice_loss=0.26), progress()) == 1
    assert share_stopped(MaxStepsOrDice(dice_loss=0.25), progress()) == 0


def test_probability_dice_stops_with_one_minus_the_loss():
    assert share_stopped(MaxStepsProbabilityDice(), progress()) == near(0.75)
    assert share_stopped(MaxStepsProbabilityDice(), progress(0, LABEL)) == 1


def test_deepgrow_decides_before_the_first_step_alone():
    criterion = DeepGrowProbability(probability=0.4)
    assert share_stopped(criterion, progress(0)) == near(0.6)
    assert share_stopped(criterion, progress(1)) == 0


@pytest.mark.parametrize(
    "name",
    [
        "max-steps",
        "max-steps-or-probability",
        "max-steps-or-dice",
        "max-steps-probability-dice",
        "deepgrow-probability",
    ],
)
def test_every_name_is_known(name):
    criterion = TypeAdapter(StoppingCriterion).validate_python({"name": name, "max_steps": 4})
    assert criterion.name == name
    assert criterion.max_steps == 4


def test_uniform_steps_makes_every_number_of_steps_equally_likely():
    generator = torch.Generator().manual_seed(0)
    criterion = UniformSteps(max_steps=4)
    counts = [0] * 5
    for _ in range(TRIALS):
        steps = 0
        while not criterion.stops(progress(steps), generator):
            steps += 1
        counts[steps] += 1
    assert [count / TRIALS for count in counts] == [near(0.2)] * 5
