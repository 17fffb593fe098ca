"""Box and clicks of the CVPR 2025 challenge, by hand and computed again from their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from challenge_definitions import drawn_as_published, largest_error
from voxclick.errors import GeometryError
from voxclick.geometry.box import Box
from voxclick.simulation.challenges import cvpr2025
from voxclick.simulation.challenges.cvpr2025 import CorrectiveClick, box_prompt, next_click


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, bool)


def block(shape, start, stop) -> np.ndarray:
    mask = empty(*shape)
    mask[Box(start, stop).to_slices()] = True
    return mask


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and prediction with errors of all sizes, some at the end of the image."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(2, 13, 3)
    smoothness = generator.choice([0.0, 0.7, 1.5])
    label, change = (
        ndimage.gaussian_filter(generator.standard_normal(shape), smoothness) > 0 for _ in range(2)
    )
    return label, label ^ (change & (generator.random(shape) < generator.uniform(0.1, 1)))


class TestBoxPrompt:
    def test_an_empty_class_has_none(self):
        assert box_prompt(empty(3, 4, 5)) is None

    def test_a_block(self):
        label = block((9, 9, 9), (1, 2, 3), (4, 6, 8))
        assert box_prompt(label) == Box((1, 2, 3), (4, 6, 8))

    def test_only_the_middle_slice_says_how_wide_it_is(self):
        label = empty(10, 10, 9)
        label[0:10, 0:10, 2] = True
        label[3:5, 6, 4] = True
        label[0:2, 0:9, 5] = True
        # the class is on the slices 2, 4 and 5
        assert box_prompt(label) == Box((3, 6, 2), (5, 7, 6))

    def test_of_two_middle_slices_the_upper_one(self):
        label = empty(10, 10, 9)
        for k in (1, 2, 6, 8):
            label[k, 0, k] = True
        assert box_prompt(label) == Box((6, 0, 1), (7, 1, 9))

    @pytest.mark.parametrize("axis", range(3))
    def test_of_an_image_of_one_slice_it_holds_the_class(self, axis):
        label = np.expand_dims(block((9, 9, 1), (2, 3, 0), (5, 7, 1))[..., 0], axis)
        start, stop = np.insert([2, 3], axis, 0).tolist(), np.insert([5, 7], axis, 1).tolist()
        assert box_prompt(label) == Box(tuple(start), tuple(stop))
        assert box_prompt(np.zeros_like(label)) is None

    def test_one_voxel(self):
        label = empty(1, 1, 1) | True
        assert box_prompt(label) == Box((0, 0, 0), (1, 1, 1))


class TestNextClick:
    def test_nothing_wrong(self):
        label = block((6, 6, 6), (1, 1, 1), (4, 4, 4))
        assert next_click(label, label.copy()) is None
        assert next_click(empty(3, 3, 3), empty(3, 3, 3)) is None

    def test_a_missed_block_is_clicked_in_its_middle(self):
        label = block((9, 9, 11), (1, 2, 3), (6, 7, 8))
        assert next_click(label, empty(9, 9, 11)) == CorrectiveClick((3, 4, 5), True)

    def test_excess_gives_a_background_click(self):
        prediction = block((9, 9, 11), (1, 2, 3), (6, 7, 8))
        assert next_click(empty(9, 9, 11), prediction) == CorrectiveClick((3, 4, 5), False)

    def test_voxels_count_and_not_depth(self):
        label = block((30, 30, 30), (1, 1, 1), (29, 29, 2))  # 784 voxels, one deep
        label |= block((30, 30, 30), (10, 10, 10), (19, 19, 19))  # 729 voxels, five deep
        click = next_click(label, empty(30, 30, 30))
        assert click is not None
        assert click.index[2] == 1

    def test_missed_and_excess_voxels_that_touch_are_one_error(self):
        label = block((30, 9, 9), (1, 2, 2), (4, 5, 5))
        label |= block((30, 9, 9), (20, 2, 2), (25, 5, 5))  # 45 voxels
        prediction = block((30, 9, 9), (4, 2, 2), (8, 5, 5))
        # missed 1 to 3 and excess 4 to 7 along i: 63 voxels, deepest where i is 2 to 6
        click = next_click(label, prediction)
        assert click is not None
        i, j, k = click.index
        assert (j, k) == (3, 3)
        assert click.is_foreground == (i < 4)

    def test_corners_connect(self):
        shape = (12, 9, 9)
        label = block(shape, (0, 0, 0), (3, 3, 3)) | block(shape, (3, 3, 3), (6, 6, 6))
        prediction = block(shape, (8, 0, 0), (11, 4, 4))  # 48 voxels, and those are 54
        click = next_click(label, prediction)
        assert click is not None
        assert click.index in {(1, 1, 1), (4, 4, 4)}

    def test_what_is_beyond_the_image_is_outside(self):
        label = empty(7, 9, 11) | True
        assert next_click(label, empty(7, 9, 11)) is not None
        click = next_click(block((20, 9, 9), (0, 0, 0), (9, 9, 9)), empty(20, 9, 9))
        assert click == CorrectiveClick((4, 4, 4), True)

    def test_the_draw_by_hand(self):
        # the first number of MT19937 seeded with 42 is 1608637542, which is 6 modulo 8: the 7th
        # of 8 deepest voxels, x counting fastest: (x, y, z) = (0, 1, 1) of those
        label = block((8, 8, 8), (1, 2, 3), (5, 6, 7))
        assert next_click(label, empty(8, 8, 8)) == CorrectiveClick((2, 4, 5), True)

    def test_of_equal_components_the_first_slice_by_slice(self):
        label = empty(9, 9, 9)
        label[1, 1, 7] = label[7, 7, 1] = True
        assert next_click(label, empty(9, 9, 9)) == CorrectiveClick((7, 7, 1), True)

    @given(st.integers(0, 2**20))
    @settings(max_examples=150, deadline=None)
    def test_it_is_what_the_definition_says(self, seed):
        label, prediction = random_case(seed)
        click = next_click(label, prediction)
        error = largest_error(label, prediction)
        if error is None:
            assert click is None
            return
        depth = ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1, 1:-1]
        index = drawn_as_published(depth)
        assert click == CorrectiveClick(index, bool(label[index]))

    @pytest.mark.parametrize("axis", range(3))
    def test_in_one_slice_depth_is_that_in_its_plane(self, axis):
        for seed in range(40):
            label, prediction = (mask.take([0], axis) for mask in random_case(seed))
            error = largest_error(label, prediction)
            if error is None:
                assert next_click(label, prediction) is None
                continue
            padding = np.insert([(1, 1), (1, 1)], 2 - axis, (0, 0), axis=0)
            depth = ndimage.distance_transform_edt(np.pad(error, padding))
            inside = tuple(slice(p, n - p) for (p, _), n in zip(padding, depth.shape, strict=True))
            index = drawn_as_published(depth[inside])
            assert next_click(label, prediction) == CorrectiveClick(index, bool(label[index]))

    def test_large_errors_are_measured_in_blocks(self, monkeypatch):
        monkeypatch.setattr(cvpr2025, "_LARGEST_CROP", 300)
        in_blocks = 0
        for seed in range(120):
            label, prediction = random_case(seed)
            error = largest_error(label, prediction)
            if error is None:
                continue
            sides = [along[[0, -1]] + [0, 1] for along in map(np.unique, np.nonzero(error))]
            crop = error[tuple(slice(a, b) for a, b in sides)]
            padding = [(max(1, n // 4),) * 2 for n in crop.shape]
            padded = np.pad(crop, padding)
            if padded.size <= 300:
                continue
            blocks = empty(*(-(-n // 2) for n in padded.shape))
            for index in np.argwhere(padded):
                blocks[tuple(index // 2)] = True
            if blocks.all():
                continue  # has no outside; real errors of so many voxels do
            block_depth = ndimage.distance_transform_edt(blocks)
            depth = np.zeros(error.shape)
            for index in np.argwhere(error):
                in_padded = [
                    n - a + p for n, (a, _), (p, _) in zip(index, sides, padding, strict=True)
                ]
                depth[tuple(index)] = block_depth[tuple(np.array(in_padded) // 2)]
            index = drawn_as_published(depth)
            assert next_click(label, prediction) == CorrectiveClick(index, bool(label[index]))
            whole = ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1, 1:-1]
            in_blocks += index != drawn_as_published(whole)
        assert in_blocks > 10  # it is something else than the depth in voxels

    def test_the_padded_crop_decides_what_is_large(self, monkeypatch):
        label = block((30, 30, 30), (4, 4, 4), (12, 13, 16))  # 8 x 9 x 12, padded by 2, 2 and 3
        in_voxels = next_click(label, empty(30, 30, 30))
        monkeypatch.setattr(cvpr2025, "_LARGEST_CROP", 12 * 13 * 18)
        assert next_click(label, empty(30, 30, 30)) == in_voxels
        monkeypatch.setattr(cvpr2025, "_LARGEST_CROP", 12 * 13 * 18 - 1)
        assert next_click(label, empty(30, 30, 30)) != in_voxels

    def test_the_layout_in_memory_does_not_matter(self):
        for seed in range(20):
            label, prediction = random_case(seed)
            expected = next_click(label, prediction)
            assert next_click(np.asfortranarray(label), prediction) == expected
            flipped = label[::-1].copy()[::-1]
            assert next_click(flipped, np.asfortranarray(prediction)) == expected

    def test_arguments_and_the_global_generator_are_left_alone(self):
        label, prediction = random_case(3)
        kept = label.copy(), prediction.copy()
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        assert next_click(label, prediction) == next_click(label, prediction)
        assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        assert np.array_equal(label, kept[0])
        assert np.array_equal(prediction, kept[1])

    def test_different_grids_are_refused(self):
        with pytest.raises(GeometryError, match="must share a grid"):
            next_click(empty(4, 4, 4), empty(4, 4, 1))
