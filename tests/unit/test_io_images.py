"""Image files: nibabel and SimpleITK serve as each other's oracle."""

from __future__ import annotations

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from voxclick.errors import UnsupportedImageError
from voxclick.io import (
    IMAGE_SUFFIXES,
    read_geometry,
    read_label_map,
    read_volume,
    write_label_map,
    write_volume,
)
from voxclick.volume import LabelMap, Volume

ITK_SUFFIXES = [".mha", ".mhd", ".nrrd", ".nhdr"]
VOLUME_SUFFIXES = [".nii.gz", ".nii", *ITK_SUFFIXES]
LABELS = ("background", "tumor", "node")


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


@pytest.fixture
def oblique() -> np.ndarray:
    """A left-handed oblique affine whose numbers need all their digits."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11.3, -20.7, 35.1), degrees=True).as_matrix()
    affine[:3, :3] *= (-1 / 3, 2.123456789, 3.27)
    affine[:3, 3] = (-639.631234567, 123.45678912, 1 / 7)
    return affine


def sheared(affine: np.ndarray) -> np.ndarray:
    shear = np.eye(4)
    shear[1, 2] = 0.3
    return affine @ shear


def affine_by_simpleitk(path) -> np.ndarray:
    """RAS+ affine as SimpleITK understands a file, worked out point by point."""
    image = sitk.ReadImage(str(path))
    origin, *steps = (
        np.array(image.TransformContinuousIndexToPhysicalPoint(index)) * (-1, -1, 1)
        for index in [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    )
    affine = np.eye(4)
    affine[:3, 3] = origin
    affine[:3, :3] = np.stack([step - origin for step in steps], axis=1)
    return affine


def save_nifti(path, voxels, **header) -> None:
    image = nib.Nifti1Image(voxels, np.diag([2.0, 3, 4, 1]))
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)


def save_patched_nifti(path, voxels, offset: int, dtype: str, values) -> None:
    """A NIfTI-1 file with some header bytes overwritten: nibabel would correct them."""
    content = bytearray(nib.Nifti1Image(voxels, np.diag([2.0, 3, 4, 1])).to_bytes())
    patch = np.array(values, dtype=dtype).tobytes()
    content[offset : offset + len(patch)] = patch
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_what_is_written_is_read_again(tmp_path, voxels, oblique, suffix):
    path = tmp_path / f"image{suffix}"
    write_volume(Volume(voxels, oblique), path)
    volume = read_volume(path)
    assert volume.path == path
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, voxels)
    # NIfTI keeps its affine in float32
    np.testing.assert_allclose(volume.affine, oblique, rtol=1e-7, atol=1e-7)
    geometry = read_geometry(path)
    assert geometry.shape == (5, 6, 7)
    assert np.array_equal(geometry.affine, volume.affine)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_other_programs_read_the_same(tmp_path, voxels, oblique, suffix):
    path = tmp_path / f"image{suffix}"
    write_volume(Volume(voxels, oblique), path)
    np.testing.assert_allclose(affine_by_simpleitk(path), oblique, rtol=1e-5, atol=1e-4)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.array_equal(found.transpose(2, 1, 0), voxels)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_files_of_simpleitk_are_turned_to_ras_and_array_order(tmp_path, suffix):
    image = sitk.Image((4, 5, 6), sitk.sitkInt16)
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image[1, 2, 3] = -7
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert np.argwhere(volume.voxels).tolist() == [[1, 2, 3]]
    assert volume.voxels[1, 2, 3] == -7
    assert volume.geometry.to_mm((0, 0, 0)) == (-10, -20, 30)
    assert volume.geometry.to_mm((1, 1, 1)) == (-12, -23, 34)


def test_suffixes_in_capitals_are_the_same_formats(tmp_path, voxels):
    for suffix in VOLUME_SUFFIXES:
        path = tmp_path / f"image{suffix.upper()}"
        write_volume(Volume(voxels, np.eye(4)), path)
        assert np.array_equal(read_volume(path).voxels, voxels)


def test_scaling_of_the_header_is_applied_to_images_and_labels(tmp_path):
    stored = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    path = tmp_path / "scaled.nii"
    save_patched_nifti(path, stored, 112, "<f4", (0.5, -3))  # scl_slope, scl_inter
    assert np.array_equal(read_volume(path).voxels, stored * 0.5 - 3)
    save_patched_nifti(path, (stored > 20).astype(np.uint8) * 255, 112, "<f4", 2 / 255)
    label_map = read_label_map(path, LABELS)
    assert label_map.voxels.dtype == np.uint8
    assert np.array_equal(label_map.mask("node"), stored > 20)


@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize("sform_code", [0, 1])
def test_the_affine_of_a_nifti_file_is_nibabels(tmp_path, voxels, oblique, qform_code, sform_code):
    image = nib.Nifti1Image(voxels, None)
    image.set_qform(oblique, code=qform_code)
    image.set_sform(np.diag([1.0, 2, 3, 1]), code=sform_code)
    path = tmp_path / "image.nii"
    nib.save(image, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = read_volume(path)
    assert np.array_equal(volume.affine, nib.load(path).affine)
    neither = qform_code == sform_code == 0
    assert len(caught) == neither
    if neither:
        assert str(path) in str(caught[0].message)
        assert "no sform, no qform" in str(caught[0].message)


def test_lengths_that_are_not_mm_are_named(tmp_path, voxels):
    path = tmp_path / "microscopy.nii"
    save_nifti(path, voxels, xyzt_units=3)
    with pytest.warns(UserWarning, match="micrometres"):
        assert read_volume(path).spacing_mm == (2, 3, 4)


def test_nifti_gets_a_qform_only_where_it_can_say_the_same(tmp_path, voxels, oblique):
    path = tmp_path / "image.nii.gz"
    write_volume(Volume(voxels, oblique), path)
    header = nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    write_volume(Volume(voxels, sheared(oblique)), path)
    header = nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(read_volume(path).affine, sheared(oblique), rtol=1e-6)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_a_sheared_volume_is_not_written_where_it_cannot_be_stored(
    tmp_path, voxels, oblique, suffix
):
    with pytest.raises(UnsupportedImageError, match=r"not at right angles.*write \.nii\.gz"):
        write_volume(Volume(voxels, sheared(oblique)), tmp_path / f"image{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_label_maps_take_the_smallest_type_and_keep_their_values(tmp_path, oblique, suffix):
    few = np.zeros((3, 4, 5), np.int64)
    few[1, 2, 3] = 2
    many = np.full((3, 4, 5), 300, np.int32)
    path = tmp_path / f"label{suffix}"
    for indices, stored in ((few, np.uint8), (many, np.uint16)):
        write_label_map(LabelMap(indices, oblique), path)
        by_other = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
        assert by_other.dtype == stored
        assert np.array_equal(by_other, indices)
    write_label_map(LabelMap(few, oblique), path)
    label_map = read_label_map(path, LABELS)
    assert label_map.voxels.dtype == np.uint8
    assert label_map.labels == LABELS
    assert np.argwhere(label_map.mask("node")).tolist() == [[1, 2, 3]]


def test_labels_stored_as_floats_are_accepted_when_whole(tmp_path):
    path = tmp_path / "label.nii.gz"
    save_nifti(path, np.full((3, 3, 3), 2.0, np.float64))
    assert read_label_map(path, LABELS).mask("node").all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "whole numbers"),
        (np.nan, "whole numbers"),
        (np.inf, "whole numbers"),
        (3.0, "no label was declared for: 3; declared are 0 background, 1 tumor, 2 node"),
        (-1.0, "no label was declared for: -1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_that_are_no_label_are_refused(tmp_path, value, message):
    indices = np.zeros((3, 3, 3))
    indices[1, 1, 1] = value
    path = tmp_path / "label.nii.gz"
    save_nifti(path, indices)
    with pytest.raises(UnsupportedImageError, match=message) as caught:
        read_label_map(path, LABELS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_single_bad_voxels_are_filled_with_the_smallest_value(tmp_path, voxels, suffix):
    path = tmp_path / f"image{suffix}"
    broken = voxels.copy()
    broken[0, 0, 0], broken[1, 1, 1], broken[2, 2, 2] = np.nan, np.inf, -np.inf
    write_volume(Volume(broken, np.eye(4)), path)
    with pytest.warns(UserWarning, match="3 voxels are NaN or infinite") as caught:
        filled = read_volume(path).voxels
    assert str(path) in str(caught[0].message)
    bad = ~np.isfinite(broken)
    assert (filled[bad] == broken[~bad].min()).all()
    assert np.array_equal(filled[~bad], broken[~bad])


@pytest.mark.parametrize("shape", [(5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_one_frame_is_one_volume(tmp_path, voxels, shape):
    path = tmp_path / "image.nii.gz"
    save_nifti(path, voxels.reshape(shape))
    assert np.array_equal(read_volume(path).voxels, voxels)
    assert read_geometry(path).shape == (5, 6, 7)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_file_of_two_axes_is_one_slice(tmp_path, voxels, suffix):
    image = sitk.GetImageFromArray(voxels[..., 0].T)
    image.SetSpacing((2, 3))
    image.SetOrigin((10, 20))
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, voxels[..., :1])
    expected = np.array([[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(volume.affine, expected)


@pytest.mark.parametrize("axis", range(3))
def test_a_slice_may_lie_along_any_axis(tmp_path, voxels, oblique, axis):
    a_slice = voxels.take([2], axis)
    for suffix in VOLUME_SUFFIXES:
        path = tmp_path / f"image{suffix}"
        write_volume(Volume(a_slice, oblique), path)
        volume = read_volume(path)
        assert np.array_equal(volume.voxels, a_slice)
        np.testing.assert_allclose(volume.affine, oblique, rtol=1e-7, atol=1e-7)


def test_one_frame_of_an_mha_is_one_volume(tmp_path, voxels):
    path = tmp_path / "image.mha"
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing((2, 3, 4))
    sitk.WriteImage(sitk.JoinSeries([image]), str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, voxels)
    assert np.array_equal(volume.affine, np.diag([-2, -3, 4, 1]))


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((5, 6, 7, 2), np.float32), "2 frames"),
        (np.zeros((5, 6, 7, 1, 3), np.float32), "3 frames"),
        (np.zeros((5, 6, 7), np.complex64), "complex"),
        (np.zeros((5, 6, 7), RGB), "3 values"),
        (np.zeros((5, 0, 7), np.float32), "empty"),
        (np.zeros((5, 6, 2), np.float32), "5 x 6 x 2 voxels, expected at least 3"),
        (np.zeros((5, 2), np.float32), "5 x 2 x 1 voxels, expected at least 3"),
        (np.zeros((5, 1, 1), np.float32), "5 x 1 x 1 voxels, expected at least 3"),
        (np.full((5, 6, 7), np.nan, np.float32), "not one voxel"),
        (np.full((5, 6, 7), np.inf, np.float32), "not one voxel"),
    ],
)
def test_nifti_that_is_not_one_volume_is_refused(tmp_path, voxels, message):
    path = tmp_path / "image.nii"
    save_nifti(path, voxels)
    with pytest.raises(UnsupportedImageError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def vector_image() -> sitk.Image:
    return sitk.Image((5, 6, 7), sitk.sitkVectorUInt8, 3)


def complex_image() -> sitk.Image:
    return sitk.Image((5, 6, 7), sitk.sitkComplexFloat32)


def two_frames() -> sitk.Image:
    return sitk.JoinSeries([sitk.Image((5, 6, 7), sitk.sitkUInt8)] * 2)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (vector_image, "3 values"),
        (two_frames, "2 frames"),
        (lambda: sitk.Image((5, 2, 7), sitk.sitkUInt8), "5 x 2 x 7 voxels"),
        (lambda: sitk.Image((5, 2), sitk.sitkUInt8), "5 x 2 x 1 voxels"),
    ],
)
def test_itk_files_that_are_not_one_volume_are_refused(tmp_path, suffix, image, message):
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image(), str(path))
    with pytest.raises(UnsupportedImageError, match=message):
        read_volume(path)


def test_a_complex_nrrd_is_refused(tmp_path):
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(complex_image(), str(path))
    with pytest.raises(UnsupportedImageError, match="complex"):
        read_volume(path)


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 1, 0, 1]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag([1.0, np.nan, 1, 1]),
    ],
)
def test_an_affine_that_places_nothing_is_refused(tmp_path, voxels, affine):
    path = tmp_path / "image.nii"
    save_patched_nifti(path, voxels, 280, "<f4", affine[:3])  # srow_x, srow_y, srow_z
    with pytest.raises(UnsupportedImageError, match="does not place the voxels") as caught:
        read_geometry(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".dcm", ""])
def test_missing_files_folders_and_unknown_suffixes_are_refused(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    with pytest.raises(UnsupportedImageError, match="no such file"):
        read_volume(path)
    path.mkdir()
    with pytest.raises(UnsupportedImageError, match="folder"):
        read_volume(path)


def test_unknown_suffixes_are_refused_with_the_known_ones(tmp_path, voxels):
    path = tmp_path / "image.dcm"
    path.write_bytes(b"DICM")
    with pytest.raises(UnsupportedImageError, match=r"\.nii\.gz, \.nii, \.mha"):
        read_volume(path)
    with pytest.raises(UnsupportedImageError, match=r"\.nii\.gz, \.nii, \.mha"):
        write_volume(Volume(voxels, np.eye(4)), path)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x1f\x8b\x08\x00" + bytes(400)])
def test_files_of_something_else_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnsupportedImageError, match="damaged"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_files_that_are_cut_off_are_refused(tmp_path, voxels, suffix, kept):
    path = tmp_path / f"image{suffix}"
    write_volume(Volume(voxels, np.eye(4)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UnsupportedImageError, match=r"damaged|cut off") as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_a_missing_voxel_file_is_named_as_a_cause(tmp_path, voxels):
    path = tmp_path / "image.mhd"
    write_volume(Volume(voxels, np.eye(4)), path)
    (tmp_path / "image.zraw").unlink()
    with pytest.raises(UnsupportedImageError, match="voxel file it names is missing"):
        read_volume(path)


def test_one_flipped_bit_in_compressed_nifti_is_found_by_its_checksum(tmp_path, voxels):
    path = tmp_path / "image.nii.gz"
    raw = nib.Nifti1Image(voxels, np.eye(4)).to_bytes()
    content = bytearray(gzip.compress(raw, compresslevel=0))
    content[-100] ^= 1  # stored uncompressed, it would pass for another value of that voxel
    path.write_bytes(content)
    with pytest.raises(UnsupportedImageError, match="CRC"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("place", [0.5, 0.9])
def test_one_flipped_bit_in_compressed_voxels_is_found(tmp_path, voxels, suffix, place):
    write_volume(Volume(voxels, np.eye(4)), tmp_path / f"image{suffix}")
    voxel_file = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(voxel_file.read_bytes())
    content[int(place * len(content))] ^= 1
    voxel_file.write_bytes(content)
    with pytest.raises(UnsupportedImageError, match="damaged"):
        read_volume(tmp_path / f"image{suffix}")


def test_a_header_that_promises_terabytes_is_refused_without_them(tmp_path, voxels):
    path = tmp_path / "image.nii"
    save_patched_nifti(path, voxels, 42, "<i2", [32767] * 3)  # dim
    with pytest.raises(UnsupportedImageError, match="cut off"):
        read_volume(path)


def test_voxels_stay_when_the_file_goes(tmp_path, voxels):
    path = tmp_path / "image.nii"
    write_volume(Volume(voxels, np.eye(4)), path)
    volume = read_volume(path)
    assert type(volume.voxels) is np.ndarray
    path.write_bytes(b"")
    assert np.array_equal(volume.voxels, voxels)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_writing_makes_folders_replaces_files_and_leaves_nothing_else(tmp_path, voxels, suffix):
    path = tmp_path / "new" / "folder" / f"image{suffix}"
    write_volume(Volume(voxels, np.eye(4)), path)
    names = sorted(file.name for file in path.parent.iterdir())
    assert path.name in names
    assert len(names) == (2 if suffix in (".mhd", ".nhdr") else 1)
    write_volume(Volume(voxels + 1, np.eye(4)), path)
    assert sorted(file.name for file in path.parent.iterdir()) == names
    assert np.array_equal(read_volume(path).voxels, voxels + 1)


def test_a_failed_write_leaves_the_older_file(tmp_path, voxels, monkeypatch):
    path = tmp_path / "image.nii.gz"
    write_volume(Volume(voxels, np.eye(4)), path)
    before = path.read_bytes()

    def full_disk(image, name):
        name.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_volume(Volume(voxels + 1, np.eye(4)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["image.nii.gz"]


@pytest.mark.parametrize("dtype", [np.bool_, np.float64, np.float16, np.int64, np.int8, ">f4"])
def test_any_real_type_can_be_written(tmp_path, dtype):
    values = np.array([0, 1, 0, 1] * 9).reshape(3, 3, 4).astype(dtype)
    for suffix in (".nii.gz", ".mha", ".nrrd"):
        path = tmp_path / f"image{suffix}"
        write_volume(Volume(values, np.eye(4)), path)
        assert np.array_equal(read_volume(path).voxels, values.astype(np.float32))
