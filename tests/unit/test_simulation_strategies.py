"""Click strategies on error maps whose right click is known."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare

from voxclick.errors import GeometryError
from voxclick.simulation import (
    ClickStrategy,
    Corrective,
    DeepGrow,
    LargestError,
    NonCorrective,
    PatchCorrective,
    SimulatedClick,
    distances,
    strategies,
)

ISOTROPIC = (1.0, 1.0, 1.0)
EVERY_STRATEGY = [
    LargestError(),
    Corrective(),
    Corrective(weighting="border-distance"),
    NonCorrective(),
    PatchCorrective(patch_size=8),
    PatchCorrective(patch_size=8, weighting="border-distance"),
    DeepGrow(probability=0.7),
]


def empty(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def ball(shape, center, radius) -> torch.Tensor:
    i, j, k = (torch.arange(n) for n in shape)
    squared = (
        (i - center[0])[:, None, None] ** 2 + (j - center[1])[:, None] ** 2 + (k - center[2]) ** 2
    )
    return squared <= radius**2


def clicks_of(strategy, label, prediction, *, spacing=ISOTROPIC, seed=0, clicked=None, labels=2):
    generator = torch.Generator().manual_seed(seed)
    clicked = [[] for _ in range(labels)] if clicked is None else clicked
    return strategy(label, prediction, spacing, generator, clicked)


def random_case(labels: int):
    """Blobs of labels, and a prediction that is wrong in blobs."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randint(labels, (2, 6, 6, 6), generator=generator)
    label, prediction = (
        volume.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
        for volume in coarse
    )
    return label, prediction


