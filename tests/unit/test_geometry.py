"""Boxes, affines and grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from voxclick.clicks import Click
from voxclick.errors import ClickError, GeometryError
from voxclick.geometry.affine import as_affine, flip_ras_lps, is_sheared, spacing_of
from voxclick.geometry.box import Box
from voxclick.volume import LabelMap, Volume, VolumeGeometry

indices = st.tuples(*[st.integers(-5, 12)] * 3)


def voxels(box: Box) -> np.ndarray:
    """The box drawn in a volume that holds all boxes of these tests."""
    drawn = np.zeros((30, 30, 30), dtype=bool)
    if not box.is_empty:
        drawn[tuple(slice(s.start + 10, s.stop + 10) for s in box.to_slices())] = True
    return drawn


@given(indices, indices, indices, indices)
def test_intersection_is_what_both_hold(a, b, c, d):
    one, two = Box(a, b), Box(c, d)
    assert np.array_equal(voxels(one.intersect(two)), voxels(one) & voxels(two))


@given(indices, indices, indices, indices)
def test_union_is_the_smallest_box_that_holds_both(a, b, c, d):
    union = Box.union([Box(a, b), Box(c, d)])
    both = voxels(Box(a, b)) | voxels(Box(c, d))
    if union is None:
        assert not both.any()
        return
    where = np.argwhere(both) - 10
    assert union.start == tuple(where.min(axis=0))
    assert union.stop == tuple(where.max(axis=0) + 1)


def test_around_reaches_both_ways_and_is_cut_at_the_border():
    box = Box.around((0, 5, 9), 2)
    assert box == Box((-2, 3, 7), (3, 8, 12))
    assert box.clip((10, 10, 10)) == Box((0, 3, 7), (3, 8, 10))
    assert box.contains((-2, 3, 7))
    assert not box.contains((3, 3, 7))


def test_geometry_of_a_flipped_anisotropic_grid():
    affine = np.array([[-2.0, 0, 0, 10], [0, 3, 0, -5], [0, 0, 4, 1], [0, 0, 0, 1]])
    geometry = VolumeGeometry((5, 6, 7), affine)
    assert geometry.spacing_mm == (2, 3, 4)
    assert geometry.voxel_volume_ml == pytest.approx(0.024)
    assert geometry.to_mm((1, 2, 3)) == (8, 1, 13)
    assert geometry.to_index((8.9, 1, 13)) == (1, 2, 3)
    with pytest.raises(ClickError, match="outside"):
        geometry.to_index((8, 1, 100))


def test_clicks_in_lps_are_mirrored_in_x_and_y():
    geometry = VolumeGeometry((5, 6, 7), np.diag([1.0, 1, 1, 1]))
    assert Click.at_lps_mm((-1, -2, 3), "tumor", geometry) == Click((1, 2, 3), "tumor")
    assert Click.at_ras_mm((1, 2, 3), "tumor", geometry) == Click((1, 2, 3), "tumor")


def test_a_click_is_checked_against_image_and_labels():
    geometry = VolumeGeometry((5, 6, 7), np.eye(4))
    Click((4, 5, 6), "tumor").check(geometry, ("background", "tumor"))
    with pytest.raises(ClickError, match="outside the image"):
        Click((5, 0, 0), "tumor").check(geometry, ("background", "tumor"))
    with pytest.raises(ClickError, match="knows background, tumor"):
        Click((0, 0, 0), "liver").check(geometry, ("background", "tumor"))


def test_grids_match_by_where_their_corners_lie():
    geometry = VolumeGeometry((100, 100, 100), np.eye(4))
    nudged, moved = np.eye(4), np.eye(4)
    nudged[0, 0] += 1e-6
    moved[0, 3] += 0.5
    assert geometry.matches(VolumeGeometry((100, 100, 100), nudged))
    assert not geometry.matches(VolumeGeometry((100, 100, 100), moved))
    assert not geometry.matches(VolumeGeometry((100, 100, 99), np.eye(4)))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "4 x 4"),
        (np.diag([1, 1, 0, 1]), "invertible"),
        (np.diag([1, np.nan, 1, 1]), "finite"),
        (np.diag([1, 1, 1, 2]), "0 0 0 1"),
    ],
)
def test_unusable_affines_are_refused(matrix, message):
    with pytest.raises(GeometryError, match=message):
        as_affine(matrix)


def test_shear_is_told_from_rotation():
    turned = np.eye(4)
    turned[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    assert not is_sheared(turned)
    assert is_sheared(sheared)
    assert spacing_of(turned) == pytest.approx((1, 1, 1))


def test_ras_and_lps_are_each_others_inverse():
    affine = np.arange(16.0).reshape(4, 4)
    assert np.array_equal(flip_ras_lps(flip_ras_lps(affine)), affine)
    assert flip_ras_lps(affine)[0, 3] == -3


def test_volumes_refuse_what_is_not_three_dimensional_or_not_labels():
    with pytest.raises(GeometryError, match="three axes"):
        Volume(np.zeros((2, 2)), np.eye(4))
    with pytest.raises(GeometryError, match="integers"):
        LabelMap(np.zeros((2, 2, 2)), np.eye(4))
    label_map = LabelMap(np.ones((2, 2, 2), np.uint8), np.eye(4), labels=("background", "tumor"))
    assert label_map.mask("tumor").all()
    with pytest.raises(KeyError, match="liver"):
        label_map.mask("liver")


@given(st.data())
def test_a_box_holds_all_that_is_true_and_no_empty_face(data):
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    mask = data.draw(hnp.arrays(bool, shape))
    box = Box.holding(mask)
    if box is None:
        assert not mask.any()
        return
    inside = mask[box.to_slices()]
    assert inside.sum() == mask.sum()
    for axis in range(3):
        assert np.take(inside, 0, axis).any()
        assert np.take(inside, -1, axis).any()


def test_a_moved_box_comes_back():
    box = Box((1, 2, 3), (4, 6, 8))
    assert box.moved((10, -2, 0)) == Box((11, 0, 3), (14, 4, 8))
    assert box.moved((10, -2, 0)).relative_to((10, -2, 0)) == box
