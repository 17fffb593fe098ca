"""Guidance on clicks whose picture is known."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from voxclick.errors import ClickError
from voxclick.geometry.box import Box
from voxclick.guidance import (
    DiskGuidance,
    DistanceGuidance,
    GaussianGuidance,
    GuidanceSettings,
    SwFastEditGuidance,
    build_encoder,
)

ISOTROPIC = (1.0, 1.0, 1.0)
SHAPE = (40, 40, 40)
LONE = (10, 10, 10)
CLUSTER_OF_4 = [(30, 30, 30), (30, 31, 30), (30, 30, 31), (30, 31, 31)]
CLUSTER_OF_8 = CLUSTER_OF_4 + [(31, j, k) for _, j, k in CLUSTER_OF_4]


def disk_voxels(channel, click, reach=6) -> int:
    box = Box.around(click, reach).clip(channel.shape)
    return int(channel[box.to_slices()].sum())


# Lattice points in a ball of squared radius 4, 18, 41 (OEIS A117609).
@pytest.mark.parametrize(("sigma", "voxels"), [(1, 33), (2, 341), (3, 1141)])
@pytest.mark.parametrize("settings", [DiskGuidance, SwFastEditGuidance])
def test_a_lone_click_is_a_ball(settings, sigma, voxels):
    encoder = build_encoder(settings(sigma=sigma), ISOTROPIC)
    guidance = encoder.encode([[], [(20, 20, 20)]], SHAPE)
    assert guidance.shape == (2, *SHAPE)
    assert guidance.dtype == torch.float32
    assert guidance[0].sum() == 0
    assert guidance[1].sum() == voxels
    assert guidance[1, 20, 20, 20] == 1


@pytest.mark.parametrize(("others", "voxels"), [([], 33), (CLUSTER_OF_4, 19), (CLUSTER_OF_8, 7)])
def test_clusters_shrink_a_far_click_of_sw_fastedit_but_not_a_disk(others, voxels):
    original = build_encoder(SwFastEditGuidance(), ISOTROPIC).encode([[LONE, *others]], SHAPE)[0]
    local = build_encoder(DiskGuidance(), ISOTROPIC).encode([[LONE, *others]], SHAPE)[0]
    assert disk_voxels(original, LONE) == voxels
    assert disk_voxels(local, LONE) == 33


def test_changed_box_of_sw_fastedit_holds_far_clicks_when_the_maximum_moves():
    encoder = build_encoder(SwFastEditGuidance(), ISOTROPIC)
    box = encoder.changed_box([LONE], [LONE, *CLUSTER_OF_4], SHAPE)
    assert box is not None
    assert box.contains((8, 10, 10))  # on the far click's ball of 33, not on that of 19
    assert box.contains((30, 30, 30))


def test_changed_box_of_sw_fastedit_is_the_new_click_alone_when_the_maximum_stays():
    encoder = build_encoder(SwFastEditGuidance(), ISOTROPIC)
    box = encoder.changed_box([LONE], [(30, 30, 30), LONE], SHAPE)
    assert box == Box.around((30, 30, 30), 2)


def test_changed_box_of_disks():
    encoder = build_encoder(DiskGuidance(sigma=2), ISOTROPIC)
    assert encoder.changed_box([LONE], [LONE], SHAPE) is None
    assert encoder.changed_box([], [], SHAPE) is None
    added = encoder.changed_box([LONE], [LONE, (1, 20, 39)], SHAPE)
    assert added == Box((0, 16, 35), (6, 25, 40))
    moved = encoder.changed_box([(1, 20, 39)], [LONE], SHAPE)
    assert moved == Box((0, 6, 6), (15, 25, 40))


def test_a_ball_at_a_corner_is_cut_and_not_wrapped():
    guidance = build_encoder(DiskGuidance(), ISOTROPIC).encode([[(0, 0, 0)]], (9, 9, 9))[0]
    # of the ball r² <= 4: the voxels with i, j, k >= 0
    expected = {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2)}
    expected |= {(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)}
    assert {tuple(v) for v in guidance.nonzero().tolist()} == expected


def test_values_of_a_gaussian():
    line = build_encoder(GaussianGuidance(sigma=2), ISOTROPIC).encode([[(8, 0, 0)]], (17, 1, 1))
    values = line[0, :, 0, 0]
    assert values[8] == 1
    assert values[10] == pytest.approx(0.60653, abs=1e-5)  # exp(-1/2)
    assert values[14] == pytest.approx(0.011109, abs=1e-6)  # exp(-9/2), the last one drawn
    assert values[15] == 0


def test_values_of_a_distance_in_voxels_and_mm():
    spacing_mm = (2.0, 1.0, 5.0)
    clicks, shape = [[(8, 8, 8)]], (17, 17, 17)
    voxel = build_encoder(DistanceGuidance(radius=4), spacing_mm).encode(clicks, shape)[0]
    assert voxel[8, 8, 8] == 1
    assert voxel[9, 8, 8] == voxel[8, 9, 8] == voxel[8, 8, 9] == 0.75
    assert voxel[12, 8, 8] == 0
    mm = build_encoder(DistanceGuidance(radius=4, unit="mm"), spacing_mm).encode(clicks, shape)[0]
    assert mm[9, 8, 8] == 0.5
    assert mm[8, 9, 8] == 0.75
    assert mm[8, 8, 9] == 0


def test_changed_box_of_a_distance_in_mm_follows_the_spacing():
    encoder = build_encoder(DistanceGuidance(radius=4, unit="mm"), (2.0, 1.0, 5.0))
    # at 4 mm the value is 0 already
    assert encoder.changed_box([], [LONE], SHAPE) == Box.around(LONE, (1, 3, 0))


@pytest.mark.parametrize("settings", [DiskGuidance(), SwFastEditGuidance()])
def test_add_draws_into_a_view_of_a_network_input(settings):
    encoder = build_encoder(settings, ISOTROPIC)
    batch = torch.zeros(2, 3, *SHAPE)  # one image channel, two labels
    encoder.add(batch[1, 1:], 1, LONE, [])
    assert batch[1, 2].sum() == 33
    assert batch.sum() == 33


@pytest.mark.parametrize("settings", [DiskGuidance(), SwFastEditGuidance()])
@pytest.mark.parametrize("click", [(-1, 0, 0), (0, 40, 0)])
def test_a_click_outside_the_grid_is_refused(settings, click):
    encoder = build_encoder(settings, ISOTROPIC)
    with pytest.raises(ClickError, match="outside the network's grid"):
        encoder.encode([[], [click]], SHAPE)
    with pytest.raises(ClickError, match="outside the network's grid"):
        encoder.add(torch.zeros(2, *SHAPE), 1, click, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "disk", "sigma": 4},
        {"kind": "gaussian", "sigma": 0},
        {"kind": "distance", "radius": -1},
        {"kind": "disk", "radius": 3},
        {"kind": "geodesic"},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        TypeAdapter(GuidanceSettings).validate_python(settings)