class TestLargestError:
    def test_a_missed_ball_is_clicked_in_its_middle(self):
        label = ball((30, 30, 30), (11, 14, 17), 6).long()
        (click,) = clicks_of(LargestError(), label, empty(30, 30, 30))
        assert click == SimulatedClick(label_index=1, index=(11, 14, 17))

    def test_a_dent_moves_the_click_away_from_it(self):
        # along k the region is 2..12, but correct from 9 on: what is left is deepest at 5
        label = empty(30, 30, 15)
        label[5:25, 5:25, 2:13] = 1
        prediction = empty(30, 30, 15)
        prediction[10:20, 10:20, 9:13] = 1
        prediction[5:25, 5:10, 2:13] = prediction[5:25, 20:25, 2:13] = 1
        prediction[5:10, 10:20, 2:13] = prediction[20:25, 10:20, 2:13] = 1
        # missed: i, j in 10..19, k in 2..8; of the 4 x 4 x 1 deepest voxels any may be clicked
        (click,) = clicks_of(LargestError(), label, prediction)
        assert click.label_index == 1
        assert click.index[2] == 5
        assert click.index[0] in range(13, 17)
        assert click.index[1] in range(13, 17)

    def test_the_larger_of_two_components_wins_even_where_it_is_thinner(self):
        label = empty(40, 40, 40)
        label[1:40, 1:40, 3:5] = 1  # 3042 voxels, never deeper than 1
        label |= ball((40, 40, 40), (20, 20, 20), 6).long()  # 925 voxels
        (click,) = clicks_of(LargestError(), label, empty(40, 40, 40))
        assert click.index[2] in (3, 4)

    def test_excess_gives_a_background_click(self):
        label = ball((30, 30, 30), (8, 8, 8), 4).long()
        prediction = label | ball((30, 30, 30), (20, 20, 20), 5).long()
        (click,) = clicks_of(LargestError(), label, prediction)
        assert click == SimulatedClick(label_index=0, index=(20, 20, 20))

    def test_missed_and_excess_that_touch_are_two_components(self):
        label, prediction = empty(20, 5, 5), empty(20, 5, 5)
        label[0:9, 1:4, 1:4] = 1
        prediction[9:20, 1:4, 1:4] = 1  # the larger
        (click,) = clicks_of(LargestError(), label, prediction)
        assert click.label_index == 0
        assert click.index[0] >= 9

    def test_corners_connect(self):
        label = empty(9, 9, 9)
        label[0:3, 0:3, 0:3] = 1
        label[3:6, 3:6, 3:6] = 1  # touches the first in one corner: 54 voxels together
        prediction = label.clone()
        prediction[label == 1] = 0
        prediction[0:3, 5:9, 5:9] = 1  # 48 voxels of excess
        (click,) = clicks_of(LargestError(), label, prediction)
        assert click.index in {(1, 1, 1), (4, 4, 4)}

    def test_spacing_decides_what_is_deep(self):
        # two blocks that one line of voxels joins: 9 x 9 x 5 and 5 x 5 x 11 voxels
        label = empty(30, 12, 14)
        label[1:10, 1:10, 1:6] = 1
        label[10:15, 5, 3] = 1
        label[15:20, 3:8, 1:12] = 1
        prediction = empty(30, 12, 14)
        # thick slices: the first is min(5 * 1, 3 * 2) = 5 mm deep, the second 3 * 1
        (click,) = clicks_of(LargestError(), label, prediction, spacing=(1, 1, 2))
        assert click.index == (5, 5, 3)
        # wide voxels: the first is 3 * 1 mm deep, the second min(3 * 2, 6 * 1) = 6
        (click,) = clicks_of(LargestError(), label, prediction, spacing=(2, 2, 1))
        assert click.index == (17, 5, 6)

    def test_a_region_that_leaves_the_volume_is_clicked_in_the_middle_of_what_is_seen(self):
        label = empty(9, 9, 9)
        label[0:5] = 1
        (click,) = clicks_of(LargestError(), label, empty(9, 9, 9))
        assert click.index[0] == 2

    @pytest.mark.parametrize("axis", range(3))
    def test_of_a_slice_the_middle_is_clicked_whatever_its_thickness(self, axis):
        label = torch.zeros(9, 11, dtype=torch.int64)
        label[2:7, 3:10] = 1  # deepest on a line of three
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 0.1
        label = label.unsqueeze(axis)
        indices = {
            clicks_of(LargestError(), label, label * 0, spacing=tuple(spacing), seed=seed)[0].index
            for seed in range(30)
        }
        in_plane = {index[:axis] + index[axis + 1 :] for index in indices}
        assert in_plane == {(4, 5), (4, 6), (4, 7)}

    def test_everything_wrong(self):
        label = torch.ones(9, 9, 9, dtype=torch.int64)
        (click,) = clicks_of(LargestError(), label, empty(9, 9, 9))
        assert click == SimulatedClick(1, (4, 4, 4))

    def test_equally_deep_voxels_are_drawn_by_the_seed(self):
        label = empty(5, 5, 40)
        label[1:4, 1:4, 1:39] = 1  # a bar, 2 deep along its whole middle line except at its ends
        drawn = Counter(
            clicks_of(LargestError(), label, empty(5, 5, 40), seed=seed)[0].index
            for seed in range(360)
        )
        assert set(drawn) == {(2, 2, k) for k in range(2, 38)}
        assert chisquare(list(drawn.values())).pvalue > 0.01

    def test_a_clicked_voxel_is_not_clicked_again(self):
        label = ball((20, 20, 20), (9, 9, 9), 4).long()
        clicked: list[list] = [[], []]
        for _ in range(8):
            (click,) = clicks_of(LargestError(), label, empty(20, 20, 20), clicked=clicked)
            clicked[1].append(click.index)
        assert clicked[1][0] == (9, 9, 9)
        assert len(set(clicked[1])) == 8
        neighbours = clicked[1][1:7]
        assert all(math.dist(index, (9, 9, 9)) == 1 for index in neighbours)

    def test_a_component_all_clicked_yields_to_the_next(self):
        label = empty(5, 5, 5)
        label[0, 0, 0:2] = 1
        label[4, 4, 4] = 1
        clicked = [[], [(0, 0, 0), (0, 0, 1)]]
        (click,) = clicks_of(LargestError(), label, empty(5, 5, 5), clicked=clicked)
        assert click.index == (4, 4, 4)
        clicked[1].append((4, 4, 4))
        (click,) = clicks_of(LargestError(), label, empty(5, 5, 5), clicked=clicked)
        assert click.index in {(0, 0, 0), (0, 0, 1)}

    def test_several_labels(self):
        shape = (40, 40, 40)
        label, prediction = empty(*shape), empty(*shape)
        label[ball(shape, (10, 10, 10), 5)] = 2  # missed
        label[ball(shape, (30, 30, 30), 7)] = 3  # taken for label 1
        prediction[ball(shape, (30, 30, 30), 7)] = 1
        (click,) = clicks_of(LargestError(), label, prediction, labels=4)
        assert click == SimulatedClick(3, (30, 30, 30))
        prediction[label == 3] = 3
        (click,) = clicks_of(LargestError(), label, prediction, labels=4)
        assert click == SimulatedClick(2, (10, 10, 10))


