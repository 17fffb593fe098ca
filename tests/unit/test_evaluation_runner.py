"""The click loop of an evaluation, around a network that no click moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from voxclick import Click, InteractiveSession, LabelMap, Volume
from voxclick.evaluation.annotators import LabelledScan
from voxclick.evaluation.baselines import BaselineName
from voxclick.evaluation.runner import NO_CLICKS, CaseEvaluation
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows

LABELS = ("background", "liver", "tumor", "spleen")
SHAPE = (16, 16, 16)
DISKS = DiskGuidance()
TWO_STEPS = EvaluationSettings(steps=2)


class LiverAboveAHalf(nn.Module):
    """Liver where the image is bright, background elsewhere; clicks change nothing."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        liver = windows[:, 0] - 0.5
        never = torch.full_like(liver, -9.0)
        return torch.stack([torch.zeros_like(liver), liver, never, never], dim=1)


def case_evaluation(
    truth: np.ndarray,
    *,
    guidance: DiskGuidance | None = DISKS,
    settings: EvaluationSettings = TWO_STEPS,
    baselines: tuple[BaselineName, ...] = (),
    recorded: tuple[Click, ...] | None = None,
) -> CaseEvaluation:
    model = ModelSettings(
        labels=LABELS,
        channels=("CT",),
        preprocessing=PreprocessingSettings(intensity=(RangeScaling(low=0, high=1),)),
        guidance=guidance,
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=SHAPE),
    )
    voxels = np.zeros(SHAPE, dtype=np.float32)
    voxels[:4, :4, :4] = 1
    image = Volume(voxels, np.eye(4))
    session = InteractiveSession(Model(model, LiverAboveAHalf(), torch.device("cpu")), image)
    label = LabelMap(truth, np.eye(4), labels=LABELS)
    scan = LabelledScan("case", (image,), label, recorded=recorded)
    return CaseEvaluation(session, scan, settings, baselines)


def half_found() -> np.ndarray:
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[:4, :4, :8] = 1  # twice what is found: Dice 2 * 64 / (64 + 128) = 2/3
    return truth


def test_dice_is_the_mean_over_the_labels_that_the_case_has():
    truth = half_found()
    truth[10:12, 10:12, 10:12] = 2  # not found: Dice 0
    scores = case_evaluation(truth).click_through().steps[0].scores
    dice = {label: of_label.dice for label, of_label in scores.per_label.items()}
    assert dice == {"liver": pytest.approx(2 / 3), "tumor": 0.0, "spleen": 1.0}
    assert scores.present == ("liver", "tumor")
    assert scores.together.dice == pytest.approx(1 / 3)
    assert scores.together.fnv_ml == pytest.approx(8 / 1000)  # the tumour; the liver is touched
    assert scores.together.lesion_recall == 0.5
    row = scores.row()
    assert (row["has_tumor"], row["has_spleen"], row["empty_label"]) == (True, False, False)
    assert row["dice_liver"] == pytest.approx(2 / 3)


def test_without_any_foreground_dice_is_the_mean_over_all_labels():
    scores = case_evaluation(np.zeros(SHAPE, dtype=np.uint8)).click_through().steps[0].scores
    assert scores.empty_label
    assert scores.together.dice == pytest.approx(2 / 3)  # liver is found where there is none
    assert scores.together.fpv_ml == pytest.approx(64 / 1000)
    assert np.isnan(scores.together.dmm)


def test_a_model_without_clicks_keeps_its_first_prediction():
    clicked = case_evaluation(half_found(), guidance=None).click_through()
    assert [s.scores.together.dice for s in clicked.steps] == [pytest.approx(2 / 3)] * 3
    assert [step.windows for step in clicked.steps] == [1, 0, 0]
    assert [step.seconds for step in clicked.steps[1:]] == [0, 0]
    assert clicked.clicks == ()


def test_clicks_are_given_while_something_is_wrong():
    wrong = case_evaluation(half_found()).click_through()
    assert [step.clicks for step in wrong.steps] == [0, 1, 2]
    truth = half_found()
    truth[:4, :4, 4:] = 0
    right = case_evaluation(truth).click_through()
    assert [step.clicks for step in right.steps] == [0, 0, 0]
    assert right.steps[-1].scores.together.dice == 1


def test_a_repeat_begins_anew_and_clicks_elsewhere():
    settings = EvaluationSettings(protocol=Protocol.corrective, steps=2, repeats=2)
    evaluation = case_evaluation(half_found(), settings=settings)
    first, second, again = (evaluation.click_through(repeat) for repeat in (0, 1, 0))
    assert first.clicks == again.clicks != second.clicks
    assert [step.clicks for step in second.steps] == [0, 1, 2]


def test_baselines_are_told_the_same_clicks():
    clicks = (Click((1, 1, 1), "liver"), Click((15, 15, 15), "background"))
    settings = EvaluationSettings(protocol=Protocol.recorded, steps=2)
    names = (BaselineName.suvmax_50, BaselineName.best_threshold)
    evaluation = case_evaluation(half_found(), settings=settings, baselines=names, recorded=clicks)
    steps = evaluation.click_through().steps
    dice = {
        name: [step.baselines[name].per_label["liver"].dice for step in steps]
        for name in ("suvmax-50", "best-threshold", NO_CLICKS)
    }
    # the bright half of the liver, from its click on
    assert dice["suvmax-50"] == pytest.approx([0, 2 / 3, 2 / 3])
    assert dice["best-threshold"] == pytest.approx([2 / 3] * 3)
    assert dice[NO_CLICKS] == pytest.approx([2 / 3] * 3)


def test_what_the_user_says_last_counts():
    clicks = (Click((1, 1, 1), "tumor"), Click((1, 1, 1), "liver"))
    settings = EvaluationSettings(protocol=Protocol.recorded, steps=2)
    clicked = case_evaluation(half_found(), settings=settings, recorded=clicks).click_through()
    assert clicked.clicks == clicks[1:]
    assert [step.clicks for step in clicked.steps] == [0, 1, 1]


def test_each_step_is_told_with_its_prediction():
    told = []
    evaluation = case_evaluation(half_found())
    clicked = evaluation.click_through(on_step=lambda step, seen: told.append((step, seen)))
    assert tuple(step for step, _ in told) == clicked.steps
    assert told[-1][1] is clicked.last


def test_other_methods_hear_the_clicks_that_a_model_cannot():
    settings = EvaluationSettings(protocol=Protocol.recorded, steps=1)
    evaluation = case_evaluation(
        half_found(),
        guidance=None,
        settings=settings,
        baselines=(BaselineName.suvmax_50,),
        recorded=(Click((1, 1, 1), "liver"),),
    )
    clicked = evaluation.click_through()
    found = [step.baselines["suvmax-50"].per_label["liver"].dice for step in clicked.steps]
    assert found == pytest.approx([0, 2 / 3])
    assert [step.clicks for step in clicked.steps] == [0, 0]
