"""Which boxes hold all of a mask."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxclick.errors import GeometryError
from voxclick.evaluation.metrics import Lesions, Surface, masks
from voxclick.evaluation.metrics.masks import occupied_boxes
from voxclick.geometry.box import Box


def test_lesions_far_apart_get_small_boxes():
    mask = np.zeros((200, 150, 100), dtype=bool)
    mask[3, 4, 5] = True
    mask[190:195, 140:142, 95:100] = True
    assert occupied_boxes(mask) == [
        Box((0, 0, 0), (16, 16, 16)),
        Box((176, 128, 80), (200, 144, 100)),  # up to the end of the array
    ]


def test_lesions_in_neighbouring_blocks_share_a_box():
    mask = np.zeros((64, 64, 64), dtype=bool)
    mask[15, 15, 15] = mask[16, 16, 16] = True
    assert occupied_boxes(mask) == [Box((0, 0, 0), (32, 32, 32))]


@pytest.mark.parametrize("shape", [(5, 6, 7), (0, 4, 4)])
def test_an_empty_mask_has_no_box(shape):
    assert occupied_boxes(np.zeros(shape, dtype=bool)) == []


@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    count=st.integers(1, 60),
    order=st.sampled_from("CF"),
)
def test_boxes_hold_all_and_do_not_touch(seed, shape, count, order):
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool, order=order)
    mask[tuple(generator.integers(0, n, count) for n in shape)] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_BLOCK_EDGE", 3)
        boxes = occupied_boxes(mask)
    assert sum(np.count_nonzero(mask[box.to_slices()]) for box in boxes) == np.count_nonzero(mask)
    assert all(box.clip(shape) == box and mask[box.to_slices()].any() for box in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.grown(3).meets(other)


@pytest.mark.parametrize(
    "mask", [np.ones((4, 4, 4), dtype=np.uint8), np.ones((4, 4), dtype=bool)], ids=["uint8", "2D"]
)
@pytest.mark.parametrize(
    "find", [Lesions.of, lambda mask: Surface.of(mask, (1.0, 1.0, 1.0))], ids=["Lesions", "Surface"]
)
def test_what_is_no_mask_is_refused(find, mask):
    with pytest.raises(GeometryError, match=r"a mask must be a boolean array of axes \(i, j, k\)"):
        find(mask)
