"""Preprocessing against MONAI's own pipeline, SciPy's interpolation, and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import (
    Compose,
    Orientationd,
    ScaleIntensityRangePercentiles,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from nibabel.affines import apply_affine
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from restoring import restored
from voxclick.errors import GeometryError, UnsupportedImageError
from voxclick.geometry.box import Box
from voxclick.preprocessing import (
    LogScaling,
    PercentileScaling,
    Preprocessing,
    PreprocessingSettings,
    RangeScaling,
    ReadMargins,
    check_slices,
    restore_labels,
    restore_labels_inside,
)
from voxclick.preprocessing.sampling import blocks, blocks_touching
from voxclick.volume import LabelMap, Volume

AS_IS = RangeScaling(low=0, high=1, clip=False)
SPACING = (4.17, 3.03, 2.51)
"""Odd numbers, so that no position falls halfway between two voxels: there the last bit decides
which is nearest, and MONAI, which works in the scanner's frame, has other last bits."""


def preprocessing_to(spacing_mm, *intensity) -> Preprocessing:
    return Preprocessing(
        PreprocessingSettings(spacing_mm=spacing_mm, intensity=intensity or (AS_IS,))
    )


def smooth_noise(*shape: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=shape)
    return gaussian_filter(noise, 1.5, axes=(-3, -2, -1)).astype(np.float32) * 20


