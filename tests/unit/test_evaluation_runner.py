"""The click loop of an evaluation, around a network that finds nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from voxclick import InteractiveSession, LabelMap, Volume
from voxclick.evaluation.runner import evaluate_session
from voxclick.evaluation.settings import EvaluationSettings
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows

LABELS = ("background", "liver", "tumor", "spleen")
SHAPE = (16, 16, 16)


class LiverAboveAHalf(nn.Module):
    """Liver where the image is bright, background elsewhere; clicks change nothing."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        liver = windows[:, 0] - 0.5
        never = torch.full_like(liver, -9.0)
        return torch.stack([torch.zeros_like(liver), liver, never, never], dim=1)


def evaluate(truth: np.ndarray, *, guidance: DiskGuidance | None):
    settings = ModelSettings(
        labels=LABELS,
        channels=("CT",),
        preprocessing=PreprocessingSettings(intensity=(RangeScaling(low=0, high=1),)),
        guidance=guidance,
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=SHAPE),
    )
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[:4, :4, :4] = 1
    model = Model(settings, LiverAboveAHalf(), torch.device("cpu"))
    session = InteractiveSession(model, Volume(voxels, np.eye(4)))
    label = LabelMap(truth, np.eye(4), labels=LABELS)
    return evaluate_session(session, label, "case", EvaluationSettings(steps=2))


def test_dice_is_the_mean_over_the_labels_that_the_case_has():
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[:4, :4, :8] = 1  # twice what is found: Dice 2 * 64 / (64 + 128) = 2/3
    truth[10:12, 10:12, 10:12] = 2  # not found: Dice 0
    score = evaluate(truth, guidance=DiskGuidance()).scores[0]
    assert score.dice_per_label == {"liver": pytest.approx(2 / 3), "tumor": 0.0, "spleen": 1.0}
    assert score.empty_per_label == {"liver": False, "tumor": False, "spleen": True}
    assert score.dice == pytest.approx(1 / 3)
    assert not score.empty_label


def test_without_any_foreground_dice_is_the_mean_over_all_labels():
    score = evaluate(np.zeros(SHAPE, dtype=np.uint8), guidance=DiskGuidance()).scores[0]
    assert score.empty_label
    assert score.dice == pytest.approx(2 / 3)  # liver is found where there is none


def test_a_model_without_clicks_keeps_its_first_prediction():
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[:4, :4, :8] = 1
    evaluated = evaluate(truth, guidance=None)
    assert [score.dice for score in evaluated.scores] == [pytest.approx(2 / 3)] * 3
    assert [score.windows for score in evaluated.scores] == [1, 0, 0]
    assert [score.seconds for score in evaluated.scores[1:]] == [0, 0]
    assert evaluated.clicks == ()


def test_clicks_are_given_while_something_is_wrong():
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[:4, :4, :8] = 1
    wrong = evaluate(truth, guidance=DiskGuidance())
    assert [score.clicks for score in wrong.scores] == [0, 1, 2]
    truth[:4, :4, 4:] = 0
    right = evaluate(truth, guidance=DiskGuidance())
    assert [score.clicks for score in right.scores] == [0, 0, 0]
    assert right.scores[-1].dice == 1
