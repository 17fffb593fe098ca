"""Guidance against its definition, evaluated on every voxel of a small grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.layers import GaussianFilter
from pydantic import TypeAdapter

from voxclick.geometry.box import Box
from voxclick.guidance import (
    DiskGuidance,
    DistanceGuidance,
    GaussianGuidance,
    GuidanceSettings,
    SwFastEditGuidance,
    build_encoder,
)

SPACING_MM = (2.0, 1.5, 4.0)

LOCAL_SETTINGS = st.sampled_from(
    [
        DiskGuidance(sigma=1),
        DiskGuidance(sigma=2),
        DiskGuidance(sigma=3),
        GaussianGuidance(sigma=0.2),
        GaussianGuidance(sigma=1.7),
        DistanceGuidance(radius=0.5),
        DistanceGuidance(radius=4),
        DistanceGuidance(radius=7.3, unit="mm"),
    ]
)
SW_FASTEDIT_SETTINGS = st.builds(SwFastEditGuidance, sigma=st.sampled_from([0.7, 1.0, 2.0]))
ALL_SETTINGS = st.one_of(LOCAL_SETTINGS, SW_FASTEDIT_SETTINGS)


@st.composite
def grids_with_clicks(draw, lists: int):
    """A shape, and that many lists of clicks inside it that often share clicks."""
    shape = draw(st.tuples(*[st.integers(1, 16)] * 3))
    voxel = st.tuples(*(st.integers(0, n - 1) for n in shape))
    shared = draw(st.lists(voxel, max_size=3))
    own = [draw(st.lists(voxel, max_size=4)) for _ in range(lists)]
    return shape, [draw(st.permutations(shared + clicks)) for clicks in own]


def squared_distances(click, shape, spacing=(1.0, 1.0, 1.0)):
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((x - c) * s) ** 2 for x, c, s in zip(axes, click, spacing, strict=True))


def dense_local(guidance: GuidanceSettings, clicks, shape) -> np.ndarray:
    channel = np.zeros(shape)
    for click in clicks:
        match guidance:
            case DiskGuidance():
                limit = {1: 4, 2: 18, 3: 41}[guidance.sigma]
                value = squared_distances(click, shape) <= limit
            case GaussianGuidance():
                squared = squared_distances(click, shape)
                value = np.exp(-squared / (2 * guidance.sigma**2))
                value = np.where(np.sqrt(squared) <= 3 * guidance.sigma, value, 0)
            case DistanceGuidance():
                spacing = SPACING_MM if guidance.unit == "mm" else (1.0, 1.0, 1.0)
                distance = np.sqrt(squared_distances(click, shape, spacing))
                value = np.maximum(0, 1 - distance / guidance.radius)
            case _:
                raise AssertionError(guidance)
        channel = np.maximum(channel, value)
    return channel


def dense_sw_fastedit(sigma: float, clicks, shape) -> torch.Tensor:
    """The original's signal before its threshold: blurred as a whole, scaled to 0..1."""
    signal = torch.zeros(shape)
    for click in clicks:
        signal[click] = 1
    blurred = GaussianFilter(spatial_dims=3, sigma=sigma)(signal[None, None])[0, 0]
    return (blurred - blurred.min()) / (blurred.max() - blurred.min())


@given(LOCAL_SETTINGS, grids_with_clicks(lists=2))
@settings(deadline=None)
def test_local_guidance_is_the_maximum_over_clicks_on_every_voxel(guidance, grid):
    shape, clicks = grid
    drawn = build_encoder(guidance, SPACING_MM).encode(clicks, shape)
    expected = np.stack([dense_local(guidance, of_label, shape) for of_label in clicks])
    np.testing.assert_allclose(drawn.numpy(), expected, atol=1e-6)