@pytest.fixture
def oblique() -> Volume:
    """A turned grid, stored left-posterior-superior-ish in the order k, i, j."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (8, -12, 20), degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag([-2.0, -1.9, 3.1])
    affine[:3, 3] = (110.3, 95.1, -400.7)
    affine = affine[:, [2, 0, 1, 3]]
    return Volume(smooth_noise(17, 24, 21), affine)


@pytest.fixture
def sheared(oblique) -> Volume:
    shear = np.eye(4)
    shear[0, 1], shear[1, 2] = 0.3, -0.2
    return Volume(oblique.voxels, oblique.affine @ shear)


def reading(margins: torch.Tensor) -> ReadMargins:
    return lambda box: margins[(..., *box.to_slices())]


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch):
    """Small volumes must meet block borders too."""
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 9)


# Settings


def test_settings_survive_json():
    settings = PreprocessingSettings(
        spacing_mm=(2.03642011, 2.03642011, 3),
        intensity=(
            PercentileScaling(),
            RangeScaling(low=-1000, high=1000, clip=False),
            LogScaling(high=20),
        ),
    )
    assert PreprocessingSettings.model_validate_json(settings.model_dump_json()) == settings
    assert PreprocessingSettings.model_validate(
        {"intensity": [{"kind": "percentile", "low": 0.05, "high": 99.95}]}
    ) == PreprocessingSettings(intensity=(PercentileScaling(),))


@pytest.mark.parametrize(
    "settings",
    [
        {"intensity": []},
        {"intensity": [{"kind": "gamma"}]},
        {"intensity": [{"kind": "log"}]},
        {"intensity": [{"kind": "log", "high": 0}]},
        {"intensity": [{"kind": "range", "low": 1, "high": 1}]},
        {"intensity": [{"kind": "percentile", "low": 5, "high": 101}]},
        {"intensity": [{"kind": "percentile", "low": 99, "high": 1}]},
        {"intensity": [{"kind": "percentile", "mid": 50}]},
        {"intensity": [{"kind": "percentile"}], "spacing_mm": [1, 0, 1]},
        {"intensity": [{"kind": "percentile"}], "spacing_mm": [1, float("nan"), 1]},
        {"intensity": [{"kind": "percentile"}], "spacing_mm": [1, 1]},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        PreprocessingSettings.model_validate(settings)


# Intensity


def scaled(values, scaling) -> np.ndarray:
    voxels = np.asarray(values, np.float32).reshape(-1, 1, 1)
    image = preprocessing_to(None, scaling).prepare([Volume(voxels, np.eye(4))]).image
    assert image.dtype == torch.float32
    return image.numpy().ravel()


def test_range_scaling_by_hand():
    values = [-5, 0, 10, 20, 43]
    scaling = RangeScaling(low=0, high=20)
    assert scaled(values, scaling).tolist() == [0, 0, 0.5, 1, 1]
    unclipped = scaling.model_copy(update={"clip": False})
    np.testing.assert_allclose(scaled(values, unclipped), [-0.25, 0, 0.5, 1, 2.15], rtol=1e-6)


def test_log_scaling_by_hand():
    values = [-5, 0, np.e - 1, 20, 440]
    expected = [0, 0, 1 / np.log(21), 1, 2 * np.log(21) / np.log(21)]
    np.testing.assert_allclose(scaled(values, LogScaling(high=20)), expected, rtol=1e-6)


def test_percentile_scaling_is_monais():
    values = np.random.default_rng(0).gamma(2, size=5000).astype(np.float32)
    monai = ScaleIntensityRangePercentiles(0.05, 99.95, 0, 1, clip=True)
    expected = monai(torch.from_numpy(values)[None]).numpy().ravel()
    np.testing.assert_allclose(scaled(values, PercentileScaling()), expected, atol=1e-6)


def test_percentile_scaling_keeps_the_few_voxels_that_differ():
    values = np.zeros(10_000)
    values[:2] = (4, 8)
    found = scaled(values, PercentileScaling())
    assert found[:3].tolist() == [0.5, 1, 0]
    assert not scaled(np.full(100, 7.0), PercentileScaling()).any()


# To the network's grid


def monai_pipeline(volume: Volume, label: np.ndarray):
    both = {
        "image": MetaTensor(
            torch.from_numpy(volume.voxels.copy())[None], affine=volume.affine.copy()
        ),
        # one channel per label: its share of each voxel
        "label": MetaTensor(
            torch.from_numpy(np.stack([label == index for index in range(3)])).float(),
            affine=volume.affine.copy(),
        ),
    }
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    return Compose(
        [
            Orientationd(("image", "label"), axcodes="RAS", labels=labels),
            Spacingd(("image", "label"), pixdim=SPACING, mode=("bilinear", "bilinear")),
            ScaleIntensityRangePercentilesd("image", 0.05, 99.95, 0, 1, clip=True),
        ]
    )(both)


@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_prepare_is_monais_dictionary_pipeline(request, kind):
    volume = request.getfixturevalue(kind)
    label = np.digitize(volume.voxels, (0.5, 1.5)).astype(np.uint8)
    expected = monai_pipeline(volume, label)
    process = preprocessing_to(SPACING, PercentileScaling())
    prepared = process.prepare([volume])
    assert tuple(prepared.image.shape) == tuple(expected["image"].shape)
    np.testing.assert_allclose(prepared.geometry.affine, expected["image"].affine, atol=1e-9)
    # MONAI finds the place of a percentile in float32
    np.testing.assert_allclose(prepared.image, expected["image"].as_tensor(), atol=2e-5)
    label_map = LabelMap(label, volume.affine, labels=("background", "a", "b"))
    found = process.prepare_label(label_map, prepared)
    assert found.dtype == torch.uint8
    first, second = expected["label"].as_tensor().topk(2, dim=0).values
    clear = first - second > 1e-4
    assert clear.float().mean() > 0.9
    assert torch.equal(found[clear], expected["label"].as_tensor().argmax(dim=0)[clear].byte())
    np.testing.assert_allclose(prepared.geometry.spacing_mm, SPACING)
    assert type(prepared.image) is torch.Tensor


def test_prepare_puts_every_value_where_it_lies_in_the_patient(oblique):
    """Interpolated at patient positions by SciPy, which knows no orientation."""
    prepared = preprocessing_to(SPACING).prepare([oblique])
    found = prepared.image[0].numpy()
    indices = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), axis=-1)
    positions = apply_affine(np.linalg.inv(oblique.affine) @ prepared.geometry.affine, indices)
    expected = map_coordinates(
        oblique.voxels.astype(float), np.moveaxis(positions, -1, 0), order=1, mode="nearest"
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def one_slice(of: Volume, axis: int) -> Volume:
    return Volume(of.voxels.take([0], axis), of.affine)


@pytest.mark.parametrize("axis", range(3))
def test_a_slice_lies_last_with_the_axes_of_its_plane_in_the_order_of_the_patients(oblique, axis):
    a_slice = one_slice(oblique, axis)
    prepared = preprocessing_to(None).prepare([a_slice])
    whole = preprocessing_to(None).prepare([oblique])
    # the file's axes are stored as k, i, j of the patient's, flipped
    through = (2, 0, 1)[axis]
    expected = whole.voxels.take([-1 if through < 2 else 0], through + 1)
    assert np.array_equal(prepared.voxels, np.moveaxis(expected, through + 1, 3))
    for index in np.ndindex(*a_slice.shape):
        network = prepared.click_to_network(index)
        assert prepared.voxels[(0, *network)] == a_slice.voxels[index]
        assert prepared.network_to_file(network) == index
        np.testing.assert_allclose(
            prepared.geometry.to_mm(network), a_slice.geometry.to_mm(index), atol=1e-9
        )


@pytest.mark.parametrize("axis", range(3))
def test_a_slice_is_resampled_in_its_plane_alone(oblique, axis):
    """As in a stack of equal slices, whose thickness fits."""
    a_slice = one_slice(oblique, axis)
    stack = Volume(a_slice.voxels.repeat(9, axis), oblique.affine)
    thickness = a_slice.spacing_mm[axis]
    preprocessing = preprocessing_to((1.7, 2.3, 99.0))
    prepared = preprocessing.prepare([a_slice])
    assert prepared.geometry.spacing_mm == pytest.approx((1.7, 2.3, thickness))
    through = (2, 0, 1)[axis]
    spacing = np.insert([1.7, 2.3], through, thickness).tolist()
    of_stack = preprocessing_to(tuple(spacing)).prepare([stack]).voxels.take([4], through + 1)
    expected = np.moveaxis(of_stack, through + 1, 3)
    np.testing.assert_allclose(prepared.voxels, expected, atol=1e-4)

    label = LabelMap((a_slice.voxels > 0).astype(np.uint8), a_slice.affine)
    logits = logits_of(preprocessing.prepare_label(label, prepared))
    back = restored(logits, prepared)
    assert back.shape == a_slice.shape
    assert (back == label.voxels).mean() > 0.95


def logits_of(label: torch.Tensor) -> torch.Tensor:
    return torch.stack([label == 0, label == 1]).float()


def test_a_slice_for_a_network_that_sees_several_is_refused():
    with pytest.raises(UnsupportedImageError, match=r"p\.png: is a single slice, but the network"):
        check_slices((64, 64, 1), (32, 32, 8), "p.png")
    check_slices((64, 64, 1), (32, 32, 1), "p.png")
    check_slices((64, 64, 9), (32, 32, 1), "volume.nii")
    check_slices((64, 64, 9), (32, 32, 32), "volume.nii")


def test_channels_are_scaled_each_by_its_own(oblique):
    other = Volume(oblique.voxels * 3 + 1, oblique.affine)
    ranges = RangeScaling(low=-9, high=9), LogScaling(high=5)
    both = preprocessing_to(SPACING, *ranges).prepare([oblique, other]).image
    for channel, volume, scaling in zip(both, (oblique, other), ranges, strict=True):
        alone = preprocessing_to(SPACING, scaling).prepare([volume]).image[0]
        assert torch.equal(channel, alone)


@pytest.mark.parametrize("spacing", [None, (2.0, 1.9, 3.1), (2.0009, 1.8991, 3.1)])
def test_nothing_is_resampled_where_the_spacing_fits(oblique, spacing):
    prepared = preprocessing_to(spacing).prepare([oblique])
    # stored k, i, j with i and j against the patient's axes
    expected = oblique.voxels.transpose(1, 2, 0)[::-1, ::-1]
    assert np.array_equal(prepared.image[0].numpy(), expected)
    np.testing.assert_allclose(prepared.geometry.spacing_mm, (2, 1.9, 3.1), rtol=1e-12)


def test_a_sheared_volume_keeps_its_shear_only_with_its_own_spacing(sheared):
    own = preprocessing_to(None).prepare([sheared]).geometry
    assert own.shape == (24, 21, 17)
    found = own.affine[:3, :3] / own.spacing_mm
    assert np.abs(found.T @ found - np.eye(3)).max() > 0.1
    straight = preprocessing_to(own.spacing_mm).prepare([sheared]).geometry
    found = straight.affine[:3, :3] / straight.spacing_mm
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)


def test_where_the_volume_lies_changes_nothing_but_where_the_result_lies(oblique):
    affine = oblique.affine.copy()
    affine[:3, 3] += (1e4 / 3, -777.7, 1e5 / 7)
    moved = Volume(oblique.voxels, affine)
    process = preprocessing_to(SPACING, PercentileScaling())
    here, there = process.prepare([oblique]), process.prepare([moved])
    assert torch.equal(here.image, there.image)
    shift = there.geometry.affine - here.geometry.affine
    np.testing.assert_allclose(shift[:3, 3], (1e4 / 3, -777.7, 1e5 / 7))
    assert not shift[:3, :3].any()


def test_the_caller_keeps_its_voxels(oblique):
    before = oblique.voxels.copy()
    prepared = preprocessing_to(None).prepare([oblique])
    prepared.image.zero_()
    assert np.array_equal(oblique.voxels, before)


# Back to the file's grid


def interpolated(volume: Volume, prepared, logits: np.ndarray) -> np.ndarray:
    """Logits at every voxel of the file, by SciPy."""
    indices = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    positions = apply_affine(np.linalg.inv(prepared.geometry.affine) @ volume.affine, indices)
    return np.stack(
        [
            map_coordinates(channel, np.moveaxis(positions, -1, 0), order=1, mode="nearest")
            for channel in logits.astype(float)
        ]
    )


@pytest.mark.parametrize("kind", ["oblique", "sheared"])
@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("spacing", [SPACING, (1.3, 2.2, 1.7), None])
def test_restore_is_the_argmax_of_each_label_interpolated_alone(request, kind, labels, spacing):
    """So comparing margins over the background loses nothing: interpolation is linear."""
    volume = request.getfixturevalue(kind)
    process = preprocessing_to(spacing)
    prepared = process.prepare([volume])
    logits = smooth_noise(labels, *prepared.geometry.shape)
    found = restored(torch.from_numpy(logits), prepared)
    expected = interpolated(volume, prepared, logits)
    assert found.dtype == np.uint8
    assert found.shape == volume.shape
    best, second = np.sort(expected, axis=0)[[-1, -2]]
    clear = best - second > 1e-6
    assert clear.mean() > 0.999
    assert np.array_equal(found[clear], expected.argmax(axis=0)[clear])
    assert len(np.unique(found)) == labels


def test_restore_passes_over_background_without_losing_a_voxel(oblique):
    process = preprocessing_to((2.6, 2.6, 2.6))
    prepared = process.prepare([oblique])
    logits = np.zeros((2, *prepared.geometry.shape), np.float32)
    logits[0] = 1
    logits[1, 5, 6, 7] = 20
    found = restored(torch.from_numpy(logits), prepared)
    margin = np.diff(interpolated(oblique, prepared, logits), axis=0)[0]
    assert found.any()
    assert np.array_equal(found, margin > 0)


def test_equal_logits_are_background_and_nan_is_too(oblique):
    process = preprocessing_to(SPACING)
    prepared = process.prepare([oblique])
    logits = torch.ones(3, *prepared.geometry.shape)
    assert not restored(logits, prepared).any()
    assert not restored(logits * torch.nan, prepared).any()
    logits[1:] = 2
    assert (restored(logits, prepared) == 1).all()


@pytest.mark.gpu
def test_restore_on_a_gpu_is_restore_on_the_cpu(oblique):
    process = preprocessing_to(SPACING)
    prepared = process.prepare([oblique])
    logits = torch.from_numpy(smooth_noise(3, *prepared.geometry.shape))
    expected = restored(logits, prepared)
    assert np.array_equal(restored(logits.cuda(), prepared), expected)


def test_blocks_that_touch_a_box_are_those_of_the_grid_that_meet_it():
    shape = (20, 9, 31)
    generator = np.random.default_rng(0)
    for _ in range(200):
        corners = np.sort(generator.integers(0, np.array(shape) + 1, (2, 3)), axis=0)
        box = Box(*(tuple(corner) for corner in corners.tolist()))
        if not box.is_empty:
            expected = [block for block in blocks(Box.of_shape(shape)) if block.meets(box)]
            assert list(blocks_touching(box, shape)) == expected


@pytest.mark.parametrize("several", [True, False])
def test_labels_of_a_grid_that_is_not_resampled_are_the_largest_margins(several, oblique):
    prepared = preprocessing_to(None).prepare([oblique])
    logits = torch.from_numpy(smooth_noise(3 if several else 2, *prepared.geometry.shape))
    oriented = prepared.regridding.disorient(logits.argmax(0).numpy().astype(np.uint8))
    assert np.array_equal(restored(logits, prepared), oriented)


@pytest.mark.parametrize("spacing", [SPACING, (1.3, 2.2, 1.7), None])
@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_restoring_what_changed_is_restoring_all(request, kind, spacing, monkeypatch):
    """With small blocks, so that most of them are left alone."""
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 4)
    volume = request.getfixturevalue(kind)
    process = preprocessing_to(spacing)
    prepared = process.prepare([volume])
    before = torch.from_numpy(smooth_noise(3, *prepared.geometry.shape))
    shape = prepared.geometry.shape
    box = Box.around(tuple(n // 4 for n in shape), 1).clip(shape)
    after = before.clone()
    after[(..., *box.to_slices())] *= -1
    labels, whole = restored(before, prepared), restored(after, prepared)
    assert not np.array_equal(labels, whole)
    margins = after[1:] - after[:1]
    count = 0
    for patch in restore_labels(reading(margins), prepared.regridding, [box]):
        labels[patch.box.to_slices()] = patch.labels
        count += patch.labels.size
    assert np.array_equal(labels, whole)
    assert count < labels.size


@pytest.mark.parametrize("spacing", [SPACING, (1.3, 2.2, 1.7), (9.0, 8.0, 0.7), None])
@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_restoring_what_changed_reads_only_what_lies_near_it(request, kind, spacing):
    """And gives the same with anything else in all other places."""
    volume = request.getfixturevalue(kind)
    process = preprocessing_to(spacing)
    prepared = process.prepare([volume])
    shape = prepared.geometry.shape
    margins = torch.from_numpy(smooth_noise(2, *shape))
    whole = restored(torch.cat([torch.zeros_like(margins[:1]), margins]), prepared)
    far = [Box.of_shape((1, 1, 1)), Box(tuple(n - 1 for n in shape), shape)]
    read: list[Box] = []

    def reader(box: Box) -> torch.Tensor:
        read.append(box)
        return margins[(..., *box.to_slices())]

    count = 0
    for patch in restore_labels(reader, prepared.regridding, far):
        assert np.array_equal(patch.labels, whole[patch.box.to_slices()])
        count += patch.labels.size
    assert 0 < count < whole.size / 4
    assert len(read) >= 2
    assert sum(np.prod(box.shape) for box in read) < margins[0].numel() / 4


def test_a_part_of_a_block_is_rounded_like_the_whole(monkeypatch):
    """Margins of 1 and -1 with voxels halfway between them: the last bit decides on each."""
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 32)
    process = preprocessing_to((0.6, 0.7, 1.4))
    volume = Volume(np.zeros((40, 40, 40), np.float32), np.diag([0.3, 0.35, 0.7, 1.0]))
    prepared = process.prepare([volume])
    rng = np.random.default_rng(0)
    margins = torch.from_numpy(rng.choice([-1.0, 1.0], (1, *prepared.geometry.shape)))
    whole = restored(torch.cat([torch.zeros_like(margins), margins]), prepared)
    for corner in rng.integers(0, 18, (20, 3)).tolist():
        changed = [Box.around(tuple(corner), 1).clip(prepared.geometry.shape)]
        for patch in restore_labels(reading(margins), prepared.regridding, changed):
            assert np.array_equal(patch.labels, whole[patch.box.to_slices()])


@pytest.mark.parametrize("spacing", [SPACING, (1.3, 2.2, 1.7), None])
@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_restoring_inside_a_box_is_restoring_all_there_and_nothing_elsewhere(
    request, kind, spacing
):
    volume = request.getfixturevalue(kind)
    process = preprocessing_to(spacing)
    prepared = process.prepare([volume])
    margins = torch.from_numpy(smooth_noise(1, *prepared.geometry.shape))
    whole = restored(torch.cat([torch.zeros_like(margins), margins]), prepared)
    shape = prepared.geometry.shape
    box = Box.around(tuple(n // 2 for n in shape), (4, 5, 6)).clip(shape)
    shown = np.full(volume.shape, 7, np.uint8)
    patch = restore_labels_inside(margins[(..., *box.to_slices())], box, prepared.regridding, shown)
    shown[patch.box.to_slices()] = patch.labels
    indices = np.moveaxis(np.indices(volume.shape), 0, -1)
    position = apply_affine(np.linalg.inv(prepared.geometry.affine) @ volume.affine, indices)
    position = position.clip(0, np.subtract(shape, 1))  # as interpolation does
    from_border = np.minimum(position - box.start, np.subtract(box.stop, 1) - position).min(axis=-1)
    within, beyond = from_border > 1e-3, from_border < -1e-3
    assert within.sum() > 50
    assert np.array_equal(shown[within], whole[within])
    assert (shown[beyond] == 7).all()


def test_thick_slices_between_a_box_and_the_next_block_stay_as_they_are(monkeypatch):
    """A block's last slice may need nothing that lies in the box."""
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 8)
    process = preprocessing_to((1.5, 1.5, 1.5))
    thick = Volume(np.zeros((6, 6, 24), np.float32), np.diag([1.5, 1.5, 5.0, 1.0]))
    prepared = process.prepare([thick])
    depth = prepared.geometry.shape[2]
    for start in range(depth - 16):
        box = Box((0, 0, start), (6, 6, start + 16))
        patch = restore_labels_inside(
            torch.ones(1, *box.shape), box, prepared.regridding, np.full(thick.shape, 7, np.uint8)
        )
        slices = np.arange(patch.box.start[2], patch.box.stop[2]) * 5 / 1.5
        inside = (slices > start - 1e-6) & (slices < start + 15 + 1e-6)
        assert inside.sum() in (4, 5)
        assert (patch.labels == np.where(inside, 1, 7)).all()


