"""Scribbles, boxes, lassos and masks whose clicks are known by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import distance_transform_edt

from voxclick.clicks import (
    BACKGROUND,
    PromptSettings,
    clicks_from_box,
    clicks_from_lasso,
    clicks_from_mask,
    clicks_from_polyline,
    clicks_from_scribble,
)
from voxclick.errors import ClickError
from voxclick.geometry.box import Box
from voxclick.volume import VolumeGeometry

SHAPE = (80, 80, 80)


def grid(shape=SHAPE, spacing=(1.0, 1.0, 1.0)) -> VolumeGeometry:
    return VolumeGeometry(shape, np.diag([*spacing, 1.0]))


def empty(shape=SHAPE) -> np.ndarray:
    return np.zeros(shape, dtype=bool)


def ball(center, radius, shape=SHAPE) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((x - c) ** 2 for x, c in zip(axes, center, strict=True)) <= radius**2


def voxels(clicks, label="tumor") -> list:
    return [click.index for click in clicks if click.label == label]


def distances_between(indices) -> np.ndarray:
    points = np.array(indices, dtype=float)
    between = np.linalg.norm(points[:, None] - points, axis=-1)
    return between[~np.eye(len(points), dtype=bool)]


# paths


def test_a_straight_path_is_clicked_at_both_ends_and_every_spacing():
    clicks = clicks_from_polyline([(0, 5, 5), (60, 5, 5)], "tumor", grid())
    assert voxels(clicks) == [(0, 5, 5), (15, 5, 5), (30, 5, 5), (45, 5, 5), (60, 5, 5)]
    assert len(clicks) == 5


def test_distances_along_a_path_are_in_mm():
    clicks = clicks_from_polyline([(5, 5, 0), (5, 5, 12)], "tumor", grid(spacing=(1, 1, 5)))
    assert voxels(clicks) == [(5, 5, 0), (5, 5, 3), (5, 5, 6), (5, 5, 9), (5, 5, 12)]


def test_a_path_is_measured_along_its_bend():
    clicks = clicks_from_polyline([(0, 0, 0), (30, 0, 0), (30, 30, 0)], "tumor", grid())
    assert voxels(clicks) == [(0, 0, 0), (15, 0, 0), (30, 0, 0), (30, 15, 0), (30, 30, 0)]


def test_shear_makes_one_diagonal_longer_than_the_other():
    affine = np.eye(4)
    affine[:3, 1] = (0.6, 0.8, 0)  # of length 1, but not at right angles to the first axis
    geometry = VolumeGeometry(SHAPE, affine)
    long = clicks_from_polyline([(0, 0, 0), (30, 30, 0)], "tumor", geometry)  # 53.7 mm
    short = clicks_from_polyline([(0, 30, 0), (30, 0, 0)], "tumor", geometry)  # 26.8 mm
    assert voxels(long) == [(0, 0, 0), (10, 10, 0), (20, 20, 0), (30, 30, 0)]
    assert voxels(short) == [(0, 30, 0), (30, 0, 0)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(3.4, 2.6, 1)], (3, 3, 1)),
        ([(0, 0, 0), (10, 0, 0)], (5, 0, 0)),
        ([(0, 0, 0), (2, 0, 0), (2, 0, 0), (2, 6, 0)], (2, 2, 0)),
        ([(-0.5, 79.5, 0)], (0, 79, 0)),
    ],
)
def test_a_short_path_is_clicked_in_its_middle(points, expected):
    assert voxels(clicks_from_polyline(points, "tumor", grid())) == [expected]


def test_a_path_that_goes_back_is_clicked_once():
    clicks = clicks_from_polyline([(0, 0, 0), (30, 0, 0), (0, 0, 0)], "tumor", grid())
    assert voxels(clicks) == [(0, 0, 0), (15, 0, 0), (30, 0, 0)]


@pytest.mark.parametrize(("max_clicks", "expected"), [(3, [0, 30, 60]), (2, [0, 60]), (1, [30])])
def test_a_long_path_has_no_more_clicks_than_allowed(max_clicks, expected):
    settings = PromptSettings(max_clicks=max_clicks)
    clicks = clicks_from_polyline([(0, 0, 0), (60, 0, 0)], "tumor", grid(), settings)
    assert voxels(clicks) == [(i, 0, 0) for i in expected]


# scribbles


def test_a_thin_stroke_is_clicked_in_the_middle_and_at_its_ends():
    stroke = empty()
    stroke[5:66, 40, 40] = True
    clicks = clicks_from_scribble(stroke, "tumor", grid())
    assert voxels(clicks) == [(35, 40, 40), (5, 40, 40), (65, 40, 40)]
    assert len(clicks) == 3


def test_a_stroke_two_voxels_wide_is_clicked_along_its_length():
    # thinning, as scikit-image does it, leaves nothing of such a stroke
    stroke = empty()
    stroke[5:66, 40:42, 40] = True
    clicks = clicks_from_scribble(stroke, "tumor", grid())
    assert voxels(clicks) == [(35, 40, 40), (5, 41, 40), (65, 41, 40)]


def test_a_wide_stroke_is_clicked_along_its_middle():
    stroke = empty()
    stroke[5:66, 38:43, 40] = True
    indices = voxels(clicks_from_scribble(stroke, "tumor", grid()))
    assert indices[0] == (35, 40, 40)
    assert sorted(i for i, _, _ in indices) == [7, 35, 63]
    assert all(j == 40 for _, j, _ in indices)


def test_a_bent_stroke_is_clicked_on_both_arms():
    stroke = empty()
    stroke[10:61, 10, 40] = True
    stroke[10, 10:61, 40] = True
    indices = voxels(clicks_from_scribble(stroke, "tumor", grid()))
    # the centroid of the two arms, (22.6, 22.6, 40), is off the stroke; then come both ends, and
    # the middle of what is farther than 16 mm from those, i = 20 to 43 and j = 40 to 43
    assert indices[:3] == [(10, 23, 40), (60, 10, 40), (10, 60, 40)]
    assert indices[3:] == [(33, 10, 40), (10, 41, 40)]
    assert distances_between(indices).min() > 15


def test_all_of_a_wavy_stroke_is_near_a_click():
    stroke = empty()
    for i in range(5, 76):
        j = round(40 + 20 * np.sin(i / 8))
        stroke[i, j - 3 : j + 4, 40] = True
    clicked = empty()
    clicked[tuple(np.transpose(voxels(clicks_from_scribble(stroke, "tumor", grid()))))] = True
    # the stroke's half width and the spacing
    assert distance_transform_edt(~clicked)[stroke].max() <= 4 + 15
    assert distances_between(np.argwhere(clicked)).min() > 15


def test_every_stroke_is_clicked():
    strokes = empty()
    strokes[10, 10:14, 40] = True
    strokes[70, 20:41, 3] = True
    clicks = clicks_from_scribble(strokes, "tumor", grid())
    assert voxels(clicks) == [(70, 30, 3), (10, 11, 40)]


def test_single_voxels_in_a_row_are_components_of_their_own():
    row = np.array([[[True, False, True, False, False, True]]])
    clicks = clicks_from_scribble(row, "tumor", grid(row.shape))
    assert voxels(clicks) == [(0, 0, 0), (0, 0, 2), (0, 0, 5)]


def test_the_stroke_on_thick_slices_is_measured_in_mm():
    stroke = empty((20, 20, 13))
    stroke[10, 10, :] = True
    clicks = clicks_from_scribble(stroke, "tumor", grid(stroke.shape, (1, 1, 5)))
    assert voxels(clicks) == [(10, 10, 6), (10, 10, 0), (10, 10, 12)]


# boxes


def test_a_box_is_clicked_at_its_centre_and_outside_its_faces():
    clicks = clicks_from_box(Box((20, 30, 40), (31, 41, 51)), "tumor", grid())
    assert voxels(clicks) == [(25, 35, 45)]
    assert voxels(clicks, BACKGROUND) == [
        (14, 35, 45),
        (36, 35, 45),
        (25, 24, 45),
        (25, 46, 45),
        (25, 35, 34),
        (25, 35, 56),
    ]


def test_the_distance_from_a_face_is_in_mm_and_rounded_up():
    geometry = grid(spacing=(1, 2.5, 4))
    clicks = clicks_from_box(Box((20, 30, 40), (21, 31, 41)), "tumor", geometry)
    assert voxels(clicks, BACKGROUND) == [
        (14, 30, 40),
        (26, 30, 40),
        (20, 27, 40),
        (20, 33, 40),
        (20, 30, 38),
        (20, 30, 42),
    ]


def test_a_box_on_a_slice_stays_on_its_slice():
    clicks = clicks_from_box(Box((20, 40, 40), (31, 41, 51)), "tumor", grid())
    assert voxels(clicks) == [(25, 40, 45)]
    assert voxels(clicks, BACKGROUND) == [(14, 40, 45), (36, 40, 45), (25, 40, 34), (25, 40, 56)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("along", [(0, 1), (-3, 6)], ids=["one voxel", "beyond the image"])
@pytest.mark.parametrize("width", [1, 11])
def test_a_box_in_an_image_of_one_slice_is_surrounded_on_it(axis, along, width):
    geometry = grid(tuple(np.insert([80, 80], axis, 1).tolist()))
    start, stop = np.insert([20, 40], axis, along[0]), np.insert([31, 40 + width], axis, along[1])
    clicks = clicks_from_box(Box(tuple(start.tolist()), tuple(stop.tolist())), "tumor", geometry)
    middle = 40 + (width - 1) // 2
    around = [(14, middle), (36, middle), (25, 34), (25, 39 + width + 6)]
    assert voxels(clicks) == [tuple(np.insert([25, middle], axis, 0))]
    assert voxels(clicks, BACKGROUND) == [tuple(np.insert(pixel, axis, 0)) for pixel in around]


def test_clicks_beyond_the_edge_of_the_image_are_left_out():
    clicks = clicks_from_box(Box((-9, 0, 0), (10, 10, 80)), "tumor", grid())
    assert voxels(clicks) == [(4, 4, 39)]
    assert voxels(clicks, BACKGROUND) == [(15, 4, 39), (4, 15, 39)]


# lassos

SQUARE = [(9.5, 9.5), (9.5, 20.5), (20.5, 20.5), (20.5, 9.5)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lasso_is_clicked_in_its_middle_and_around_on_its_slice(axis):
    clicks = clicks_from_lasso(SQUARE, axis, 3, "tumor", grid())
    assert voxels(clicks) == [tuple(np.insert([15, 15], axis, 3))]
    around = np.array(voxels(clicks, BACKGROUND))
    assert set(around[:, axis]) == {3}
    outside = np.abs(np.delete(around, axis, axis=1) - 15) - 5
    distance = np.linalg.norm(np.maximum(outside, 0), axis=1)
    assert (distance >= 6).all()
    assert (distance < 7.1).all()
    # a ring 82 mm long: gaps of 15 to 30 mm
    assert 3 <= len(around) <= 5


def test_the_axes_of_a_contour_keep_their_order():
    contour = [(1.5, 40.5), (1.5, 47.5), (8.5, 47.5), (8.5, 40.5)]
    assert voxels(clicks_from_lasso(contour, 1, 7, "tumor", grid()))[0] == (5, 7, 44)


def test_a_horseshoe_is_clicked_on_its_band_not_at_its_centroid():
    angle = np.linspace(0.6, 2 * np.pi - 0.6, 60)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    contour = 40 + np.concatenate([30 * circle, 20 * circle[::-1]])
    clicks = clicks_from_lasso(contour, 2, 40, "tumor", grid())
    radius = np.linalg.norm(np.array(voxels(clicks))[:, :2] - 40, axis=1)
    assert len(radius) >= 4  # the band is 137 mm long
    assert ((radius > 22) & (radius < 28)).all()
    assert distances_between(voxels(clicks)).min() > 15
    around = np.array(voxels(clicks, BACKGROUND))
    assert len(around) == 12
    radius = np.linalg.norm(around[:, :2] - 40, axis=1)
    is_beside_band = (radius < 15) | (radius > 35)
    is_in_the_gap = around[:, 0] > 40
    assert (is_beside_band | is_in_the_gap).all()


def test_a_lasso_across_thick_slices_is_measured_in_mm():
    # 21 mm by 20 mm on a slice with voxels of 1 mm by 5 mm
    contour = [(9.5, 9.5), (9.5, 13.5), (30.5, 13.5), (30.5, 9.5)]
    clicks = clicks_from_lasso(contour, 0, 5, "tumor", grid(spacing=(1, 1, 5)))
    assert voxels(clicks) == [(5, 20, 11)]
    offset = np.array(voxels(clicks, BACKGROUND))[:, 1:]
    beyond = np.maximum(np.maximum([10, 10] - offset, offset - [30, 13]), 0) * [1, 5]
    assert (np.linalg.norm(beyond, axis=1) >= 6).all()


def test_a_lasso_smaller_than_a_voxel_is_clicked_where_it_is():
    clicks = clicks_from_lasso([(2.2, 2.2), (2.4, 2.2), (2.3, 2.4)], 2, 9, "tumor", grid())
    assert voxels(clicks) == [(2, 2, 9)]


def test_what_a_lasso_holds_outside_the_image_is_cut_off():
    contour = [(-100, -100), (-100, 10.5), (10.5, 10.5), (10.5, -100)]
    clicks = clicks_from_lasso(contour, 2, 0, "tumor", grid())
    assert voxels(clicks) == [(5, 5, 0)]
    around = np.array(voxels(clicks, BACKGROUND))
    assert len(around) > 0
    assert (around >= 0).all()


# masks


def test_a_ball_is_clicked_at_its_centre_and_around():
    region = ball((40, 40, 40), 20)
    clicks = clicks_from_mask(region, "tumor", grid())
    assert voxels(clicks) == [(40, 40, 40)]
    around = voxels(clicks, BACKGROUND)
    assert len(around) == 12
    assert distances_between(around).min() > 15
    distance = distance_transform_edt(~region)[tuple(np.transpose(around))]
    assert ((distance >= 6) & (distance < 7)).all()


def test_one_voxel_is_clicked_and_surrounded():
    region = empty()
    region[40, 40, 40] = True
    clicks = clicks_from_mask(region, "tumor", grid())
    assert voxels(clicks) == [(40, 40, 40)]
    distance = np.linalg.norm(np.array(voxels(clicks, BACKGROUND)) - 40, axis=1)
    assert len(distance) > 0
    assert ((distance >= 6) & (distance < 7)).all()


def test_an_elongated_region_is_clicked_along_its_middle():
    region = empty()
    region[5:76, 36:45, 36:45] = True
    indices = voxels(clicks_from_mask(region, "tumor", grid()))
    assert indices[0] == (40, 40, 40)
    assert len(indices) == 3
    assert all(abs(j - 40) <= 2 and abs(k - 40) <= 2 for _, j, k in indices)
    assert min(i for i, _, _ in indices) < 12
    assert max(i for i, _, _ in indices) > 68


def test_a_thin_edge_of_a_mask_is_not_clicked_but_the_tail_of_a_stroke_is():
    region = ball((20, 40, 40), 8)
    region[20:76, 40, 40] = True
    assert voxels(clicks_from_mask(region, "tumor", grid())) == [(20, 40, 40)]
    # the blob's ball ends at i = 28, so its click stands for the tail up to 43; then come the end
    # and, of what is farther than 16 mm from that, the voxel half-way
    stroke = voxels(clicks_from_scribble(region, "tumor", grid()))
    assert stroke == [(20, 40, 40), (75, 40, 40), (47, 40, 40)]


def test_the_deepest_voxel_is_deepest_in_mm():
    geometry = grid((20, 20, 11), (1, 1, 5))
    region = empty(geometry.shape)
    region[2:9, 2:9, 4:7] = True  # 4 mm deep, 2 voxels
    region[9:14, 3:8, 3:8] = True  # 3 mm deep, 3 voxels
    i, j, _ = voxels(clicks_from_mask(region, "tumor", geometry))[0]
    assert (i, j) in {(5, 5), (6, 5)}


def test_the_end_of_the_image_is_a_border():
    region = empty()
    region[:21, 30:51, 30:51] = True
    assert voxels(clicks_from_mask(region, "tumor", grid())) == [(10, 40, 40)]


def test_the_largest_component_comes_first():
    region = ball((15, 15, 15), 3) | ball((60, 60, 60), 5)
    clicks = clicks_from_mask(region, "tumor", grid())
    assert voxels(clicks) == [(60, 60, 60), (15, 15, 15)]
    around = voxels(clicks, BACKGROUND)
    distance = distance_transform_edt(~region)[tuple(np.transpose(around))]
    assert ((distance >= 6) & (distance < 7)).all()
    assert any(i < 40 for i, _, _ in around)
    assert any(i > 40 for i, _, _ in around)


def test_no_background_click_lies_in_a_neighbour():
    region = ball((40, 40, 34), 4) | ball((40, 40, 46), 4)  # 4 mm between them
    around = voxels(clicks_from_mask(region, "tumor", grid()), BACKGROUND)
    distance = distance_transform_edt(~region)[tuple(np.transpose(around))]
    assert ((distance >= 6) & (distance < 7)).all()


def test_every_component_has_its_centre_before_any_has_more():
    region = empty()
    region[5:76, 40, 40] = True
    for i in range(5, 65, 10):
        region[i, 10, 10] = True
    settings = PromptSettings(max_clicks=8)
    indices = voxels(clicks_from_mask(region, "tumor", grid(), settings))
    assert indices[0] == (40, 40, 40)
    assert {(i, 10, 10) for i in range(5, 65, 10)} == set(indices[1:7])
    assert len(indices) == 8
    assert indices[7] == (5, 40, 40)


def test_a_region_on_a_slice_is_the_lasso_around_it():
    region = empty()
    region[10:21, 10:21, 3] = True
    from_mask = clicks_from_mask(region, "tumor", grid())
    assert from_mask == clicks_from_lasso(SQUARE, 2, 3, "tumor", grid())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_in_an_image_of_one_slice_clicks_are_those_on_a_slice_of_a_volume(axis):
    spacing = tuple(np.insert([1.0, 3.0], axis, 0.5).tolist())
    picture = grid(tuple(np.insert([80, 80], axis, 1).tolist()), spacing)
    angle = np.linspace(0, 2 * np.pi, 50)
    contour = [40, 30] + (20 + 6 * np.cos(3 * angle))[:, None] * np.stack(
        [np.cos(angle), np.sin(angle) / 2], axis=1
    )
    rows, columns = np.ogrid[:80, :80]
    painted = np.isin(rows + columns, (70, 71)) & (rows < 50)
    region = np.expand_dims(painted, axis)
    within = empty()
    np.moveaxis(within, axis, 0)[3] = painted
    pairs = [
        (
            clicks_from_lasso(contour, axis, 0, "tumor", picture),
            clicks_from_lasso(contour, axis, 3, "tumor", grid(spacing=spacing)),
        ),
        *(
            (make(region, "tumor", picture), make(within, "tumor", grid(spacing=spacing)))
            for make in (clicks_from_mask, clicks_from_scribble)
        ),
    ]
    for in_picture, in_volume in pairs:
        assert len(in_picture) > 2
        moved = [(tuple(np.delete(c.index, axis)), c.label) for c in in_volume]
        assert [(tuple(np.delete(c.index, axis)), c.label) for c in in_picture] == moved
        assert {c.index[axis] for c in in_picture} == {0}


def test_a_region_that_fills_the_image_has_no_outside():
    geometry = grid((9, 9, 9))
    clicks = clicks_from_mask(np.ones(geometry.shape, dtype=bool), "tumor", geometry)
    assert voxels(clicks) == [(4, 4, 4)]
    assert len(clicks) == 1


def test_a_whole_body_with_twenty_lesions_is_quick():
    shape = (400, 400, 326)
    region = empty(shape)
    draw = np.random.default_rng(0)
    for center in draw.integers(20, np.array(shape) - 20, size=(20, 3)):
        box = tuple(slice(c - 12, c + 13) for c in center)
        region[box] |= ball((12, 12, 12), draw.integers(3, 12), (25, 25, 25))
    start = time.perf_counter()
    clicks = clicks_from_mask(region, "tumor", grid(shape, (2, 2, 3)))
    assert time.perf_counter() - start < 3
    assert len(voxels(clicks)) == len(voxels(clicks, BACKGROUND)) == 12


# all of them


def test_a_background_prompt_has_no_opposite_clicks():
    region = ball((40, 40, 40), 6)
    prompts = [
        clicks_from_polyline([(0, 0, 0), (60, 0, 0)], BACKGROUND, grid()),
        clicks_from_scribble(region, BACKGROUND, grid()),
        clicks_from_box(Box((20, 30, 40), (31, 41, 51)), BACKGROUND, grid()),
        clicks_from_lasso(SQUARE, 0, 3, BACKGROUND, grid()),
        clicks_from_mask(region, BACKGROUND, grid()),
    ]
    assert [len(clicks) for clicks in prompts] == [5, 1, 1, 1, 1]
    assert {click.label for clicks in prompts for click in clicks} == {BACKGROUND}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least one point"),
        ([(1, 2)], r"shape \(points, 3\)"),
        ([(1, 2, 3), (1, 2)], "3 numbers each"),
        ([(1, 2, "x")], "3 numbers each"),
        ([(1, 2, float("nan"))], "finite"),
        ([(1, 2, 3), (1, 2, 80)], r"\[1.0, 2.0, 80.0\] lies outside"),
        ([(-1, 2, 3)], "outside the image"),
    ],
)
def test_paths_that_are_refused(points, message):
    with pytest.raises(ClickError, match=message):
        clicks_from_polyline(points, "tumor", grid())


@pytest.mark.parametrize("function", [clicks_from_scribble, clicks_from_mask])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (empty(), "at least one voxel"),
        (np.ones((80, 80, 79), dtype=bool), r"image's shape \(80, 80, 80\)"),
        (np.ones((80, 80), dtype=bool), "image's shape"),
        (np.ones(SHAPE, dtype=np.uint8), "must be boolean, got uint8"),
    ],
)
def test_masks_that_are_refused(function, mask, message):
    with pytest.raises(ClickError, match=message):
        function(mask, "tumor", grid())


@pytest.mark.parametrize(
    "box",
    [
        Box((3, 3, 3), (3, 5, 5)),
        Box((80, 0, 0), (90, 9, 9)),
        Box((-9, 0, 0), (0, 9, 9)),
    ],
)
def test_boxes_that_are_refused(box):
    with pytest.raises(ClickError, match="holds no voxel of the image"):
        clicks_from_box(box, "tumor", grid())


@pytest.mark.parametrize(
    ("contour", "axis", "position", "message"),
    [
        (SQUARE[:2], 0, 3, "at least three vertices, got 2"),
        ([], 0, 3, "at least three vertices, got 0"),
        ([(1, 2, 3)] * 3, 0, 3, r"shape \(points, 2\)"),
        ([(1, 2), (3, 4), (5, float("inf"))], 0, 3, "finite"),
        (SQUARE, 3, 3, "axis 0, 1 or 2, got 3"),
        (SQUARE, -1, 3, "axis 0, 1 or 2, got -1"),
        (SQUARE, 0, 80, "slice 80 lies outside"),
        (SQUARE, 0, -1, "slice -1 lies outside"),
        (np.array(SQUARE) - 60, 0, 3, "encloses no voxel"),
    ],
)
def test_lassos_that_are_refused(contour, axis, position, message):
    with pytest.raises(ClickError, match=message):
        clicks_from_lasso(contour, axis, position, "tumor", grid())


@pytest.mark.parametrize(
    "wrong",
    [{"spacing_mm": 0}, {"outside_mm": -1}, {"max_clicks": 0}, {"spacing_mm": "inf"}, {"gap": 3}],
)
def test_settings_that_are_refused(wrong):
    with pytest.raises(ValidationError):
        PromptSettings(**wrong)
