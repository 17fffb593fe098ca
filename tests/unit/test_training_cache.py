"""The cache of prepared cases: never stale, never in the way."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from voxclick.datasets import Case
from voxclick.errors import DatasetError
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.training.cache import PreparedCache

LABELS = ("background", "tumor")


def settings(high=10.0, spacing=None):
    return PreprocessingSettings(spacing_mm=spacing, intensity=(RangeScaling(low=0, high=high),))


@pytest.fixture
def case(tmp_path):
    for name, dtype in (("image", np.float32), ("label", np.uint8)):
        voxels = np.zeros((6, 7, 8), dtype=dtype)
        voxels[2:4, 2:4, 2:4] = 1
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) * 2), tmp_path / f"{name}.nii")
    return Case("one", (tmp_path / "image.nii",), tmp_path / "label.nii")


def test_what_is_found_equals_what_is_prepared(case, tmp_path):
    fresh = PreparedCache(None, settings(), LABELS).get(case)
    cache = PreparedCache(tmp_path / "cache", settings(), LABELS)
    for prepared in (cache.get(case), cache.get(case)):
        assert torch.equal(prepared.image, fresh.image)
        assert torch.equal(prepared.label, fresh.label)
        assert (prepared.name, prepared.spacing_mm) == ("one", (2.0, 2.0, 2.0))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_found_case_is_not_read_again(case, tmp_path):
    cache = PreparedCache(tmp_path / "cache", settings(), LABELS)
    cache.get(case)
    path = case.images[0]
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)  # another content that pretends to be the same file
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.get(case).image.max() > 0


def test_the_key_changes_with_data_settings_and_labels(case, tmp_path):
    key = PreparedCache(tmp_path, settings(), LABELS).key(case)
    assert PreparedCache(tmp_path, settings(), LABELS).key(case) == key
    others = [
        PreparedCache(tmp_path, settings(high=11), LABELS).key(case),
        PreparedCache(tmp_path, settings(spacing=(3, 3, 3)), LABELS).key(case),
        PreparedCache(tmp_path, settings(), ("background", "lesion")).key(case),
    ]
    stat = case.label.stat()
    os.utime(case.label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    others.append(PreparedCache(tmp_path, settings(), LABELS).key(case))
    assert len({key, *others}) == 5


@pytest.mark.parametrize(("suffix", "voxel_file"), [(".mhd", "one.raw"), (".nhdr", "one.raw")])
def test_voxels_beside_a_detached_header_are_part_of_the_key(suffix, voxel_file, case, tmp_path):
    header = tmp_path / f"one{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((8, 7, 6), np.float32)), str(header))
    assert (tmp_path / voxel_file).is_file()
    detached = Case("one", (header,), header)
    cache = PreparedCache(None, settings(), LABELS)
    key = cache.key(detached)
    stat = (tmp_path / voxel_file).stat()
    os.utime(tmp_path / voxel_file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache.key(detached) != key


def test_slices_that_a_header_lists_are_part_of_the_key(tmp_path):
    header = tmp_path / "one.mhd"
    header.write_text("NDims = 3\nElementDataFile = LIST\na.raw\nb.raw\n")
    (tmp_path / "a.raw").write_bytes(b"1")
    cache = PreparedCache(None, settings(), LABELS)
    key = cache.key(Case("one", (header,), header))
    (tmp_path / "a.raw").write_bytes(b"22")
    assert cache.key(Case("one", (header,), header)) != key


def test_a_damaged_file_is_prepared_again(case, tmp_path, caplog):
    cache = PreparedCache(tmp_path / "cache", settings(), LABELS)
    first = PreparedCache(None, settings(), LABELS).get(case)
    cache.get(case)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    assert torch.equal(cache.get(case).image, first.image)
    assert "damaged" in caplog.text
    assert torch.equal(cache.get(case).label, first.label)


def test_a_case_without_label_is_refused(case, tmp_path):
    with pytest.raises(DatasetError, match="one: has no label"):
        PreparedCache(None, settings(), LABELS).get(Case("one", case.images, None))
