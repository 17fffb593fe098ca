"""Places to click and a figure per volume, from margins that the image itself spells out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import nn

from voxclick import Click, InteractiveSession, LabelMap, Volume
from voxclick.errors import UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import (
    DiskGuidance,
    DistanceGuidance,
    GaussianGuidance,
    SwFastEditGuidance,
)
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import Preprocessing, PreprocessingSettings, RangeScaling
from voxclick.session import uncertainty
from voxclick.sliding_window import CacheSettings, SlidingWindows

SHAPE = (20, 24, 28)
SPACING = (1.0, 2.0, 3.0)  # 6 mm³ a voxel
VOXEL_ML = 0.006
SURE = 20.0
DISK = DiskGuidance()


class ImageIsTheMargins(nn.Module):
    """Each image channel is the margin of one label; clicks change nothing."""

    def __init__(self, foreground: int) -> None:
        super().__init__()
        self.foreground = foreground

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        margins = windows[:, : self.foreground]
        return torch.cat([torch.zeros_like(margins[:, :1]), margins], dim=1)


def session(
    *margins,
    affine=None,
    spacing_mm=None,
    guidance=DISK,
    network="dynunet-light",
    window=(16, 16, 16),
    **options,
):
    names = tuple(f"label {number}" for number in range(1, len(margins) + 1))
    passed = RangeScaling(low=0, high=1, clip=False)
    settings = ModelSettings(
        labels=("background", *names),
        channels=names,
        preprocessing=PreprocessingSettings(
            spacing_mm=spacing_mm, intensity=tuple(passed for _ in names)
        ),
        guidance=guidance,
        network=NetworkSettings(name=network),
        inference=SlidingWindows(window=window, overlap=0.25),
    )
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    model = Model(settings, ImageIsTheMargins(len(margins)), torch.device("cpu"))
    volumes = [Volume(values.astype(np.float32), affine) for values in margins]
    return InteractiveSession(model, volumes, **options)


def sure_background(shape=SHAPE):
    return np.full(shape, -SURE)


def margin_of(probability):
    return np.log(probability / (1 - probability))


def two_blobs():
    """27 voxels that are tumour with 0.3, their uncertainty 0.6; 8 voxels with 0.5, that is 1."""
    margins = sure_background()
    margins[3:6, 4:7, 5:8] = margin_of(0.3)
    margins[12:14, 15:17, 20:22] = 0.0
    return margins


# Places


def test_two_blobs_are_two_places_the_one_with_more_doubt_first():
    large, small = session(two_blobs()).proposals()
    assert large.index == (4, 5, 6)  # the middle, all being equally uncertain
    assert large.position_mm == pytest.approx((4.0, 10.0, 18.0))
    assert large.uncertainty == pytest.approx(0.6, abs=1e-6)
    assert large.volume_ml == pytest.approx(27 * VOXEL_ML)
    assert small.index == (12, 15, 20)  # none is deeper than another: the first
    assert small.uncertainty == 1
    assert small.volume_ml == pytest.approx(8 * VOXEL_ML)
    for proposal in (large, small):
        assert (proposal.predicted, proposal.alternative) == ("background", "label 1")


def test_the_sum_of_the_uncertainty_decides_and_not_its_height():
    margins = two_blobs()
    margins[3:6, 4:7, 5:8] = margin_of(0.1)  # 27 * 0.2 < 8 * 1
    assert [p.index for p in session(margins).proposals()] == [(12, 15, 20), (4, 5, 6)]


def test_the_place_is_where_it_is_most_uncertain():
    margins = two_blobs()
    margins[5, 6, 7] = margin_of(0.6)
    first, *_ = session(margins).proposals()
    assert first.index == (5, 6, 7)
    assert (first.predicted, first.alternative) == ("label 1", "background")
    assert first.uncertainty == pytest.approx(0.8, abs=1e-6)


def test_what_is_doubted_a_little_is_no_place():
    margins = two_blobs()
    margins[3:6, 4:7, 5:8] = margin_of(0.049)  # uncertainty 0.098
    assert [p.index for p in session(margins).proposals()] == [(12, 15, 20)]
    margins[3:6, 4:7, 5:8] = margin_of(0.051)
    assert len(session(margins).proposals()) == 2


def test_corners_connect():
    margins = sure_background()
    margins[3, 3, 3] = margins[4, 4, 4] = margins[6, 6, 6] = 0.0
    assert [p.volume_ml for p in session(margins).proposals()] == pytest.approx(
        [2 * VOXEL_ML, VOXEL_ML]
    )


def test_the_middle_of_what_is_equally_deep():
    margins = sure_background()
    margins[8, 2:11, 2:15] = 0.0
    assert [p.index for p in session(margins).proposals()] == [(8, 6, 8)]


def test_depth_is_in_millimetres():
    # a block that is two voxels deep, which is 2 mm, beside a plate of one voxel: 4 mm
    margins = sure_background()
    margins[3:6, 3:6, 3:6] = 0.0
    margins[6, 6:13, 6:13] = 0.0
    (thick_slices,) = session(margins, affine=np.diag([10.0, 1, 1, 1])).proposals()
    assert thick_slices.index == (6, 9, 9)
    (cubes,) = session(margins, affine=np.eye(4)).proposals()
    assert cubes.index == (4, 4, 4)


@pytest.mark.parametrize("axis", range(3))
def test_in_a_slice_depth_is_that_in_its_plane(axis):
    # a square with a long handle, all of it one thin slice deep
    margins = sure_background((24, 28))
    margins[3:8, 3:8] = 0.0
    margins[5, 8:27] = 0.0
    flat = session(
        np.expand_dims(margins, axis),
        affine=np.diag(np.insert([1.0, 1.0, 1.0], axis, 0.1)),
        network="dynunet-light-2d",
        window=(16, 16, 1),
    )
    (place,) = flat.proposals()
    assert place.index == tuple(np.insert([5, 5], axis, 0).tolist())


def test_no_more_places_than_wanted_and_no_more_than_there_are():
    opened = session(two_blobs())
    assert opened.proposals(0) == ()
    assert len(opened.proposals(1)) == 1
    assert len(opened.proposals(99)) == 2
    surveyed = opened.survey(1)
    assert surveyed.places == 2
    assert surveyed.proposals == opened.proposals(1)
    with pytest.raises(UsageError, match="0 or more, got -1"):
        opened.proposals(-1)


def test_three_labels():
    one, two = sure_background(), sure_background()
    one[3:6, 3:6, 3:6], two[3:6, 3:6, 3:6] = 1.0, 0.5
    one[12:14, 12:14, 12:14], two[12:14, 12:14, 12:14] = -9.0, -0.2
    first, second = session(one, two).proposals()
    assert (first.predicted, first.alternative) == ("label 1", "label 2")
    weights = np.exp([0.0, 1.0, 0.5])
    assert first.uncertainty == pytest.approx(1 - (weights[1] - weights[2]) / weights.sum())
    assert (second.predicted, second.alternative) == ("background", "label 2")


def test_a_second_implementation_finds_the_same_places():
    generator = np.random.default_rng(4)
    noise = generator.normal(size=(2, *SHAPE))
    margins = 40 * ndimage.gaussian_filter(noise, (0, 2, 2, 2)) - 7
    logits = np.concatenate([np.zeros((1, *SHAPE)), margins])
    ordered = np.sort(special.softmax(logits, axis=0), axis=0)
    doubt = 1 - (ordered[-1] - ordered[-2])
    places, count = ndimage.label(doubt >= uncertainty.UNCERTAIN_FROM, np.ones((3, 3, 3)))
    numbers = np.arange(1, count + 1)
    sums = ndimage.sum_labels(doubt, places, numbers)
    most = ndimage.maximum(doubt, places, numbers)
    order = np.argsort(-sums)
    proposals = session(*margins).proposals(1000)
    assert len(proposals) == count > 3
    assert [places[p.index] for p in proposals] == numbers[order].tolist()
    # the place is as uncertain as any, within the step of a level
    assert [p.uncertainty for p in proposals] == pytest.approx(most[order], abs=1 / 255)
    found = session(*margins).survey()
    expected = 1 - special.softmax(logits, axis=0)[0]
    share = (1 - ordered[-1]).sum() * VOXEL_ML / (expected.sum() * VOXEL_ML + 1)
    assert found.uncertainty == pytest.approx(share, rel=1e-5)
    assert found.foreground_ml == pytest.approx((margins.max(axis=0) > 0).sum() * VOXEL_ML)


def test_regions_of_one_voxel_s_width_are_told_apart():
    # which cc3d 4.1.1 does not do on boolean arrays
    margins = sure_background((3, 3, 3))
    margins[0, 0, 0] = margins[2, 0, 0] = 0.0
    assert [p.index for p in session(margins).proposals()] == [(0, 0, 0), (2, 0, 0)]


def test_how_the_volume_is_cut_makes_no_difference(monkeypatch):
    expected = session(two_blobs()).survey()
    monkeypatch.setattr(uncertainty, "_SLAB_VALUES", 1)
    monkeypatch.setattr(uncertainty, "_COUNTED_VOXELS", 100)
    found = session(two_blobs()).survey()
    assert found.uncertainty == pytest.approx(expected.uncertainty, rel=1e-12)
    assert replace(found, uncertainty=0.0) == replace(expected, uncertainty=0.0)


# Files in other orientations and on other grids


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flip", [(), (0,), (1, 2)])
def test_places_are_the_same_however_the_file_is_stored(axes, flip):
    expected = session(two_blobs()).proposals()
    stored = np.flip(np.transpose(two_blobs(), axes), flip)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[:, axes]
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    found = session(stored, affine=affine).proposals()
    assert [p.position_mm for p in found] == [pytest.approx(p.position_mm) for p in expected]
    for proposal in found:
        assert stored[proposal.index] > -SURE
        assert proposal.position_mm == pytest.approx(
            (affine @ [*proposal.index, 1])[:3]  # the file's own affine
        )


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (3.0, 1.5, 4.0)])
def test_no_voxel_is_proposed_twice_on_any_grid(spacing_mm):
    margins = sure_background((14, 14, 8))
    margins[2:6, 2:6, 2:5] = margin_of(0.4)
    opened = session(margins, affine=np.diag([2.0, 2, 6, 1]), spacing_mm=spacing_mm)
    clicked = []
    while proposals := opened.proposals(1):
        clicked.append(proposals[0].index)
        opened.add([Click(proposals[0].index, "label 1")])
    assert 1 < len(clicked) == len(set(clicked))


def test_two_places_in_one_voxel_of_a_coarse_file_are_one_proposal():
    settings = PreprocessingSettings(
        spacing_mm=(1.0, 1.0, 1.0), intensity=(RangeScaling(low=0, high=1),)
    )
    coarse = Volume(np.zeros((4, 4, 4), np.float32), np.diag([4.0, 4, 4, 1]))
    prepared = Preprocessing(settings).prepare([coarse])
    margins = torch.full((1, *prepared.geometry.shape), -SURE)
    margins[0, 3, 4, 4] = margins[0, 5, 4, 4] = 0.0
    surveyed = uncertainty.survey(
        lambda box: margins[(..., *box.to_slices())], prepared, ("background", "label 1")
    )
    assert surveyed.places == 2
    assert [p.index for p in surveyed.proposals] == [(1, 1, 1)]


# Clicks


def test_where_the_user_has_clicked_nothing_is_proposed():
    opened = session(two_blobs())
    large, small = opened.proposals()
    opened.add([Click(large.index, "label 1")])
    assert opened.proposals() == (small,)  # the disk holds all 27 voxels
    opened.undo()
    assert opened.proposals() == (large, small)
    opened.add([Click((0, 0, 0), "background")])
    assert opened.proposals() == (large, small)


@pytest.mark.parametrize(
    ("guidance", "squared_reach"),
    [
        (GaussianGuidance(), 9),
        (DistanceGuidance(radius=3), 8),
        (SwFastEditGuidance(), 4),
        (DiskGuidance(sigma=2), 18),
    ],
)
def test_every_guidance_has_its_reach(guidance, squared_reach):
    margins = sure_background()
    margins[2:15, 2:15, 2:15] = margin_of(0.3)
    opened = session(margins, affine=np.eye(4), guidance=guidance)
    opened.add([Click((8, 8, 8), "label 1")])
    offsets = np.indices((13, 13, 13)) - 6
    left = ((offsets**2).sum(axis=0) > squared_reach).sum()
    (proposal,) = opened.proposals()
    assert proposal.volume_ml == pytest.approx(left * 0.001)


def test_what_the_disk_leaves_of_a_place_is_proposed():
    margins = sure_background()
    margins[3:12, 3:12, 3:12] = margin_of(0.3)
    opened = session(margins, affine=np.eye(4))
    (whole,) = opened.proposals()
    assert whole.index == (7, 7, 7)
    opened.add([Click((7, 7, 7), "background")])
    (rest,) = opened.proposals()
    assert sum((a - 7) ** 2 for a in rest.index) > 4
    disk = 1 + 6 + 12 + 8 + 6  # r² <= 4
    assert rest.volume_ml == pytest.approx(whole.volume_ml - disk * 0.001)
    # the whole volume's figure is the model's own
    assert opened.uncertainty() == session(margins, affine=np.eye(4)).uncertainty()


def test_a_model_without_clicks_has_proposals():
    assert session(two_blobs(), guidance=None).proposals() == session(two_blobs()).proposals()


# The figure of a volume


def test_the_figure_by_hand():
    margins = two_blobs()
    margins[8:12, 8:12, 8:12] = SURE
    # 27 voxels are wrong with 0.3 and 8 with 0.5; 64 are surely foreground
    wrong = (27 * 0.3 + 8 * 0.5) * VOXEL_ML
    foreground = wrong + 64 * VOXEL_ML
    surveyed = session(margins).survey()
    assert surveyed.uncertainty == pytest.approx(wrong / (foreground + 1), rel=1e-5)
    assert surveyed.foreground_ml == pytest.approx(64 * VOXEL_ML)
    assert session(margins).uncertainty() == surveyed.uncertainty


def test_improbable_foreground_counts_with_all_its_digits():
    # 13440 voxels of a millionth each: 1 - p in float32 would be 4 % off
    margins = np.full(SHAPE, margin_of(1e-6))
    wrong = np.prod(SHAPE) * 1e-6 * VOXEL_ML
    assert session(margins).uncertainty() == pytest.approx(wrong / (wrong + 1), rel=1e-4)


def test_nothing_found_and_nothing_doubted():
    surveyed = session(sure_background()).survey()
    assert surveyed.proposals == ()
    assert (surveyed.places, surveyed.foreground_ml) == (0, 0)
    assert 0 <= surveyed.uncertainty < 1e-6
    # a lesion that is found for sure changes nothing of that
    margins = sure_background()
    margins[8:12, 8:12, 8:12] = SURE
    assert session(margins).uncertainty() < 1e-6


def test_the_figure_grows_with_doubt_and_falls_with_certain_foreground():
    figures = []
    for size in (1, 2, 4, 8):
        margins = sure_background()
        margins[:size, :size, :size] = margin_of(0.3)
        figures.append(session(margins, affine=np.diag([5.0, 5, 5, 1])).uncertainty())
    assert figures == sorted(set(figures))
    margins[10:, 10:, 10:] = SURE
    assert session(margins, affine=np.diag([5.0, 5, 5, 1])).uncertainty() < figures[-1] < 1


# The session is left as it is


def test_nothing_is_settled():
    opened = session(two_blobs())
    before = opened.proposals()
    first = opened.predict()
    assert (first.windows, first.changed) == (0, Box.of_shape(SHAPE))
    opened.add([Click((4, 5, 6), "label 1")])
    opened.proposals()
    opened.undo()
    assert opened.predict().changed is None
    assert opened.proposals() == before


def test_a_mask_to_start_from_does_not_change_what_is_doubted():
    expected = session(two_blobs()).survey()
    opened = session(two_blobs())
    opened.start_from(LabelMap(np.ones(SHAPE, np.uint8), np.diag([*SPACING, 1.0])))
    assert opened.survey() == expected
    assert session(two_blobs(), radius_mm=3).survey() == expected
    assert opened.predict().label_map.voxels.all()


def test_windows_that_are_missing_run_and_are_told():
    told = []
    opened = session(two_blobs())
    opened.uncertainty(lambda *progress: told.append(progress))
    assert told == [(n, 8) for n in range(1, 9)]
    told.clear()
    opened.proposals(on_window=lambda *progress: told.append(progress))
    assert told == []
    with pytest.warns(UserWarning, match="room for 0"):
        forgetful = session(two_blobs(), cache=CacheSettings(host_gib=0))
    assert forgetful.survey() == opened.survey()