@given(SW_FASTEDIT_SETTINGS, grids_with_clicks(lists=1))
@settings(deadline=None)
def test_sw_fastedit_is_the_thresholded_blur_of_the_whole_channel(guidance, grid):
    shape, (clicks,) = grid
    drawn = build_encoder(guidance, SPACING_MM).encode([clicks], shape)[0]
    if not clicks:
        assert not drawn.any()
        return
    signal = dense_sw_fastedit(guidance.sigma, clicks, shape)
    # where rounding decides, neither answer is wrong; one voxel alone has no scale (0 / 0)
    is_clear = (signal - 0.1).abs() > 1e-5
    assert torch.equal(drawn[is_clear] > 0, signal[is_clear] > 0.1)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


@given(ALL_SETTINGS, grids_with_clicks(lists=2))
@settings(deadline=None)
def test_channels_differ_only_inside_the_changed_box(guidance, grid):
    shape, (before, after) = grid
    encoder = build_encoder(guidance, SPACING_MM)
    differs = encoder.encode([before], shape)[0] != encoder.encode([after], shape)[0]
    box = encoder.changed_box(before, after, shape)
    if box is None:
        assert not differs.any()
        return
    assert not box.is_empty
    assert box == box.clip(shape)
    differs[box.to_slices()] = False
    assert not differs.any()


@given(SW_FASTEDIT_SETTINGS, grids_with_clicks(lists=2))
@settings(deadline=None)
def test_changed_box_of_sw_fastedit_is_tight(guidance, grid):
    shape, (before, after) = grid
    encoder = build_encoder(guidance, SPACING_MM)
    differs = encoder.encode([before], shape)[0] != encoder.encode([after], shape)[0]
    box = encoder.changed_box(before, after, shape)
    voxels = differs.nonzero()
    if len(voxels) == 0:
        assert box is None
    else:
        assert box == Box(tuple(voxels.amin(0).tolist()), tuple((voxels.amax(0) + 1).tolist()))


@given(ALL_SETTINGS, grids_with_clicks(lists=1), st.randoms())
@settings(deadline=None)
def test_order_and_repetition_of_clicks_do_not_matter(guidance, grid, random):
    shape, (clicks,) = grid
    again = [*clicks, *clicks[:2]]
    random.shuffle(again)
    encoder = build_encoder(guidance, SPACING_MM)
    assert torch.equal(encoder.encode([clicks], shape), encoder.encode([again], shape))
    assert encoder.changed_box(clicks, again, shape) is None


@given(ALL_SETTINGS, grids_with_clicks(lists=2))
@settings(deadline=None)
def test_adding_clicks_one_by_one_is_encoding_them_all(guidance, grid):
    shape, clicks = grid
    encoder = build_encoder(guidance, SPACING_MM)
    grown = encoder.encode([[], []], shape)
    for label_index, of_label in enumerate(clicks):
        for done, click in enumerate(of_label):
            encoder.add(grown, label_index, click, of_label[:done])
    assert torch.equal(grown, encoder.encode(clicks, shape))


@pytest.mark.parametrize("kind", ["disk", "gaussian", "distance", "sw-fastedit"])
def test_settings_survive_json(kind):
    adapter = TypeAdapter(GuidanceSettings)
    read = adapter.validate_python({"kind": kind})
    assert read.kind == kind
    assert adapter.validate_json(adapter.dump_json(read)) == read


@given(ALL_SETTINGS, grids_with_clicks(lists=2), st.data())
@settings(deadline=None)
def test_a_box_is_drawn_as_the_whole_and_known_by_its_key(guidance, grid, data):
    shape, states = grid
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    encoder = build_encoder(guidance, SPACING_MM)
    whole = encoder.encode(states, shape)[(..., *box.to_slices())]
    part = encoder.encode_box(states, shape, box)
    assert torch.equal(part, whole)
    one, other = (encoder.key(clicks, shape, box) for clicks in states)
    assert one != other or torch.equal(part[0], part[1])
    # and windows that no click reaches are known to be alike
    if not part.any() and isinstance(guidance, SwFastEditGuidance):
        assert one == other
