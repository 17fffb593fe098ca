"""Pre-simulated clicks of autoPET IV, by hand and computed again from their definition."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import ndimage

from challenge_definitions import (
    any_voxel_or_anything_else,
    autopet4_clicks,
    click_again,
    components_in_order,
    high_uptake,
)
from voxclick.errors import GeometryError, UsageError
from voxclick.simulation.challenges.autopet4 import PreSimulatedClicks, simulate_clicks

SHAPE = (20, 17, 14)


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, bool)


def uptake_without_hot_spots() -> np.ndarray:
    return np.ones(SHAPE, np.float32)


def random_case(seed: int, *, smooth_label: float, smooth_pet: float):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.standard_normal(SHAPE), smooth_label)
    label = noise > np.quantile(noise, 0.97)
    pet = ndimage.gaussian_filter(generator.random(SHAPE), smooth_pet).astype(np.float32)
    return label, pet


@pytest.mark.parametrize("seed", [0, 42, 7])
def test_it_is_what_the_definition_says(seed):
    has_more, left_out = set(), 0
    for case in range(12):
        smooth_label, smooth_pet = (0.4, 2.5)[case % 2], (0.5, 1.2)[case % 3 // 2]
        label, pet = random_case(case, smooth_label=smooth_label, smooth_pet=smooth_pet)
        for count in (1, 4, 10):
            expected = autopet4_clicks(label, pet, count, seed)
            if any(label[index] for index in expected.background):
                left_out += 1  # where the script stops
                continue
            assert simulate_clicks(label, pet, count, seed) == expected
            has_more.add(len(components_in_order(label)) > count)
    assert has_more == {False, True}
    assert left_out <= 6


def test_the_draws_are_those_of_the_global_generator_seeded_with_42():
    label = empty(*SHAPE)
    label[1:18:4, 3, 3] = True  # five voxels
    kept = np.random.get_state()  # noqa: NPY002
    np.random.seed(42)  # noqa: NPY002
    order = np.random.choice([1, 2, 3, 4, 5], 5, replace=False)  # noqa: NPY002
    np.random.set_state(kept)  # noqa: NPY002
    clicks = simulate_clicks(label, uptake_without_hot_spots())
    assert clicks.tumor == tuple((int(4 * n - 3), 3, 3) for n in order) * 2


class TestTumorClicks:
    def test_first_the_centre_then_the_border(self):
        label = empty(*SHAPE)
        label[4:9, 5:10, 6:11] = True
        centre, *others = simulate_clicks(label, uptake_without_hot_spots()).tumor
        assert centre == (6, 7, 8)
        assert len(others) == 9
        assert all(4 in np.abs(np.subtract(2 * np.array(i), (12, 14, 16))) for i in others)
        assert len(set(others)) > 1

    def test_of_equally_deep_voxels_the_first(self):
        label = empty(*SHAPE)
        label[4:8, 5:9, 6:10] = True
        assert simulate_clicks(label, uptake_without_hot_spots(), 1).tumor == ((5, 6, 7),)

    def test_the_end_of_the_image_is_no_outside(self):
        label = empty(*SHAPE)
        label[0:3, 5:10, 6:11] = True
        (click,) = simulate_clicks(label, uptake_without_hot_spots(), 1).tumor
        assert click == (0, 7, 8)

    def test_a_component_over_all_of_the_image(self):
        label = ~empty(*SHAPE)
        clicks = simulate_clicks(label, uptake_without_hot_spots(), 2)
        assert clicks.tumor[0] == (0, 0, 0)
        assert clicks.background == ()

    def test_corners_connect(self):
        label = empty(*SHAPE)
        label[0, 0, 0] = label[1, 1, 1] = True
        assert simulate_clicks(label, uptake_without_hot_spots(), 1).tumor == ((0, 0, 0),)

    def test_components_are_clicked_in_turn(self):
        label = empty(*SHAPE)
        label[0:3, 0:3, 0:3] = True
        label[10:15, 10:15, 8:13] = True
        label[0:3, 10:13, 0:3] = True
        numbered, _ = ndimage.label(label)
        clicks = simulate_clicks(label, uptake_without_hot_spots()).tumor
        in_component = [numbered[index] for index in clicks]
        assert in_component == (in_component[:3] * 4)[:10]
        assert sorted(in_component[:3]) == [1, 2, 3]

    def test_an_empty_label_leaves_the_first_draws_to_the_background(self):
        _, pet = random_case(1, smooth_label=1, smooth_pet=0.5)
        clicks = simulate_clicks(empty(*SHAPE), pet)
        assert clicks.tumor == ()
        hot = high_uptake(empty(*SHAPE), pet)
        draws = np.random.RandomState(42)
        assert clicks.background == click_again(hot, 10, draws, any_voxel_or_anything_else)


class TestBackgroundClicks:
    def test_tumours_do_not_count_as_uptake(self):
        label = empty(*SHAPE)
        label[2:8, 2:8, 2:8] = True
        pet = np.ones(SHAPE, np.float32)
        pet[label] = 50
        pet[15:17, 10:12, 10:12] = 9
        clicks = simulate_clicks(label, pet, 1)
        assert clicks.background == ((15, 10, 10),)

    def test_a_component_with_a_core_is_clicked_anywhere_in_it(self):
        pet = np.ones(SHAPE, np.float32)
        pet[9:12, 9:12, 5] = pet[10, 10, 4:7] = 9
        pet[10, 10, 6] = 9  # eleven voxels of 4760: above the percentile
        clicks = simulate_clicks(empty(*SHAPE), pet, 200).background
        assert clicks[0] == (10, 10, 5)
        assert set(clicks) == {tuple(index) for index in np.argwhere(pet > 1).tolist()}

    def test_a_thin_component_is_clicked_anywhere_but_in_it_and_in_the_label(self):
        pet = np.ones(SHAPE, np.float32)
        pet[3:8, 9, 5] = 9
        label = empty(*SHAPE)
        label[:, :8] = True  # nearly half of what is not in the component
        clicks = simulate_clicks(label, pet, 300).background
        assert clicks[0] == (3, 9, 5)
        assert not any(label[index] or pet[index] > 1 for index in clicks[1:])
        assert len(set(clicks[1:])) > 250
        # without the label the draw is the rank among all other voxels
        draws = np.random.RandomState(42)
        expected = click_again(pet > 1, 300, draws, any_voxel_or_anything_else)
        assert simulate_clicks(empty(*SHAPE), pet, 300).background == expected

    def test_equal_uptake_has_none(self):
        label = empty(*SHAPE)
        label[1, 1, 1] = True
        clicks = simulate_clicks(label, uptake_without_hot_spots())
        assert clicks.background == ()
        assert len(clicks.tumor) == 10

    def test_the_percentile_is_not_rounded_to_float32(self):
        # of 121 voxels it lies 0.7 of the way from the second largest to the largest, here two
        # neighbours in float32, and would be rounded to the largest
        pet = np.ones((11, 11, 1), np.float32)
        pet[3, 4, 0] = np.nextafter(pet[3, 4, 0], np.float32(2))
        clicks = simulate_clicks(empty(11, 11, 1), pet, 1)
        assert clicks.background == ((3, 4, 0),)


class TestJitter:
    @pytest.mark.parametrize("jitter", [1, 3, 30])
    def test_clicks_move_upwards_in_the_image_and_on_their_side_of_the_label(self, jitter):
        label, pet = random_case(4, smooth_label=1.5, smooth_pet=0.5)
        still = simulate_clicks(label, pet)
        moved = simulate_clicks(label, pet, jitter=jitter)
        assert all(label[index] for index in moved.tumor)
        assert not any(label[index] for index in moved.background)
        shift = np.subtract(moved.tumor + moved.background, still.tumor + still.background)
        assert shift.min() == 0
        assert 0 < shift.max() <= jitter
        assert simulate_clicks(label, pet, jitter=jitter) == moved
        assert simulate_clicks(label, pet, seed=1, jitter=jitter) != moved

    def test_by_hand(self):
        label = ~empty(*SHAPE)
        label[:, :, -1] = False
        draws = random.Random(42)
        shift = tuple(draws.randint(0, 2) for _ in range(3))
        assert shift != (0, 0, 0)
        (click,) = simulate_clicks(label, uptake_without_hot_spots(), 1, jitter=2).tumor
        # the deepest voxel is the first one: all of the image but the last slice is label
        assert click == shift

    def test_no_jitter_is_the_default(self):
        label, pet = random_case(4, smooth_label=1.5, smooth_pet=0.5)
        assert simulate_clicks(label, pet, jitter=0) == simulate_clicks(label, pet)


def test_the_layout_in_memory_does_not_matter():
    label, pet = random_case(5, smooth_label=0.4, smooth_pet=0.5)
    expected = simulate_clicks(label, pet)
    assert simulate_clicks(np.asfortranarray(label), pet[::-1].copy()[::-1]) == expected


def test_a_double_precision_pet_gives_the_same_clicks():
    label, pet = random_case(6, smooth_label=0.4, smooth_pet=0.5)
    assert simulate_clicks(label, pet.astype(np.float64)) == simulate_clicks(label, pet)


def test_no_clicks():
    label, pet = random_case(6, smooth_label=0.4, smooth_pet=0.5)
    assert simulate_clicks(label, pet, 0) == PreSimulatedClicks((), ())


def test_arguments_and_the_global_generators_are_left_alone():
    label, pet = random_case(7, smooth_label=0.4, smooth_pet=0.5)
    kept = label.copy(), pet.copy()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    python_state = random.getstate()
    once = simulate_clicks(label, pet, jitter=2)
    assert simulate_clicks(label, pet, jitter=2) == once
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert random.getstate() == python_state
    assert np.array_equal(label, kept[0])
    assert np.array_equal(pet, kept[1])


def test_wrong_arguments_are_refused():
    with pytest.raises(GeometryError, match="must share a grid"):
        simulate_clicks(empty(4, 4, 4), np.ones((4, 4, 1)))
    with pytest.raises(UsageError, match="0 or more"):
        simulate_clicks(empty(4, 4, 4), np.ones((4, 4, 4)), -1)
    with pytest.raises(UsageError, match="0 or more"):
        simulate_clicks(empty(4, 4, 4), np.ones((4, 4, 4)), jitter=-1)
