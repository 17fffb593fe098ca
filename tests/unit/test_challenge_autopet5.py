"""Scribbles of autoPET V, by hand and computed again from their definition."""

from __future__ import annotations

import random
from collections import Counter

import networkx
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from challenge_definitions import autopet5_stroke, centerline_again, neighbours
from voxclick.errors import GeometryError, UsageError
from voxclick.simulation.challenges import autopet5
from voxclick.simulation.challenges.autopet5 import (
    Scribble,
    Strategy,
    next_scribble,
    strategy_of,
)

EIGHT = np.ones((3, 3))
FOUR = ndimage.generate_binary_structure(2, 1)


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, bool)


def drawing(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def on_slice(mask: np.ndarray, k: int = 2, slices: int = 5) -> np.ndarray:
    volume = empty(*mask.shape, slices)
    volume[:, :, k] = mask
    return volume


def scribble_in(mask: np.ndarray, strategy: Strategy, seed: int = 42) -> Scribble:
    """The stroke in an error of this shape, which is missed."""
    label = on_slice(mask)
    scribble = next_scribble(label, np.zeros_like(label), strategy, seed)
    assert scribble is not None
    assert scribble.is_foreground
    return scribble


def pixels_of(scribble: Scribble) -> list[tuple[int, int]]:
    return [(i, j) for i, j, _ in scribble.voxels]


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (*generator.integers(3, 24, 2), generator.integers(1, 5))
    smoothness = generator.choice([0.0, 0.8, 1.5])
    first, second = (
        ndimage.gaussian_filter(generator.standard_normal(shape), smoothness) for _ in range(2)
    )
    label = first > np.quantile(first, generator.uniform(0.2, 0.9))
    mixed = first + generator.uniform(0.2, 2) * second
    return label, mixed > np.quantile(mixed, generator.uniform(0.2, 0.95))


@pytest.mark.parametrize("strategy", Strategy)
def test_it_is_what_the_definition_says(strategy):
    foreground = Counter()
    for case in range(100):
        label, prediction = random_case(case)
        seed = (42, case)[case % 2]
        missed = autopet5_stroke(label & ~prediction, strategy, seed)
        excess = autopet5_stroke(prediction & ~label, strategy, seed)
        expected = (len(excess) <= len(missed), missed if len(excess) <= len(missed) else excess)
        scribble = next_scribble(label, prediction, strategy, seed)
        assert scribble == Scribble(*expected)
        foreground[expected[0]] += 1
    assert min(foreground.values()) > 10


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("axis", range(3))
def test_an_image_of_one_slice_may_have_it_along_any_axis(strategy, axis):
    for case in range(20):
        label, prediction = (mask[:, :, 0] for mask in random_case(case))
        expected = next_scribble(label[..., None], prediction[..., None], strategy)
        found = next_scribble(
            np.expand_dims(label, axis), np.expand_dims(prediction, axis), strategy
        )
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.is_foreground == expected.is_foreground
        voxels = np.insert(np.array(pixels_of(expected)), axis, 0, axis=1).tolist()
        assert list(found.voxels) == [tuple(voxel) for voxel in voxels]


@pytest.mark.parametrize("strategy", Strategy)
class TestEveryStrategy:
    def test_a_stroke_lies_in_its_error_on_one_slice(self, strategy):
        for case in range(40):
            label, prediction = random_case(case)
            scribble = next_scribble(label, prediction, strategy)
            assert scribble is not None
            error = label & ~prediction if scribble.is_foreground else prediction & ~label
            assert all(error[voxel] for voxel in scribble.voxels)
            assert len({k for _, _, k in scribble.voxels}) == 1
            assert list(scribble.voxels) == sorted(set(scribble.voxels))

    def test_centrelines_and_walks_are_connected(self, strategy):
        for case in range(40):
            label, prediction = random_case(case)
            scribble = next_scribble(label, prediction, strategy)
            assert scribble is not None
            drawn = empty(*label.shape[:2])
            for pixel in pixels_of(scribble):
                drawn[pixel] = True
            if strategy is not Strategy.random:
                assert ndimage.label(drawn, EIGHT)[1] == 1

    def test_one_voxel(self, strategy):
        assert scribble_in(drawing("...", ".#.", "..."), strategy).voxels == ((1, 1, 2),)

    def test_of_equal_slices_the_first(self, strategy):
        label = empty(8, 8, 6)
        label[1:4, 1:4, 4] = label[3:6, 3:6, 1] = label[2:4, 0:4, 0] = True
        scribble = next_scribble(label, empty(8, 8, 6), strategy)
        assert scribble is not None
        assert {k for _, _, k in scribble.voxels} == {1}

    def test_of_equal_components_the_first_with_i_fastest(self, strategy):
        scribble = scribble_in(drawing("......#", "......#", "#......", "#......"), strategy)
        assert {j for _, j in pixels_of(scribble)} == {0}

    def test_corners_connect_on_a_slice_but_slices_do_not(self, strategy):
        label = empty(9, 9, 4)
        label[0, 0, 1] = label[1, 1, 1] = label[2, 2, 1] = True
        label[5:6, 5:7, 0:4] = True  # eight voxels, two on a slice
        scribble = next_scribble(label, empty(9, 9, 4), strategy)
        assert scribble is not None
        assert {k for _, _, k in scribble.voxels} == {1}

    def test_an_empty_label_has_no_stroke(self, strategy):
        assert next_scribble(empty(5, 5, 5), empty(5, 5, 5), strategy) is None
        assert next_scribble(empty(5, 5, 5), ~empty(5, 5, 5), strategy) is None

    def test_nothing_wrong(self, strategy):
        label, _ = random_case(0)
        assert next_scribble(label, label.copy(), strategy) is None

    def test_nothing_missed(self, strategy):
        label = on_slice(drawing("#....", "....."))
        prediction = label | on_slice(drawing("..###", "....."))
        scribble = next_scribble(label, prediction, strategy)
        assert scribble is not None
        assert not scribble.is_foreground
        assert set(pixels_of(scribble)) <= {(0, 2), (0, 3), (0, 4)}

    def test_everything_missed_on_all_of_a_slice(self, strategy):
        label = ~empty(4, 5, 1)
        scribble = next_scribble(label, empty(4, 5, 1), strategy)
        assert scribble is not None
        # such a component has no boundary
        assert (len(scribble.voxels) == 20) == (strategy is Strategy.boundary)

    def test_the_layout_in_memory_does_not_matter(self, strategy):
        for case in range(10):
            label, prediction = random_case(case)
            expected = next_scribble(label, prediction, strategy)
            others = np.asfortranarray(label), prediction[::-1].copy()[::-1]
            assert next_scribble(*others, strategy) == expected

    def test_arguments_and_the_global_generators_are_left_alone(self, strategy):
        label, prediction = random_case(8)
        kept = label.copy(), prediction.copy()
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
        python_state = random.getstate()
        once = next_scribble(label, prediction, strategy)
        assert next_scribble(label, prediction, strategy) == once
        assert random.getstate() == python_state
        assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
        assert np.array_equal(label, kept[0])
        assert np.array_equal(prediction, kept[1])

    def test_the_seed_decides_unless_nothing_is_drawn(self, strategy):
        mask = ndimage.gaussian_filter(np.random.default_rng(0).random((30, 30)), 3) > 0.5
        strokes = {scribble_in(mask, strategy, seed) for seed in range(10)}
        assert (len(strokes) == 1) == (strategy is Strategy.centerline)

    def test_different_grids_are_refused(self, strategy):
        with pytest.raises(GeometryError, match="must share a grid"):
            next_scribble(empty(4, 4, 4), empty(4, 4, 1), strategy)


class TestWhichError:
    def test_strokes_are_compared_and_not_errors(self):
        # excess: a square of 25 voxels with a centreline of few; missed: a line of seven
        label, prediction = empty(12, 12, 3), empty(12, 12, 3)
        label[10, 1:8, 0] = True
        prediction[1:6, 1:6, 2] = True
        scribble = next_scribble(label, prediction, Strategy.centerline)
        assert scribble == Scribble(True, tuple((10, j, 0) for j in range(1, 8)))

    def test_equal_strokes_are_tumour(self):
        label, prediction = empty(9, 9, 3), empty(9, 9, 3)
        label[1, 1:6, 2] = prediction[7, 1:6, 0] = True
        scribble = next_scribble(label, prediction, Strategy.centerline)
        assert scribble == Scribble(True, tuple((1, j, 2) for j in range(1, 6)))
        prediction[7, 6, 0] = True
        scribble = next_scribble(label, prediction, Strategy.centerline)
        assert scribble == Scribble(False, tuple((7, j, 0) for j in range(1, 7)))


class TestCenterline:
    @pytest.mark.parametrize(
        ("length", "kept"),
        [
            (2, range(2)),
            (10, range(10)),
            (11, range(1, 9)),  # 1.1 and 9.9 rounded down
            (20, range(2, 18)),
            (25, range(2, 22)),
        ],
    )
    def test_a_tenth_is_left_out_at_both_ends_of_a_long_one(self, length, kept):
        mask = empty(3, 30)
        mask[1, :length] = True
        assert pixels_of(scribble_in(mask, Strategy.centerline)) == [(1, j) for j in kept]

    def test_with_a_skeleton_of_one_pixel_the_stroke_is_the_whole_component(self):
        corner = drawing("....", ".##.", ".#..", "....")
        assert np.count_nonzero(skeletonize(corner)) == 1
        drawn = pixels_of(scribble_in(corner, Strategy.centerline))
        assert drawn == [(1, 1), (1, 2), (2, 1)]

    def test_branches_are_left_out(self):
        junction = drawing(".........", "#########", "....#....", "....#....", "....#....")
        drawn = pixels_of(scribble_in(junction, Strategy.centerline))
        assert drawn == [(1, j) for j in range(9)]

    def test_both_ways_around_a_ring(self):
        for radius in range(3, 15):
            i, j = np.ogrid[: 2 * radius + 3, : 2 * radius + 3]
            distance = np.hypot(i - radius - 1, j - radius - 1)
            for width in (1, 2, 3):
                ring = (distance <= radius) & (distance > radius - width)
                drawn = pixels_of(scribble_in(ring, Strategy.centerline))
                assert drawn == sorted(centerline_again(ring, 42))

    def test_of_several_shortest_paths_the_one_of_networkx(self):
        generator = np.random.default_rng(3)
        for _ in range(60):
            mask = generator.random((9, 9)) < generator.uniform(0.5, 1)
            numbered, _ = ndimage.label(mask, EIGHT)
            largest = np.argwhere(numbered == np.bincount(numbered[mask]).argmax()).tolist()
            pixels = [tuple(pixel) for pixel in largest]
            graph = networkx.Graph()
            for pixel in pixels:
                graph.add_edges_from((pixel, other) for other in neighbours(pixel))
            graph = graph.subgraph(pixels)
            start, end = pixels[0], pixels[generator.integers(1, len(pixels))]
            path = autopet5._shortest_path(set(pixels), start, end)
            assert path == networkx.shortest_path(graph, start, end)


class TestRandom:
    def test_it_is_a_straight_line_without_what_lies_outside(self):
        corner = drawing("#........", "#........", "#........", "#........", "#########")
        seen_gap = False
        for seed in range(30):
            drawn = pixels_of(scribble_in(corner, Strategy.random, seed))
            assert all(corner[pixel] for pixel in drawn)
            steps = np.abs(np.diff(drawn, axis=0))
            seen_gap |= bool((steps > 1).any())
        assert seen_gap

    def test_a_point_drawn_twice_is_one_voxel(self):
        pair = drawing("##")
        sizes = {len(scribble_in(pair, Strategy.random, seed).voxels) for seed in range(20)}
        assert sizes == {1, 2}


class TestBoundary:
    def test_a_walk_keeps_to_the_boundary_and_has_its_length(self):
        mask = empty(20, 20)
        mask[2:17, 3:18] = True  # a boundary of 56 pixels: 11 steps
        inner = empty(20, 20)
        inner[3:16, 4:17] = True
        for seed in range(20):
            drawn = pixels_of(scribble_in(mask, Strategy.boundary, seed))
            assert not any(inner[pixel] for pixel in drawn)
            assert len(drawn) <= 12
        assert len(scribble_in(mask, Strategy.boundary).voxels) == 12

    def test_two_steps_at_least_and_none_from_a_dead_end(self):
        row = drawing(".....", "#####", ".....")
        # it prefers the left, and cannot turn round there
        starts = [random.Random(seed).randrange(5) for seed in range(40)]
        assert set(starts) == set(range(5))
        for seed, start in enumerate(starts):
            drawn = [j for _, j in pixels_of(scribble_in(row, Strategy.boundary, seed))]
            expected = range(max(0, start - 2), start + 1) if start else range(3)
            assert drawn == list(expected)


def test_each_strategy_has_a_third_of_the_cases():
    drawn = [strategy_of(number) for number in range(30)]
    assert Counter(drawn) == dict.fromkeys(Strategy, 10)
    assert [strategy_of(number).value for number in range(3)] == [
        "centerline",
        "random",
        "boundary",
    ]
    with pytest.raises(UsageError, match="numbered from 0"):
        strategy_of(-1)
