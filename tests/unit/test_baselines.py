"""Simple methods by hand, against SciPy's components, brute force and scikit-image."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import random_walker as skimage_random_walker

from voxclick.errors import ClickError, GeometryError, UnsupportedImageError, UsageError
from voxclick.evaluation.baselines import (
    IS_ORACLE,
    NEEDS_SUV,
    TITLES,
    Baseline,
    BaselineName,
    best_threshold,
    build_baseline,
    random_walker,
    thresholds,
)
from voxclick.volume import Volume

CLICK_DRIVEN = [name for name in BaselineName if name is not BaselineName.best_threshold]
SUVMAX = {BaselineName.suvmax_41: 0.41, BaselineName.suvmax_50: 0.5}
SUV = {BaselineName.suv_2_5: 2.5, BaselineName.suv_4_0: 4.0}
EIGHTEEN = ndimage.generate_binary_structure(3, 2)
ISOTROPIC = (1.0, 1.0, 1.0)


def build(name, voxels, spacing=ISOTROPIC, label=None) -> Baseline:
    label = np.zeros(voxels.shape, bool) if label is None else label
    return build_baseline(BaselineName(name), Volume(voxels, np.diag([*spacing, 1.0])), label)


def line(*values: float, axis: int = 0) -> np.ndarray:
    return np.expand_dims(np.array(values, np.float32), tuple({0, 1, 2} - {axis}))


def along(mask: np.ndarray) -> list[int]:
    """Where a mask of one line is set."""
    return np.flatnonzero(mask).tolist()


def at(*positions: int) -> list[tuple[int, int, int]]:
    return [(i, 0, 0) for i in positions]


def distance_mm(shape, centre, spacing) -> np.ndarray:
    offsets = (np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))) * np.reshape(
        spacing, (3, 1, 1, 1)
    )
    return np.sqrt((offsets**2).sum(axis=0))


def noisy_ball(shape, centre, radius_mm, spacing) -> tuple[np.ndarray, np.ndarray]:
    """An image of uptake 5 ± 0.4 over a background of 1 ± 0.4, and the ball's mask."""
    ball = distance_mm(shape, centre, spacing) <= radius_mm
    noise = np.random.default_rng(3).normal(0, 0.4, shape)
    return (1 + 4 * ball + noise).astype(np.float32), ball


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@st.composite
def clicked_images(draw):
    """A random image of few values, so that there are ties, with spacing and clicks."""
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    voxels = np.random.default_rng(draw(st.integers(0, 2**16))).integers(0, 7, shape)
    spacing = draw(st.tuples(*[st.sampled_from([1.0, 3.0, 6.0, 20.0])] * 3))
    clicks = st.lists(st.tuples(*(st.integers(0, n - 1) for n in shape)), max_size=4)
    return voxels.astype(np.float32), spacing, draw(clicks), draw(clicks)


