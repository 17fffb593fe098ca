"""Volumes that are kept in files, by lowering the size from which they are."""

from __future__ import annotations

import errno
import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from voxclick import Click, InteractiveSession, Volume, read_volume, write_label_map
from voxclick.errors import UnsupportedImageError
from voxclick.guidance import DiskGuidance
from voxclick.memory_map import is_mapped, release, slabs, temporary_map
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.percentiles import percentiles
from voxclick.preprocessing import (
    PercentileScaling,
    Preprocessing,
    PreprocessingSettings,
    RangeScaling,
)
from voxclick.sliding_window import CacheSettings, SlidingWindows


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr("voxclick.memory_map.LARGE_BYTES", 0)
    monkeypatch.setattr("voxclick.memory_map._SLAB_BYTES", 1000)
    monkeypatch.setattr("voxclick.io.nifti._SLAB_BYTES", 1000)


def stored(path, scaled, nan=False):
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(13, 17, 11)).astype(np.float32)
    if nan:
        voxels[3, 4, 5] = np.nan
        voxels[0, 0, 0] = -np.inf
    if scaled:
        voxels = (voxels * 100).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([-2.0, 1.5, 3.0, 1.0]))
    if scaled:
        image.header.set_slope_inter(0.25, 3)
    nib.save(image, path)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_large_file_is_read_as_a_small_one(suffix, scaled, tmp_path, monkeypatch, request):
    path = tmp_path / f"image{suffix}"
    stored(path, scaled)
    small = read_volume(path)
    request.getfixturevalue("all_are_large")
    large = read_volume(path)
    assert isinstance(large.voxels.base, np.memmap)
    assert large.voxels.dtype == np.float32
    assert np.array_equal(large.voxels, small.voxels)
    assert np.array_equal(large.affine, small.affine)


def test_missing_voxels_are_filled_alike(tmp_path, request):
    path = tmp_path / "image.nii"
    stored(path, scaled=False, nan=True)
    with pytest.warns(UserWarning, match="2 voxels are NaN or infinite"):
        small = read_volume(path)
    request.getfixturevalue("all_are_large")
    with pytest.warns(UserWarning, match="2 voxels are NaN or infinite"):
        large = read_volume(path)
    assert np.array_equal(large.voxels, small.voxels)
    assert small.voxels[3, 4, 5] == small.voxels.min()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_large_file_that_is_cut_off_is_refused(suffix, tmp_path, all_are_large):
    path = tmp_path / f"image{suffix}"
    stored(path, scaled=False)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnsupportedImageError, match=r"image.nii.*(cut off|damaged)"):
        read_volume(path)


def test_a_large_file_whose_content_is_cut_off_is_named_as_it_is_called(tmp_path, all_are_large):
    path = tmp_path / "image.nii.gz"
    stored(path, scaled=False)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-200]))
    with pytest.raises(UnsupportedImageError, match=r"^\S*/image\.nii\.gz: the file is cut off"):
        read_volume(path)


def test_a_large_file_that_there_is_no_room_for_is_not_called_damaged(
    tmp_path, all_are_large, monkeypatch
):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "image.nii.gz"
    stored(path, scaled=False)
    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(
        UnsupportedImageError, match=r"image\.nii\.gz: there is no room in .*TMPDIR"
    ):
        read_volume(path)


@pytest.mark.parametrize("spacing", [None, (1.7, 2.2, 2.5)])
def test_a_session_on_a_large_volume_is_one_on_a_small(spacing, tmp_path, request):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(3, 2, 3, padding=1).eval()
    settings = ModelSettings(
        labels=("background", "tumor"),
        channels=("PET",),
        preprocessing=PreprocessingSettings(spacing_mm=spacing, intensity=(PercentileScaling(),)),
        guidance=DiskGuidance(),
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=(16, 16, 16), precision="float32"),
    )
    path = tmp_path / "image.nii"
    stored(path, scaled=False)

    def answer():
        cache = CacheSettings(host_gib=0, disk_gib=1, folder=tmp_path)
        session = InteractiveSession(
            Model(settings, network, torch.device("cpu")), read_volume(path), cache=cache
        )
        session.predict()
        session.add([Click((3, 4, 5), "tumor"), Click((10, 10, 2), "background")])
        return session.predict().label_map

    small = answer()
    request.getfixturevalue("all_are_large")
    large = answer()
    assert isinstance(large.voxels, np.memmap)
    assert np.array_equal(large.voxels, small.voxels)
    assert 0 < small.voxels.mean() < 1
    write_label_map(large, tmp_path / "mask.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), small.voxels)
    assert written.get_data_dtype() == np.uint8


def test_a_copy_in_memory_of_what_is_mapped_is_not_mapped():
    mapped = temporary_map((5, 6), np.float32)
    assert is_mapped(mapped)
    assert is_mapped(mapped[2:].T)
    assert not is_mapped(mapped.copy())
    assert not is_mapped(np.zeros(3))


def test_released_pages_are_still_there():
    mapped = temporary_map((50, 60), np.float32)
    mapped[:] = np.arange(3000).reshape(50, 60)
    release(mapped[3:].T)
    assert np.array_equal(mapped, np.arange(3000).reshape(50, 60))
    release(np.zeros(3))


def test_what_was_written_to_a_copy_on_write_map_stays(tmp_path):
    path = tmp_path / "image.nii"
    stored(path, scaled=False)
    written = np.asanyarray(nib.load(path).dataobj)  # so nibabel maps by default
    assert written.mode == "c"
    written[:] = 7
    written[0, 0, 0] = 9
    scaling = RangeScaling(low=7, high=9)
    prepared = Preprocessing(PreprocessingSettings(intensity=(scaling,))).prepare(
        [Volume(written, np.eye(4))]
    )
    release(written[1:].view(np.ndarray).T)
    assert prepared.image.sum() == 1
    assert (written.sum(), written[0, 0, 0]) == (7 * written.size + 2, 9)


@given(
    array=hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3)),
    order=st.permutations(range(3)),
)
def test_slabs_are_the_array(array, order):
    array = array.transpose(order)
    total = sum(part.astype(int).sum() for part in slabs(array))
    assert total == array.astype(int).sum()


@given(
    numbers=hnp.arrays(
        np.float32,
        st.integers(1, 50),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    wanted=st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_percentiles_are_numpys(numbers, wanted):
    found = percentiles(lambda: np.array_split(numbers, 3), wanted)
    expected = np.percentile(numbers.astype(np.float64), wanted)
    scale = float(np.abs(numbers).max())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


def test_a_constant_image_is_zero_and_a_single_hot_voxel_is_seen():
    process = Preprocessing(PreprocessingSettings(intensity=(PercentileScaling(),)))
    voxels = np.full((20, 20, 20), 7, np.float32)
    assert not process.prepare([Volume(voxels, np.eye(4))]).image.any()
    voxels[4, 5, 6] = 9
    image = process.prepare([Volume(voxels, np.eye(4))]).image
    assert image.max() == 1
    assert image.min() == 0
