"""The simulated user drives a prediction to the truth and stops when it should."""

from __future__ import annotations

import torch

from voxclick.simulation import (
    Corrective,
    DeepGrow,
    LargestError,
    MaxSteps,
    MaxStepsOrDice,
    MaxStepsOrProbability,
    SimulatedUser,
    SimulationSettings,
)

SPACING_MM = (1.0, 1.0, 1.0)


def two_blocks() -> torch.Tensor:
    label = torch.zeros(20, 20, 20, dtype=torch.uint8)
    label[2:9, 2:9, 2:9] = 1
    label[12:17, 12:17, 12:17] = 1
    return label


def test_a_user_corrects_until_there_is_nothing_left_to_click():
    label, prediction = two_blocks(), torch.zeros(20, 20, 20, dtype=torch.uint8)
    user = SimulatedUser(LargestError(), MaxSteps(max_steps=4), seed=0)

    (click,) = user.next_clicks(label, prediction, SPACING_MM) or []
    assert click.index == (5, 5, 5)
    prediction[0:10, 0:10, 0:10] = 1  # the network answers with too much

    (click,) = user.next_clicks(label, prediction, SPACING_MM) or []
    assert click.label_index == 0
    prediction[0:10, 0:10, 0:10] = label[0:10, 0:10, 0:10]

    (click,) = user.next_clicks(label, prediction, SPACING_MM) or []
    assert click.index == (14, 14, 14)

    assert user.next_clicks(label, label, SPACING_MM) == []  # goes on, but is content
    assert user.steps_done == 4
    assert user.next_clicks(label, prediction, SPACING_MM) is None
    assert user.clicked[1] == [(5, 5, 5), (14, 14, 14)]
    assert len(user.clicked[0]) == 1


def test_a_step_without_clicks_is_not_the_end():
    label, prediction = two_blocks(), torch.zeros(20, 20, 20, dtype=torch.uint8)
    user = SimulatedUser(DeepGrow(probability=0), MaxSteps(max_steps=2), seed=0)
    assert user.next_clicks(label, prediction, SPACING_MM) == []
    assert user.next_clicks(label, prediction, SPACING_MM) == []
    assert user.next_clicks(label, prediction, SPACING_MM) is None


def test_a_user_who_has_stopped_stays_so():
    label, prediction = two_blocks(), torch.zeros(20, 20, 20, dtype=torch.uint8)
    user = SimulatedUser(LargestError(), MaxStepsOrDice(dice_loss=0.1), seed=0)
    assert user.next_clicks(label, label, SPACING_MM) is None
    assert user.next_clicks(label, prediction, SPACING_MM) is None
    assert user.clicked == [[], []]


def test_the_same_seed_gives_the_same_session():
    label, prediction = two_blocks(), torch.zeros(20, 20, 20, dtype=torch.uint8)

    def session(seed: int):
        user = SimulatedUser(
            Corrective(), MaxStepsOrProbability(max_steps=9, probability=0.9), seed
        )
        steps = []
        while (clicks := user.next_clicks(label, prediction, SPACING_MM)) is not None:
            steps.append(clicks)
        return steps

    assert session(3) == session(3)
    assert len({str(session(seed)) for seed in range(10)}) > 5


def test_a_label_for_each_of_several():
    label = two_blocks()
    label[12:17, 12:17, 12:17] = 2
    user = SimulatedUser(Corrective(), MaxSteps(), seed=0, label_count=3)
    clicks = user.next_clicks(label, torch.zeros_like(label), SPACING_MM)
    assert clicks is not None
    assert [click.label_index for click in clicks] == [1, 2]
    assert [len(clicked) for clicked in user.clicked] == [0, 1, 1]


def test_settings_name_strategy_and_criterion():
    settings = SimulationSettings.model_validate(
        {
            "strategy": {"name": "patch-corrective", "patch_size": 64},
            "stopping": {"name": "max-steps-or-dice", "max_steps": 5, "dice_loss": 0.2},
        }
    )
    assert settings.strategy.name == "patch-corrective"
    assert settings.stopping == MaxStepsOrDice(max_steps=5, dice_loss=0.2)
    assert SimulationSettings.model_validate_json(settings.model_dump_json()) == settings
