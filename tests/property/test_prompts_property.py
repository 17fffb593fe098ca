"""What holds for the clicks of any prompt."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from voxclick.clicks import (
    BACKGROUND,
    PromptSettings,
    clicks_from_box,
    clicks_from_lasso,
    clicks_from_mask,
    clicks_from_polyline,
    clicks_from_scribble,
)
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.volume import VolumeGeometry

TOLERANCE_MM = 1e-3

shapes = st.tuples(*[st.integers(1, 14)] * 3)
spacings = st.tuples(*[st.sampled_from([1.0, 0.7, 2.5])] * 3)
prompt_settings = st.builds(
    PromptSettings,
    spacing_mm=st.sampled_from([0.4, 2.0, 4.5]),
    outside_mm=st.sampled_from([0.5, 2.0, 3.3]),
    max_clicks=st.integers(1, 6),
)


@st.composite
def geometries(draw, shape=shapes, sheared=False):
    rotated = draw(st.permutations(range(3)))
    matrix = np.diag(draw(spacings))[list(rotated)] * draw(st.sampled_from([1, -1]))
    if sheared:
        matrix[:, 1] += matrix[:, 0] * draw(st.sampled_from([0.0, 0.5, -1.0]))
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = (12, -7, 30)
    return VolumeGeometry(draw(shape), affine)


@st.composite
def grids_with_masks(draw):
    """A geometry, and a mask of speckles or of boxes on it."""
    geometry = draw(geometries())
    if draw(st.booleans()):
        mask = draw(arrays.arrays(bool, geometry.shape))
    else:
        mask = np.zeros(geometry.shape, dtype=bool)
        for box in draw(st.lists(boxes_inside(geometry.shape), min_size=1, max_size=4)):
            mask[box.to_slices()] = True
    mask[draw(st.tuples(*(st.integers(0, n - 1) for n in geometry.shape)))] = True
    return geometry, mask


def boxes_inside(shape):
    corner = st.tuples(*(st.integers(0, n - 1) for n in shape))
    return st.builds(
        lambda a, b: Box(tuple(np.minimum(a, b).tolist()), tuple((np.maximum(a, b) + 1).tolist())),
        corner,
        corner,
    )


def split(clicks):
    inside = [click.index for click in clicks if click.label == "tumor"]
    outside = [click.index for click in clicks if click.label == BACKGROUND]
    assert len(inside) + len(outside) == len(clicks)
    return inside, outside


def assert_valid(clicks, geometry, chosen):
    """No voxel twice, none outside the image, no more of a sign than allowed."""
    indices = [click.index for click in clicks]
    assert len(set(indices)) == len(indices)
    assert all(Box.of_shape(geometry.shape).contains(index) for index in indices)
    assert all(type(x) is int for index in indices for x in index)
    assert all(len(of_sign) <= chosen.max_clicks for of_sign in split(clicks))


def distances_mm(geometry, a, b):
    """Of every voxel of a (rows) to every one of b (columns)."""
    from_mm, to_mm = (apply_affine(geometry.affine, np.reshape(x, (-1, 3))) for x in (a, b))
    return np.linalg.norm(from_mm[:, None] - to_mm, axis=-1)


def distances_between(geometry, voxels):
    return distances_mm(geometry, voxels, voxels)[~np.eye(len(voxels), dtype=bool)]


def number_components(mask):
    return ndimage.label(mask, np.ones((3, 3, 3)))


@given(grids_with_masks(), prompt_settings)
@settings(deadline=None, max_examples=30)
def test_clicks_of_a_mask(grid, chosen):
    geometry, mask = grid
    clicks = clicks_from_mask(mask, "tumor", geometry, chosen)
    inside, outside = split(clicks)
    assert_valid(clicks, geometry, chosen)
    assert all(mask[index] for index in inside)
    assert not any(mask[index] for index in outside)
    if outside:
        from_mask = distances_mm(geometry, outside, np.argwhere(mask)).min(axis=1)
        assert from_mask.min() >= chosen.outside_mm - TOLERANCE_MM
    assert (distances_between(geometry, outside) > chosen.spacing_mm - TOLERANCE_MM).all()


@given(grids_with_masks(), prompt_settings)
@settings(deadline=None, max_examples=30)
def test_components_are_clicked_the_largest_first(grid, chosen):
    geometry, mask = grid
    inside, _ = split(clicks_from_mask(mask, "tumor", geometry, chosen))
    components, count = number_components(mask)
    clicked = [components[index] for index in inside]
    centres = clicked[: min(count, chosen.max_clicks)]
    assert len(set(centres)) == len(centres)
    sizes = np.bincount(components.ravel())
    assert [sizes[n] for n in centres] == sorted(sizes[1:], reverse=True)[: len(centres)]
    for component in centres:
        of_component = [i for i, n in zip(inside, clicked, strict=True) if n == component]
        between = distances_between(geometry, of_component)
        assert (between > chosen.spacing_mm - TOLERANCE_MM).all()


@given(grids_with_masks(), prompt_settings)
@settings(deadline=None, max_examples=30)
def test_a_background_mask_is_clicked_where_any_other_is(grid, chosen):
    geometry, mask = grid
    clicks = clicks_from_mask(mask, "tumor", geometry, chosen)
    assert clicks == clicks_from_mask(np.asfortranarray(mask), "tumor", geometry, chosen)
    inside, _ = split(clicks)
    background = clicks_from_mask(mask, BACKGROUND, geometry, chosen)
    assert [click.index for click in background] == inside
    assert {click.label for click in background} == {BACKGROUND}


@given(grids_with_masks(), prompt_settings)
@settings(deadline=None, max_examples=30)
def test_clicks_of_a_scribble(grid, chosen):
    geometry, mask = grid
    clicks = clicks_from_scribble(mask, "tumor", geometry, chosen)
    assert clicks == clicks_from_scribble(np.asfortranarray(mask), "tumor", geometry, chosen)
    assert_valid(clicks, geometry, chosen)
    inside, outside = split(clicks)
    assert not outside
    assert all(mask[index] for index in inside)
    _, count = number_components(mask)
    assert len(inside) >= min(count, chosen.max_clicks)


@given(geometries(sheared=True), prompt_settings, st.data())
@settings(deadline=None, max_examples=30)
def test_clicks_of_a_path(geometry, chosen, data):
    point = st.tuples(*(st.floats(-0.5, n - 0.5) for n in geometry.shape))
    points = data.draw(st.lists(point, min_size=1, max_size=5))
    clicks = clicks_from_polyline(points, "tumor", geometry, chosen)
    assert_valid(clicks, geometry, chosen)
    assert len(clicks) >= 1
    dense = np.concatenate(
        [np.linspace(a, b, 60) for a, b in zip(points, [*points[1:], points[-1]], strict=True)]
    )
    for click in clicks:
        # half a voxel of rounding, and what the sampling of the path leaves
        assert np.abs(dense - click.index).max(axis=1).min() <= 0.5 + 14 / 59 / 2 + 1e-6


@given(geometries(sheared=True), prompt_settings, st.data())
@settings(deadline=None, max_examples=30)
def test_clicks_of_a_box(geometry, chosen, data):
    box = data.draw(boxes_inside(geometry.shape))
    clicks = clicks_from_box(box, "tumor", geometry, chosen)
    inside, outside = split(clicks)
    assert len(inside) == 1
    assert box.contains(inside[0])
    assert len(set(outside)) == len(outside) <= 6
    for index in outside:
        assert Box.of_shape(geometry.shape).contains(index)
        off = [max(a - x, x - b + 1, 0) for a, x, b in zip(box.start, index, box.stop, strict=True)]
        (axis,) = np.flatnonzero(off)
        beyond_mm = off[axis] * geometry.spacing_mm[axis]
        step_mm = geometry.spacing_mm[axis]
        assert chosen.outside_mm - TOLERANCE_MM <= beyond_mm
        assert beyond_mm <= max(step_mm, chosen.outside_mm + step_mm)


@given(geometries(), prompt_settings, st.integers(0, 2), st.data())
@settings(deadline=None, max_examples=30)
def test_clicks_of_a_lasso(geometry, chosen, axis, data):
    position = data.draw(st.integers(0, geometry.shape[axis] - 1))
    in_plane = np.delete(geometry.shape, axis)
    vertex = st.tuples(*(st.floats(-0.4, n - 0.6) for n in in_plane))
    contour = data.draw(st.lists(vertex, min_size=3, max_size=7))
    clicks = clicks_from_lasso(contour, axis, position, "tumor", geometry, chosen)
    inside, outside = split(clicks)
    assert_valid(clicks, geometry, chosen)
    assert len(inside) >= 1
    assert all(click.index[axis] == position for click in clicks)
    vertices = np.array(contour)
    for index in inside:
        pixel = np.delete(index, axis)
        assert (pixel >= vertices.min(axis=0) - 0.5).all()
        assert (pixel <= vertices.max(axis=0) + 0.5).all()
    if outside:
        from_inside = distances_mm(geometry, outside, inside)
        assert from_inside.min() >= chosen.outside_mm - TOLERANCE_MM
