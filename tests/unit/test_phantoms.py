"""Phantoms: what they promise about lesions, uptake and geometry."""

from __future__ import annotations

import json

import cc3d
import nibabel
import numpy as np
import pytest

from voxclick.datasets import read_dataset
from voxclick.datasets.phantom_folder import write_phantom_dataset
from voxclick.errors import UsageError
from voxclick.phantoms import PhantomSettings, make_phantom

SEEDS = range(12)


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(seed) for seed in SEEDS]


def test_a_seed_makes_the_same_bits(phantoms):
    again = make_phantom(3)
    assert np.array_equal(again.image.voxels, phantoms[3].image.voxels)
    assert np.array_equal(again.label.voxels, phantoms[3].label.voxels)
    assert np.array_equal(again.image.affine, phantoms[3].image.affine)
    assert again.lesions == phantoms[3].lesions


def test_every_lesion_is_one_component_of_its_stated_volume(phantoms):
    for phantom in phantoms:
        components, count = cc3d.connected_components(
            np.ascontiguousarray(phantom.label.voxels), connectivity=26, return_N=True
        )
        sizes = np.bincount(components.ravel())[1:] * phantom.label.geometry.voxel_volume_ml
        assert count == len(phantom.lesions)
        stated = sorted(lesion.volume_ml for lesion in phantom.lesions)
        assert sorted(sizes.tolist()) == pytest.approx(stated)


def test_lesion_centres_are_in_the_images_own_millimetres(phantoms):
    for phantom in phantoms:
        near = np.zeros(phantom.label.shape, dtype=bool)
        for lesion in phantom.lesions:
            i, j, k = phantom.image.geometry.to_index(lesion.centre_mm)
            around = tuple(slice(max(0, x - 4), x + 5) for x in (i, j, k))
            near[around] = True
            assert phantom.label.voxels[around].any()


def test_numbers_of_lesions_stay_within_what_was_asked():
    counts = [len(make_phantom(s, PhantomSettings(lesions=(2, 5))).lesions) for s in range(8)]
    assert min(counts) >= 2
    assert max(counts) <= 5
    assert not make_phantom(0, PhantomSettings(lesions=(0, 0))).lesions


def test_lesions_stay_within_the_volumes_and_uptakes_that_were_asked_for():
    settings = PhantomSettings(region="torso", spacing_mm=(5, 5, 5), lesions=(12, 20))
    lesions = [lesion for seed in range(6) for lesion in make_phantom(seed, settings).lesions]
    assert len(lesions) > 40
    assert all(0.2 <= lesion.volume_ml <= 150 for lesion in lesions)
    # the texture varies the uptake by 15 %, and a dead middle lowers the mean
    assert all(0.5 <= lesion.suv <= 25 * 1.1 for lesion in lesions)


def test_some_phantoms_are_lesion_free_and_most_are_not():
    settings = PhantomSettings(region="torso", spacing_mm=(8, 8, 8))
    free = sum(not make_phantom(seed, settings).lesions for seed in range(60))
    # 15 % of 60 is 9; three standard deviations of the binomial are 8.3
    assert 1 <= free <= 17


def test_uptake_is_that_of_a_pet(phantoms):
    for phantom in phantoms:
        voxels = phantom.image.voxels
        assert voxels.dtype == np.float32
        assert voxels.min() >= 0
        assert np.median(voxels[voxels > 0.3]) < 1.5  # mostly muscle
        assert voxels.max() > 4  # brain and bladder


def test_no_threshold_finds_the_lesions(phantoms):
    def dice(phantom, threshold):
        found, truth = phantom.image.voxels > threshold, phantom.label.voxels > 0
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    with_lesions = [phantom for phantom in phantoms if phantom.lesions]
    for threshold in (2.5, 4.0, 8.0):
        assert np.mean([dice(phantom, threshold) for phantom in with_lesions]) < 0.3


def test_spacing_is_drawn_or_given():
    assert make_phantom(0, PhantomSettings(spacing_mm=(6, 6, 5))).image.spacing_mm == (6, 6, 5)
    spacings = {make_phantom(seed).image.spacing_mm for seed in range(4)}
    assert len(spacings) == 4
    for x, y, z in spacings:
        assert x == pytest.approx(y)
        assert 3.6 <= x <= 5
        assert 3 <= z <= 5


def test_the_torso_is_shorter(phantoms):
    torso = make_phantom(0, PhantomSettings(region="torso"))
    assert torso.image.shape[2] < phantoms[0].image.shape[2]
    assert torso.image.shape[:2] == phantoms[0].image.shape[:2]


def test_folders_are_read_back_and_do_not_depend_on_their_length(tmp_path):
    settings = PhantomSettings(region="torso", spacing_mm=(8, 8, 8))
    told = []
    write_phantom_dataset(
        tmp_path / "five", cases=5, seed=4, settings=settings, on_case=told.append
    )
    write_phantom_dataset(tmp_path / "two", cases=2, seed=4, settings=settings, test_fraction=0)
    dataset = read_dataset(tmp_path / "five")
    assert [case.name for case in dataset.train] == [f"PHANTOM_{i:03d}" for i in range(4)]
    assert [case.name for case in dataset.test] == ["PHANTOM_004"] == told[-1:]
    assert dataset.channels == ("PET",)
    assert dataset.labels == ("background", "tumor")
    assert json.loads((tmp_path / "five/dataset.json").read_text())["numTraining"] == 4
    same = [
        nibabel.load(tmp_path / name / "imagesTr/PHANTOM_001.nii.gz").get_fdata()
        for name in ("five", "two")
    ]
    assert np.array_equal(*same)
    with pytest.raises(UsageError, match="not empty"):
        write_phantom_dataset(tmp_path / "five", cases=1, seed=0)
