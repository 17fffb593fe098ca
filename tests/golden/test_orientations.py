"""The real image that is stored in all 48 orientations; nibabel says where its voxels belong."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from restoring import restored
from voxclick.io import read_volume, write_label_map
from voxclick.preprocessing import (
    LogScaling,
    PercentileScaling,
    Preprocessing,
    PreprocessingSettings,
)
from voxclick.volume import LabelMap, Volume


def logits_of(image: torch.Tensor) -> torch.Tensor:
    """A made-up network: foreground above a threshold."""
    return torch.stack([torch.full_like(image[0], 0.5), image[0]])


@pytest.mark.parametrize("spacing_mm", [None, (3.3, 2.1, 4.0)])
def test_all_files_are_one_image_to_the_network(data_root, tmp_path, spacing_mm):
    paths = sorted((data_root / "orientations-48").glob("*.nii.gz"))
    assert len(paths) == 48
    process = Preprocessing(
        PreprocessingSettings(spacing_mm=spacing_mm, intensity=(PercentileScaling(),))
    )
    reference = process.prepare([read_volume(paths[0])])
    canonical_mask = None
    for path in paths:
        volume = read_volume(path)
        prepared = process.prepare([volume])
        assert torch.equal(prepared.image, reference.image)
        assert prepared.geometry.matches(reference.geometry)
        voxels = restored(logits_of(prepared.image), prepared)
        write_label_map(LabelMap(voxels, volume.affine), tmp_path / path.name)
        written = nib.load(tmp_path / path.name)
        assert written.shape == nib.load(path).shape
        assert np.array_equal(written.affine, nib.load(path).affine)
        mask = np.asarray(nib.as_closest_canonical(written).dataobj)
        canonical_mask = mask if canonical_mask is None else canonical_mask
        assert np.array_equal(mask, canonical_mask)
    assert 0.01 < np.mean(canonical_mask) < 0.99


def test_without_resampling_the_network_sees_nibabels_canonical_voxels(data_root):
    process = Preprocessing(PreprocessingSettings(intensity=(LogScaling(high=np.e - 1),)))
    for name in ("RAS", "IPL", "SLA"):
        path = data_root / "orientations-48" / f"{name}.nii.gz"
        canonical = nib.as_closest_canonical(nib.load(path))
        prepared = process.prepare([read_volume(path)])
        np.testing.assert_allclose(
            prepared.image[0], np.log1p(canonical.get_fdata().clip(0)), rtol=1e-6
        )
        np.testing.assert_allclose(prepared.geometry.affine, canonical.affine)


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_a_mask_of_the_sheared_volume_comes_back(data_root, spacing_mm):
    source = read_volume(data_root / "odd-volumes" / "shear.nii.gz")
    # a part of it, for speed, with the affine that puts it where it was
    start = (120, 160, 20)
    affine = source.affine.copy()
    affine[:3, 3] = source.geometry.to_mm(start)
    voxels = source.voxels[120:190, 160:250, 20:40]
    mask = (voxels > np.median(voxels)).astype(np.float32)
    process = Preprocessing(
        PreprocessingSettings(spacing_mm=spacing_mm, intensity=(LogScaling(high=1),))
    )
    prepared = process.prepare([Volume(mask, affine)])
    found = restored(logits_of(prepared.image), prepared)
    dice = 2 * (found * mask).sum() / (found.sum() + mask.sum())
    assert dice == 1 if spacing_mm is None else dice > 0.9
    click = prepared.click_to_network((30, 40, 10))
    there = np.array(prepared.geometry.to_mm(click))
    assert np.abs(there - source.geometry.to_mm((150, 200, 30))).max() < 2.4 / 2 + 1e-6