class TestEveryBaseline:
    @given(clicked_images(), st.data())
    @settings(deadline=None, max_examples=40)
    @pytest.mark.parametrize("name", BaselineName)
    def test_neither_order_nor_earlier_calls_nor_layout_matter(self, name, case, data):
        voxels, spacing, foreground, background = case
        label = voxels > 3
        expected = build(name, voxels, spacing, label).segment(foreground, background)
        assert expected.dtype == np.bool_
        assert expected.shape == voxels.shape
        used = build(name, np.asfortranarray(voxels), spacing, label)
        for count in range(len(foreground)):
            used.segment(foreground[:count], background[count:])
        answer = used.segment(
            data.draw(st.permutations(foreground)), data.draw(st.permutations(background))
        )
        np.testing.assert_array_equal(answer, expected)

    @pytest.mark.parametrize("name", BaselineName)
    def test_a_mask_is_the_callers_own(self, name):
        voxels, ball = noisy_ball((12, 12, 12), (6, 6, 6), 12, (4, 4, 4))
        baseline = build(name, voxels, (4, 4, 4), ball)
        first = baseline.segment([(6, 6, 6)], [])
        kept = first.copy()
        assert kept.any()
        first[:] = True
        np.testing.assert_array_equal(baseline.segment([(6, 6, 6)], []), kept)

    @pytest.mark.parametrize("name", CLICK_DRIVEN)
    @pytest.mark.parametrize("background", [[], [(0, 0, 0)]])
    def test_no_foreground_click_no_voxel(self, name, background):
        baseline = build(name, np.full((5, 5, 5), 9, np.float32))
        assert not baseline.segment([], background).any()

    @pytest.mark.parametrize("name", BaselineName)
    def test_any_real_dtype_is_taken(self, name):
        voxels, ball = noisy_ball((12, 12, 12), (6, 6, 6), 12, (4, 4, 4))
        stored = np.rint(voxels).astype(np.int16)
        expected = build(name, stored.astype(np.float32), (4, 4, 4), ball)
        answer = build(name, stored, (4, 4, 4), ball).segment([(6, 6, 6)], [])
        np.testing.assert_array_equal(answer, expected.segment([(6, 6, 6)], []))

    @pytest.mark.parametrize("name", BaselineName)
    @pytest.mark.parametrize("click", [(5, 0, 0), (0, -1, 0)])
    def test_clicks_outside_are_refused(self, name, click):
        baseline = build(name, np.ones((5, 6, 7), np.float32))
        with pytest.raises(ClickError, match=r"outside the image of \(5, 6, 7\) voxels"):
            baseline.segment([click], [])
        with pytest.raises(ClickError, match="outside the image"):
            baseline.segment([(0, 0, 0)], [click])

    def test_unfit_volumes_are_refused(self):
        voxels = np.ones((4, 4, 4), np.float32)
        with pytest.raises(GeometryError, match="must share a grid"):
            build("suv-2.5", voxels, label=np.zeros((4, 4, 1), bool))
        with pytest.raises(UsageError, match="boolean mask of one label, got uint8"):
            build("best-threshold", voxels, label=np.zeros((4, 4, 4), np.uint8))
        voxels[1, 2, 3] = np.nan
        with pytest.raises(UnsupportedImageError, match="finite"):
            build("suv-2.5", voxels)

    def test_names_have_titles_and_kinds(self):
        assert set(TITLES) == set(BaselineName)
        assert len(set(TITLES.values())) == len(TITLES)
        assert [name.value for name in IS_ORACLE] == ["best-threshold"]
        assert {name.value for name in NEEDS_SUV} == {"suv-2.5", "suv-4.0"}