class TestCorrective:
    def test_every_label_with_missed_voxels_gets_a_click_there(self):
        label, prediction = random_case(labels=4)
        prediction[label == 2] = 2
        clicks = clicks_of(Corrective(), label, prediction, labels=4)
        assert [click.label_index for click in clicks] == [0, 1, 3]
        for click in clicks:
            assert label[click.index] == click.label_index
            assert prediction[click.index] != click.label_index

    def test_uniform_is_uniform(self):
        label = empty(6, 7, 8)
        label[1:4, 2:5, 3:5] = 1
        label[5, 6, 7] = 1
        prediction = empty(6, 7, 8)
        prediction[2, 3, 3] = 1
        generator = torch.Generator().manual_seed(1)
        drawn = Counter(
            Corrective()(label, prediction, ISOTROPIC, generator, [[], []])[0].index
            for _ in range(3600)
        )
        missed = (label == 1) & (prediction == 0)
        assert set(drawn) == {tuple(v) for v in missed.nonzero().tolist()}
        assert len(drawn) == 18
        assert chisquare(list(drawn.values())).pvalue > 0.01

    def test_border_distance_draws_by_its_weights(self):
        label = empty(7, 7, 11)
        label[1:6, 1:6, 1:10] = 1
        generator = torch.Generator().manual_seed(2)
        strategy = Corrective(weighting="border-distance")
        drawn = Counter(
            strategy(label, empty(7, 7, 11), (1.0, 9.0, 1.0), generator, [[], []])[0].index
            for _ in range(1000)
        )
        # the layers of a block of 5 x 5 x 9 voxels, whatever the spacing
        depths = [1, 2, 3]
        sizes = [5 * 5 * 9 - 3 * 3 * 7, 3 * 3 * 7 - 5, 5]
        weights = [n * (math.exp(d) - 1) for n, d in zip(sizes, depths, strict=True)]
        observed = [0, 0, 0]
        for (i, j, k), times in drawn.items():
            observed[min(i, 6 - i, j, 6 - j, k, 10 - k) - 1] += times
        expected = np.array(weights) / sum(weights) * 1000
        assert chisquare(observed, expected).pvalue > 0.01

    def test_border_distance_does_not_overflow(self, monkeypatch):
        depths = torch.tensor([2000.0, 1999.0, 1.0])[:, None, None]  # exp(710) is infinite
        monkeypatch.setattr(strategies, "distance_to_outside", lambda region, flat: depths)
        label = torch.ones(3, 1, 1, dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        strategy = Corrective(weighting="border-distance")
        drawn = Counter(
            strategy(label, label * 0, ISOTROPIC, generator, [[], []])[0].index[0]
            for _ in range(500)
        )
        assert set(drawn) == {0, 1}
        # e to 1: 365.5 of 500, 3 standard deviations are 30
        assert 336 <= drawn[0] <= 395

    @pytest.mark.parametrize("weighting", ["uniform", "border-distance"])
    def test_no_voxel_twice_while_another_is_left(self, weighting):
        label = empty(3, 3, 3)
        label[0, 0, 0:3] = 1
        clicked: list[list] = [[], []]
        strategy = Corrective(weighting=weighting)
        for seed in range(3):
            (click,) = clicks_of(strategy, label, empty(3, 3, 3), clicked=clicked, seed=seed)
            clicked[1].append(click.index)
        assert sorted(clicked[1]) == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
        (click,) = clicks_of(strategy, label, empty(3, 3, 3), clicked=clicked)
        assert click.index in clicked[1]


class TestNonCorrective:
    def test_it_clicks_each_label_that_is_there_whatever_the_prediction(self):
        label, _ = random_case(labels=3)
        clicks = clicks_of(NonCorrective(), label, label, labels=5)
        assert [click.label_index for click in clicks] == [0, 1, 2]
        assert [int(label[click.index]) for click in clicks] == [0, 1, 2]

    def test_it_is_uniform(self):
        label = empty(4, 4, 4)
        label[1:3, 0:3, 2:4] = 1
        generator = torch.Generator().manual_seed(3)
        drawn = Counter(
            NonCorrective()(label, label, ISOTROPIC, generator, [[], []])[1].index
            for _ in range(2400)
        )
        assert len(drawn) == 12
        assert chisquare(list(drawn.values())).pvalue > 0.01


class TestPatchCorrective:
    def test_it_clicks_in_the_patch_with_the_worst_dice(self):
        label, prediction = empty(20, 8, 8), empty(20, 8, 8)
        label[0:8, 0:8, 0:8] = 1  # patch 0: 512 voxels, 64 missed: Dice 0.93
        prediction[0:7, 0:8, 0:8] = 1
        label[8:10, 0, 0] = 1  # patch 1: 2 voxels, 1 missed: Dice 0.67
        prediction[8, 0, 0] = 1
        clicks = clicks_of(PatchCorrective(patch_size=8), label, prediction)
        assert clicks == [SimulatedClick(1, (9, 0, 0))]

    def test_a_patch_without_missed_voxels_does_not_compete(self):
        label, prediction = empty(16, 8, 8), empty(16, 8, 8)
        label[0:2, 0, 0] = 1
        prediction[0, 0, 0] = 1
        prediction[12, 4, 4] = 1  # patch 1: Dice 0, but nothing is missed there
        clicks = clicks_of(PatchCorrective(patch_size=8), label, prediction)
        # of the background, patch 1 is the only one with missed voxels
        assert clicks == [SimulatedClick(0, (12, 4, 4)), SimulatedClick(1, (1, 0, 0))]

    def test_cut_patches_at_the_far_border_count(self):
        label = empty(9, 9, 9)
        label[8, 8, 8] = 1
        clicks = clicks_of(PatchCorrective(patch_size=8), label, empty(9, 9, 9))
        assert clicks == [SimulatedClick(1, (8, 8, 8))]


class TestDeepGrow:
    def test_it_clicks_with_its_probability(self):
        label, prediction = random_case(labels=2)
        generator = torch.Generator().manual_seed(4)
        strategy = DeepGrow(probability=0.3)
        clicked_steps = sum(
            len(strategy(label, prediction, ISOTROPIC, generator, [[], []])) == 2
            for _ in range(1000)
        )
        assert 255 <= clicked_steps <= 345  # 3 standard deviations of the binomial

    def test_a_click_is_that_of_corrective(self):
        label, prediction = random_case(labels=2)
        clicks = clicks_of(DeepGrow(probability=1), label, prediction)
        assert [click.label_index for click in clicks] == [0, 1]
        assert clicks_of(DeepGrow(probability=0), label, prediction) == []


@pytest.mark.parametrize("strategy", EVERY_STRATEGY, ids=repr)
class TestEveryStrategy:
    def test_the_same_seed_gives_the_same_clicks(self, strategy):
        label, prediction = random_case(labels=3)
        once = clicks_of(strategy, label, prediction, seed=7, labels=3)
        assert clicks_of(strategy, label, prediction, seed=7, labels=3) == once
        many = {
            tuple(clicks_of(strategy, label, prediction, seed=seed, labels=3)) for seed in range(20)
        }
        assert len(many) > 1

    def test_the_distances_of_another_device_give_the_same_clicks(self, strategy, monkeypatch):
        label, prediction = random_case(labels=3)
        spacing = (1.7, 0.9, 3.1)
        on_cpu = [
            clicks_of(strategy, label, prediction, spacing=spacing, seed=seed, labels=3)
            for seed in range(10)
        ]
        monkeypatch.setattr(
            strategies,
            "distance_to_outside",
            lambda region, spacing=ISOTROPIC, flat=None: distances._distance_by_lines(
                region, spacing, flat
            ),
        )
        elsewhere = [
            clicks_of(strategy, label, prediction, spacing=spacing, seed=seed, labels=3)
            for seed in range(10)
        ]
        assert on_cpu == elsewhere

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_the_dtype_does_not_matter(self, strategy, dtype):
        label, prediction = random_case(labels=3)
        expected = clicks_of(strategy, label, prediction, labels=3)
        assert clicks_of(strategy, label.to(dtype), prediction.byte(), labels=3) == expected

    def test_volumes_are_left_as_they_are(self, strategy):
        label, prediction = random_case(labels=3)
        kept = label.clone(), prediction.clone()
        clicks_of(strategy, label, prediction, labels=3, clicked=[[(0, 0, 0)], [], []])
        assert torch.equal(label, kept[0])
        assert torch.equal(prediction, kept[1])

    def test_different_grids_are_refused(self, strategy):
        with pytest.raises(GeometryError, match="must share a grid"):
            clicks_of(strategy, empty(4, 4, 4), empty(4, 4, 1))

    def test_settings_survive_json(self, strategy):
        adapter = TypeAdapter(ClickStrategy)
        assert adapter.validate_json(adapter.dump_json(strategy)) == strategy


@pytest.mark.parametrize(
    "strategy", [s for s in EVERY_STRATEGY if not isinstance(s, NonCorrective)], ids=repr
)
def test_no_error_no_click(strategy):
    label, _ = random_case(labels=2)
    assert clicks_of(strategy, label, label.clone()) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "random"},
        {"name": "largest-error", "weighting": "uniform"},
        {"name": "deepgrow", "probability": 1.5},
        {"name": "patch-corrective", "patch_size": 0},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(ClickStrategy).validate_python(settings)
