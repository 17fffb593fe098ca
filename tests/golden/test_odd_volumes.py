"""Every file of odd-volumes is read right, or refused in one clear sentence.

Where a value is given, it was read off the file by a second program: SimpleITK for NIfTI, and for
the MHA its text header and raw voxels.
"""

from __future__ import annotations

import re
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from voxclick.errors import UnsupportedImageError
from voxclick.io import read_geometry, read_volume, write_label_map
from voxclick.volume import LabelMap

REFUSED = {
    "complex.nii.gz": "complex",
    "ct_perfusion.nii.gz": "3 values .*colour",
    "pcasl.nii.gz": "10 frames",
    "stats.nv_demo_mskd.nii.gz": "2 frames",
}
READ = {
    "low_res.nii.gz": (7, 5, 3),
    "mha.mha": (64, 64, 37),
    "minimal.nii.gz": (64, 64, 10),
    "shear.nii.gz": (306, 422, 54),
    "spmMotor.nii.gz": (79, 95, 79),
}


def test_every_file_has_its_case(data_root):
    names = {file.name for file in (data_root / "odd-volumes").iterdir()}
    assert names == REFUSED.keys() | READ.keys()


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_refused(data_root, name, message):
    path = data_root / "odd-volumes" / name
    for read in (read_volume, read_geometry):
        with pytest.raises(UnsupportedImageError, match=message) as caught:
            read(path)
        text = str(caught.value)
        assert text.startswith(str(path))
        assert "export" in text  # what to do
        assert "\n" not in text
        assert len(re.findall(r"\. ", text)) == 0  # one sentence


@pytest.mark.parametrize(("name", "shape"), READ.items())
@pytest.mark.filterwarnings("ignore:.*no sform, no qform")
def test_read_with_the_voxels_that_simpleitk_finds(data_root, name, shape):
    path = data_root / "odd-volumes" / name
    volume = read_volume(path)
    assert volume.shape == shape
    assert volume.voxels.dtype == np.float32
    assert np.isfinite(volume.voxels).all()
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)).T
    np.testing.assert_allclose(volume.voxels, other, rtol=1e-6)
    assert np.array_equal(read_geometry(path).affine, volume.affine)


@pytest.mark.parametrize("name", ["low_res.nii.gz", "spmMotor.nii.gz"])
def test_affines_that_simpleitk_finds(data_root, name):
    path = data_root / "odd-volumes" / name
    image = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(read_volume(path).affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)


def test_without_qform_and_sform_there_is_a_warning(data_root):
    path = data_root / "odd-volumes" / "minimal.nii.gz"
    with pytest.warns(UserWarning, match="no sform, no qform") as caught:
        volume = read_volume(path)
    assert str(path) in str(caught[0].message)
    assert np.array_equal(volume.affine, nib.load(path).affine)


def test_mha_is_what_its_text_header_says(data_root):
    path = data_root / "odd-volumes" / "mha.mha"
    content = path.read_bytes()
    head, _, data = content.partition(b"ElementDataFile = LOCAL\n")
    fields = dict(line.split(" = ", 1) for line in head.decode().strip().splitlines())
    assert (fields["ElementType"], fields["CompressedData"]) == ("MET_SHORT", "True")
    shape = [int(n) for n in fields["DimSize"].split()]
    # the file runs through i fastest
    voxels = np.frombuffer(zlib.decompress(data), "<i2").reshape(shape, order="F")
    # MetaImage writes one direction after the other, in LPS
    directions = np.array(fields["TransformMatrix"].split(), float).reshape(3, 3).T
    spacing = np.array(fields["ElementSpacing"].split(), float)
    to_ras = np.diag([-1.0, -1, 1])
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(
        volume.affine[:3, :3], to_ras @ directions @ np.diag(spacing), atol=1e-6
    )
    offset = np.array(fields["Offset"].split(), float)
    np.testing.assert_allclose(volume.affine[:3, 3], to_ras @ offset, atol=1e-6)


def test_a_mask_of_the_sheared_volume_lies_where_the_volume_lies(data_root, tmp_path):
    geometry = read_geometry(data_root / "odd-volumes" / "shear.nii.gz")
    mask = np.zeros(geometry.shape, np.uint8)
    mask[100:120, 200:230, 20:30] = 1
    write_label_map(LabelMap(mask, geometry.affine), tmp_path / "mask.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(written.affine, geometry.affine)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), mask)
    with pytest.raises(UnsupportedImageError, match=r"write \.nii\.gz"):
        write_label_map(LabelMap(mask, geometry.affine), tmp_path / "mask.mha")


@pytest.mark.parametrize("name", ["brain1_image.nrrd", "brain2_image.nrrd"])
def test_nrrd_against_simpleitk(data_root, name):
    path = data_root / "brain-tumour-nrrd" / name
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image).T)
    for index in [(0, 0, 0), (10, 20, 5), (255, 0, 22)]:
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert volume.geometry.to_mm(index) == pytest.approx((-x, -y, z))