@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_a_mask_comes_back_nearly_the_same_through_a_finer_grid(request, kind):
    volume = request.getfixturevalue(kind)
    mask = (volume.voxels > 1).astype(np.float32)
    process = preprocessing_to((1.0, 1.0, 1.0))
    prepared = process.prepare([Volume(mask, volume.affine)])
    foreground = prepared.image[0]
    found = restored(torch.stack([1 - foreground, foreground]), prepared)
    dice = 2 * (found * mask).sum() / (found.sum() + mask.sum())
    assert dice > 0.95


def test_without_resampling_a_voxel_comes_back_where_it_was(oblique):
    process = preprocessing_to(None)
    for index in [(0, 0, 0), (3, 20, 7), (16, 23, 20)]:
        voxels = np.zeros(oblique.shape, np.float32)
        voxels[index] = 1
        prepared = process.prepare([Volume(voxels, oblique.affine)])
        assert prepared.image[0][prepared.click_to_network(index)] == 1
        logits = torch.stack([1 - prepared.image[0], prepared.image[0]])
        assert np.argwhere(restored(logits, prepared)).tolist() == [list(index)]


# What does not fit


def test_channels_on_different_grids_are_refused(oblique):
    process = preprocessing_to(None, AS_IS, AS_IS)
    nudged = oblique.affine.copy()
    nudged[0, 3] += 0.5
    with pytest.raises(GeometryError, match="must share a grid"):
        process.prepare([oblique, Volume(oblique.voxels, nudged)])
    with pytest.raises(GeometryError, match="must share a grid"):
        process.prepare([oblique, Volume(oblique.voxels[1:], oblique.affine)])
    with pytest.raises(GeometryError, match="expected 2 image channels, got 1"):
        process.prepare([oblique])


def test_labels_of_another_grid_are_refused(oblique):
    process = preprocessing_to(SPACING)
    prepared = process.prepare([oblique])
    with pytest.raises(GeometryError, match="another grid than its image"):
        process.prepare_label(LabelMap(np.zeros((3, 3, 3), np.uint8), oblique.affine), prepared)


def test_voxels_that_are_not_finite_are_refused(oblique):
    voxels = oblique.voxels.copy()
    voxels[1, 2, 3] = np.nan
    with pytest.raises(UnsupportedImageError, match="NaN or infinite"):
        preprocessing_to(SPACING).prepare([Volume(voxels, oblique.affine)])