class TestFractionOfLocalSuvMax:
    def test_voxels_at_the_fraction_count(self):
        image = line(0, 4.9, 5, 7, 10, 5, 4.9, 6)
        assert along(build("suvmax-50", image).segment(at(4), [])) == [2, 3, 4, 5]
        assert along(build("suvmax-41", image).segment(at(4), [])) == [1, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_the_hottest_voxel_is_looked_for_up_to_1_cm_from_the_click(self, axis):
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 5.0
        image = line(3, 1, 1, 2, 1, 8, axis=axis)
        clicks = [tuple(np.eye(3, dtype=int)[axis] * n) for n in range(4)]
        baseline = build("suvmax-50", image, spacing)
        assert along(baseline.segment([clicks[3]], [])) == [5]  # 10 mm away
        assert along(baseline.segment([clicks[2]], [])) == [0]  # 8 is 15 mm away, 3 is 10

    def test_of_equally_hot_voxels_the_nearest_is_meant(self):
        image = line(9, 0, 0, 0, 0, 9, 0)
        assert along(build("suvmax-50", image).segment(at(3), [])) == [5]

    def test_clicks_unite(self):
        image = line(9, *[0] * 15, 3, 0, 7)
        baseline = build("suvmax-50", image)
        assert along(baseline.segment(at(0), [])) == [0]
        assert along(baseline.segment(at(0, 18), [])) == [0, 18]

    def test_edges_connect_and_corners_do_not(self):
        voxels = np.zeros((3, 3, 3), np.float32)
        voxels[0, 0, 0], voxels[0, 1, 1], voxels[1, 2, 2] = 4, 3, 3
        mask = build("suvmax-50", voxels).segment([(0, 0, 0)], [])
        assert np.argwhere(mask).tolist() == [[0, 0, 0], [0, 1, 1]]

    def test_without_uptake_a_click_adds_nothing(self):
        assert not build("suvmax-41", line(0, -1, 0)).segment(at(1), []).any()
        assert not build("suvmax-41", line(-3, -1, -2)).segment(at(1), []).any()

    def test_a_background_click_cuts_half_way(self):
        image = line(*[5] * 10, 0)
        baseline = build("suvmax-50", image)
        assert along(baseline.segment(at(2), [])) == list(range(10))
        assert along(baseline.segment(at(2), at(7))) == [0, 1, 2, 3, 4]
        assert along(baseline.segment(at(2), at(6))) == [0, 1, 2, 3]  # 4 is as near to both
        assert along(baseline.segment(at(2, 9), at(6))) == [0, 1, 2, 3, 8, 9]
        assert along(baseline.segment(at(2), at(2))) == []

    def test_half_way_is_in_mm(self):
        voxels = np.full((3, 3, 3), 5, np.float32)
        mask = build("suvmax-50", voxels, (1, 1, 10)).segment([(0, 0, 0)], [(2, 2, 0)])
        expected = [[[i + j < 2] * 3 for j in range(3)] for i in range(3)]
        np.testing.assert_array_equal(mask, expected)
        mask = build("suvmax-50", voxels, (1, 2, 1)).segment([(0, 0, 0)], [(2, 1, 0)])
        # nearer to the first: i² + (2j)² < (i - 2)² + (2j - 2)²
        nearer = [[[i + 2 * j < 2] * 3 for j in range(3)] for i in range(3)]
        np.testing.assert_array_equal(mask, nearer)

    def test_a_background_click_acts_on_the_regions_that_hold_it(self):
        image = line(5, 5, 5, 0, 5, 5)
        assert along(build("suvmax-50", image).segment(at(0), at(3, 4))) == [0, 1, 2]
        assert along(build("suvmax-50", image).segment(at(0, 4), at(5))) == [0, 1, 2, 4]

    @given(clicked_images())
    @settings(deadline=None)
    @pytest.mark.parametrize("name", SUVMAX)
    def test_equals_the_definition_with_scipys_components(self, name, case):
        voxels, spacing, foreground, background = case
        expected = np.zeros(voxels.shape, bool)
        for click in foreground:
            to_click = distance_mm(voxels.shape, click, spacing)
            peak = min(
                (tuple(v) for v in np.argwhere(to_click <= 10)),
                key=lambda voxel: (-voxels[voxel], round(to_click[voxel], 6), voxel),
            )
            if voxels[peak] == 0:
                continue
            numbers, _ = ndimage.label(voxels >= np.float32(SUVMAX[name] * voxels[peak]), EIGHTEEN)
            region = numbers == numbers[peak]
            inside = [other for other in background if region[other]]
            for voxel in map(tuple, np.argwhere(region)):
                near, far = (
                    min((squared_mm(voxel, other, spacing) for other in clicks), default=math.inf)
                    for clicks in (foreground, inside)
                )
                expected[voxel] |= near < far
        answer = build(name, voxels, spacing).segment(foreground, background)
        np.testing.assert_array_equal(answer, expected)

    def test_a_known_click_costs_nothing(self, monkeypatch):
        calls = count_calls(monkeypatch, thresholds, "components")
        baseline = build("suvmax-41", line(9, 0, *[0] * 20, 5, 5))
        baseline.segment(at(0), [])
        baseline.segment(at(0, 22), at(23))
        baseline.segment(at(0, 22), at(23, 1))
        assert len(calls) == 2


def squared_mm(a, b, spacing) -> float:
    return sum(((x - y) * step) ** 2 for x, y, step in zip(a, b, spacing, strict=True))


def count_calls(monkeypatch, module, name) -> list:
    """Notes the first argument of every call of a module's function."""
    calls, original = [], getattr(module, name)

    def counted(first, *others, **named):
        calls.append(first)
        return original(first, *others, **named)

    monkeypatch.setattr(module, name, counted)
    return calls


class TestFixedThreshold:
    def test_components_are_strictly_above(self):
        image = line(3, 2.5, 2.6, 4, 4.1, 2.4, 9)
        assert along(build("suv-2.5", image).segment(at(4), [])) == [2, 3, 4]
        assert along(build("suv-2.5", image).segment(at(4, 0), [])) == [0, 2, 3, 4]
        assert along(build("suv-4.0", image).segment(at(4), [])) == [4]

    def test_a_click_below_the_threshold_lies_in_no_component(self):
        image = line(3, 2.5, 2.6)
        assert not build("suv-2.5", image).segment(at(1), []).any()

    @given(clicked_images())
    @settings(deadline=None)
    @pytest.mark.parametrize("name", SUV)
    def test_equals_scipys_components_whatever_the_background_clicks(self, name, case):
        voxels, spacing, foreground, background = case
        numbers, _ = ndimage.label(voxels > SUV[name], EIGHTEEN)
        touched = {numbers[click] for click in foreground} - {0}
        expected = np.isin(numbers, list(touched))
        answer = build(name, voxels, spacing).segment(foreground, background)
        np.testing.assert_array_equal(answer, expected)

    def test_components_are_found_once(self, monkeypatch):
        calls = count_calls(monkeypatch, thresholds, "components")
        baseline = build("suv-2.5", line(3, 0, 3))
        assert not calls
        for clicks in (at(0), at(0, 2), at(1)):
            baseline.segment(clicks, [])
        assert len(calls) == 1


class TestBestThreshold:
    def test_by_hand(self):
        image = line(9, 8, 7, 6, 5, 4, 3)
        label = line(0, 1, 1, 0, 1, 0, 0).astype(bool)
        # from 8: 2·1/(2+3); from 7: 2·2/(3+3); from 5: 2·3/(5+3)
        baseline = build("best-threshold", image, label=label)
        assert along(baseline.segment([], [])) == [0, 1, 2, 3, 4]
        assert along(baseline.segment(at(6), at(0))) == [0, 1, 2, 3, 4]

    def test_of_equally_good_thresholds_the_highest(self):
        image = line(9, 8, 7, 6, 5)
        label = line(1, 0, 0, 1, 0).astype(bool)  # from 9: 2·1/(1+2); from 6: 2·2/(4+2)
        assert along(build("best-threshold", image, label=label).segment([], [])) == [0]

    def test_an_empty_label_gives_an_empty_mask(self):
        assert not build("best-threshold", line(1, 2, 3)).segment(at(0), []).any()

    @given(
        seed=st.integers(0, 2**16),
        values=st.integers(1, 40),
        share=st.floats(0.01, 1),
        part=st.integers(1, 200),
    )
    @settings(deadline=None)
    def test_no_threshold_is_better(self, seed, values, share, part):
        generator = np.random.default_rng(seed)
        voxels = generator.integers(-values, values, (5, 4, 6)).astype(np.float32) / 7
        label = generator.random(voxels.shape) < share
        voxels[label] += generator.integers(0, 3)
        label[0, 0, 0] = True
        by_threshold = {t: dice(voxels >= t, label) for t in np.unique(voxels)}
        best = max(by_threshold.values())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(best_threshold, "_PART", part)
            answer = build("best-threshold", voxels, label=label).segment([], [])
        expected = voxels >= max(t for t, reached in by_threshold.items() if reached == best)
        np.testing.assert_array_equal(answer, expected)


class TestRandomWalker:
    def test_equals_scikit_image_on_the_box_with_its_seeds(self):
        shape, spacing = (34, 32, 20), (4.0, 2.5, 5.0)
        click, others = (16, 16, 5), [(16, 16, 9), (20, 16, 5), (33, 0, 0)]
        voxels, ball = noisy_ball(shape, click, 14, spacing)
        # 40 mm are 10, 16 and 8 voxels; at i and the upper k the image goes on, so that the faces
        # there are background, but j from 0 to 32 is all of the image and k begins at 0
        box = np.s_[6:27, 0:32, 0:14]
        seeds = np.zeros(shape, int)
        seeds[6], seeds[26], seeds[:, :, 13] = 2, 2, 2
        seeds[distance_mm(shape, click, spacing) <= 5] = 1
        for other in others:
            seeds[other] = 2
        near = voxels[box][distance_mm(shape, click, spacing)[box] <= 20]
        low, high = np.quantile(near, [0.005, 0.995])
        direct = skimage_random_walker(
            ((voxels[box] - low) / (high - low)).clip(0, 1).astype(float),
            seeds[box],
            beta=500,
            mode="cg_j",
            tol=1e-4,
            spacing=np.array(spacing) / (4 * 2.5 * 5) ** (1 / 3),
            prob_tol=9,
        )
        answer = build("random-walker", voxels, spacing).segment([click], others)
        expected = np.zeros(shape, bool)
        expected[box] = direct == 1
        assert dice(answer, expected) > 0.99  # rounding may decide on a voxel
        assert dice(answer, ball) > 0.8

    @pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.0, 5.0, 3.3)])
    def test_a_noisy_ball_is_found_without_a_warning(self, spacing):
        shape = [round(120 / step) for step in spacing]
        centre = tuple(round(60 / step) for step in spacing)
        voxels, ball = noisy_ball(shape, centre, 15, spacing)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mask = build("random-walker", voxels, spacing).segment([centre], [])
        assert dice(mask, ball) > 0.9

    def test_a_ball_at_the_end_of_the_image_is_found_up_to_there(self):
        spacing = (4.0, 4.0, 4.0)
        voxels, ball = noisy_ball((30, 30, 30), (29, 0, 15), 16, spacing)
        mask = build("random-walker", voxels, spacing).segment([(29, 0, 15)], [])
        assert dice(mask, ball) > 0.9
        assert mask[29][ball[29]].mean() > 0.9

    def test_an_image_smaller_than_the_box_has_background_on_all_its_faces(self):
        voxels, ball = noisy_ball((14, 14, 14), (7, 7, 7), 13, (4.0, 4.0, 4.0))
        mask = build("random-walker", voxels, (4.0, 4.0, 4.0)).segment([(7, 7, 7)], [])
        assert dice(mask, ball) > 0.9
        assert not mask[0].any()
        assert not mask[:, -1].any()

    def test_a_background_click_takes_one_of_two_balls_that_touch(self):
        spacing, shape = (4.0, 4.0, 4.0), (30, 30, 30)
        (one, ball), (_, other) = (noisy_ball(shape, (15, 15, k), 12, spacing) for k in (12, 18))
        voxels = np.where(other & ~ball, one + 4, one).astype(np.float32)
        baseline = build("random-walker", voxels, spacing)
        excess = (baseline.segment([(15, 15, 12)], []) & other & ~ball).sum()
        corrected = baseline.segment([(15, 15, 12)], [(15, 15, 18)])
        assert excess > 0
        assert (corrected & other & ~ball).sum() < excess
        assert corrected[15, 15, 12]
        assert not corrected[15, 15, 18]

    def test_without_contrast_only_the_seeds_are_sure(self):
        voxels = np.full((9, 9, 9), 2, np.float32)
        spacing = (3.0, 2.0, 6.0)
        mask = build("random-walker", voxels, spacing).segment([(4, 4, 4)], [])
        np.testing.assert_array_equal(mask, distance_mm((9, 9, 9), (4, 4, 4), spacing) <= 5)

    def test_clicks_prevail_over_balls_and_foreground_over_background(self):
        baseline = build("random-walker", np.full((9, 9, 9), 2, np.float32))
        assert not baseline.segment([(4, 4, 4)], [(4, 4, 5)])[4, 4, 5]
        assert baseline.segment([(4, 4, 4)], [(4, 4, 4)])[4, 4, 4]

    def test_only_boxes_whose_clicks_changed_are_solved(self, monkeypatch):
        solved = count_calls(monkeypatch, random_walker, "random_walker")
        spacing = (8.0, 8.0, 8.0)  # a box is 11 voxels wide
        voxels, _ = noisy_ball((40, 14, 14), (10, 7, 7), 20, spacing)
        baseline = build("random-walker", voxels, spacing)
        here, there = (10, 7, 7), (30, 7, 7)

        def newly_solved(foreground, background):
            before = len(solved)
            baseline.segment(foreground, background)
            return [image.shape for image in solved[before:]]

        assert newly_solved([here], []) == [(11, 11, 11)]
        assert newly_solved([here, there], []) == [(11, 11, 11)]
        assert newly_solved([there, here], [(20, 0, 0)]) == []  # in no box
        assert newly_solved([here, there], [(30, 9, 7)]) == [(11, 11, 11)]
        assert newly_solved([here, there, (12, 7, 7)], [(30, 9, 7)]) == [(13, 11, 11)]
        assert newly_solved([here, there, (19, 7, 7)], [(30, 9, 7)]) == [(20, 11, 11)]
        # one more voxel, and the box in the middle joins all three
        assert newly_solved([here, there, (20, 7, 7)], [(30, 9, 7)]) == [(31, 11, 11)]

    def test_a_box_of_too_many_voxels_is_solved_in_blocks(self, monkeypatch):
        solved = count_calls(monkeypatch, random_walker, "random_walker")
        monkeypatch.setattr(random_walker, "_MOST_VOXELS", 10_000)
        spacing = (4.0, 2.0, 2.0)
        voxels, ball = noisy_ball((30, 61, 60), (15, 30, 30), 16, spacing)
        mask = build("random-walker", voxels, spacing).segment([(15, 30, 30)], [])
        # 21 x 41 x 41 voxels, the finer axes first: 21 x 21 x 21 blocks
        assert [image.shape for image in solved] == [(21, 21, 21)]
        assert dice(mask, ball) > 0.85

    @given(clicked_images())
    @settings(deadline=None, max_examples=60)
    def test_clicks_are_obeyed_in_any_image(self, case):
        voxels, spacing, foreground, background = case
        mask = build("random-walker", voxels, spacing).segment(foreground, background)
        assert all(mask[click] for click in foreground)
        assert not any(mask[click] for click in background if click not in foreground)

    @given(
        clicks=st.lists(st.tuples(*[st.integers(0, 59)] * 3), min_size=1, max_size=8),
        reach=st.integers(1, 12),
    )
    def test_joined_boxes_hold_all_and_share_no_voxel(self, clicks, reach):
        boxes = [random_walker.Box.around(click, reach) for click in clicks]
        joined = random_walker._join(boxes)
        assert not any(a.meets(b) for a, b in itertools.combinations(joined, 2))
        assert all(any(big.intersect(box) == box for big in joined) for box in boxes)
        assert sorted(b.start for b in random_walker._join(boxes[::-1])) == sorted(
            b.start for b in joined
        )
