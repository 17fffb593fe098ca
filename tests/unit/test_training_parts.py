"""Losses, schedules, moving averages and the drawing of samples, against known answers."""

from __future__ import annotations

import collections
import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import nn

from voxclick.geometry.box import Box
from voxclick.training.air import air_threshold, body_box
from voxclick.training.cache import PreparedCase
from voxclick.training.losses import SegmentationLoss
from voxclick.training.optimization import (
    average_weights,
    build_optimizer,
    build_schedule,
    learning_rate_factor,
)
from voxclick.training.samples import draw_epoch
from voxclick.training.settings import LossSettings, OptimizerSettings, ScheduleSettings


def test_dice_ce_of_one_output_is_monais():
    torch.manual_seed(0)
    output, label = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    ours = SegmentationLoss(LossSettings(name="dice-ce", squared_dice=False))(output, label)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True)(output, label[:, None])
    assert ours.item() == pytest.approx(theirs.item())


def test_dice_without_background_ignores_it():
    label = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    label[0, 0] = 1
    sure = torch.stack([1.0 - label, label.float()], dim=1) * 100
    settings = LossSettings(name="dice", include_background=False)
    assert SegmentationLoss(settings)(sure, label).item() == pytest.approx(0, abs=1e-5)


def test_deeper_outputs_count_half_as_much_each():
    torch.manual_seed(0)
    outputs, label = torch.randn(1, 3, 2, 4, 4, 4), torch.randint(0, 2, (1, 4, 4, 4))
    ours = SegmentationLoss(LossSettings(name="dice", squared_dice=False))(outputs, label)
    one = DiceLoss(to_onehot_y=True, softmax=True)
    terms = [one(outputs[:, depth], label[:, None]).item() for depth in range(3)]
    assert ours.item() == pytest.approx((4 * terms[0] + 2 * terms[1] + terms[2]) / 7)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ScheduleSettings(name="cosine"), {0: 1, 50: 0.5, 100: 0}),
        (ScheduleSettings(name="polynomial", power=2), {0: 1, 50: 0.25, 100: 0}),
        (ScheduleSettings(name="constant"), {0: 1, 99: 1}),
        (ScheduleSettings(name="multi-step"), {49: 1, 50: 0.1, 75: 0.01, 90: 0.001}),
        (ScheduleSettings(name="cosine", warmup_steps=4), {0: 0.2, 3: 0.8, 4: 1, 52: 0.5}),
    ],
)
def test_learning_rate_over_100_steps(settings, expected):
    for step, factor in expected.items():
        assert learning_rate_factor(step, 100, settings) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["adam", "adamw", "novograd"])
def test_optimizers_go_downhill_along_their_schedule(name):
    weight = nn.Parameter(torch.tensor([4.0]))
    optimizer = build_optimizer(
        [weight], OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0)
    )
    schedule = build_schedule(optimizer, ScheduleSettings(name="cosine"), 200)
    for _ in range(200):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
        schedule.step()
    assert abs(weight.item()) < 2.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_average_of_constant_weights_is_that_constant_and_lags_behind_a_jump():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    average = average_weights(network, decay=0.9)
    for _ in range(200):
        average.update_parameters(network)
    assert average.module.weight.item() == pytest.approx(2.0)
    nn.init.constant_(network.weight, 3.0)
    average.update_parameters(network)
    assert average.module.weight.item() == pytest.approx(2.1)


def test_every_case_is_drawn_equally_often_over_all_processes():
    keys = [
        key
        for rank in range(2)
        for key in draw_epoch(5, 10, seed=1, epoch=3, rank=rank, processes=2)
    ]
    counts = collections.Counter(key.case for key in keys)
    assert counts == dict.fromkeys(range(5), 4)
    assert len({key.seed for key in keys}) == 20


def test_draws_depend_on_seed_and_epoch_alone():
    first = draw_epoch(7, 12, seed=1, epoch=0)
    assert draw_epoch(7, 12, seed=1, epoch=0) == first
    assert draw_epoch(7, 12, seed=1, epoch=1) != first
    assert draw_epoch(7, 12, seed=2, epoch=0) != first


def test_voxels_near_clicks_can_count_more():
    torch.manual_seed(0)
    output, label = torch.randn(1, 2, 3, 3, 3), torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    near = torch.zeros(1, 3, 3, 3, dtype=torch.bool)
    plain = SegmentationLoss(LossSettings())(output, label, near)
    near[0, 1, 1, 1] = True
    weighted = SegmentationLoss(LossSettings(click_weight=2.0))(output, label, near)
    background, lesion = output[0, :, 1, 1, 1].tolist()
    cross_entropy = math.log(1 + math.exp(lesion - background))
    assert weighted.item() == pytest.approx(plain.item() + 2 * cross_entropy, rel=1e-5)


# Air


def test_air_is_half_as_bright_as_the_faintest_labelled_component():
    image = torch.zeros(2, 10, 10, 10)
    label = torch.zeros(10, 10, 10, dtype=torch.uint8)
    image[0, 1:3, 1, 1], image[1, 1, 1, 1] = 0.3, 0.5  # one component, brightest 0.5
    label[1:3, 1, 1] = 1
    image[1, 7, 7, 7], label[7, 7, 7] = 0.4, 2  # another, 0.4
    image[0, 5, 5, 5] = 0.01  # not labelled
    faint = PreparedCase("faint", image, label, (1.0, 1.0, 1.0))
    bright = PreparedCase("bright", image * 3, label, (1.0, 1.0, 1.0))
    free = PreparedCase("free", image, torch.zeros_like(label), (1.0, 1.0, 1.0))
    assert air_threshold([bright, free, faint]) == pytest.approx(0.2)
    assert air_threshold([free]) is None
    assert air_threshold([PreparedCase("dark", -image, label, (1.0, 1.0, 1.0))]) is None


def test_the_body_is_boxed_by_what_is_brighter_than_air_in_any_channel():
    image = torch.zeros(2, 10, 10, 10)
    image[0, 2, 3, 4], image[1, 6, 7, 8], image[0, 9, 9, 9] = 0.3, 0.2, 0.19
    case = PreparedCase("case", image, torch.zeros(10, 10, 10), (1.0, 1.0, 1.0))
    assert body_box(case, 0.2) == Box((2, 3, 4), (7, 8, 9))
    assert body_box(case, 0.5) is None
    assert body_box(case, None) is None
