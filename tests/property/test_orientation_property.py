"""However a volume is stored, the network sees the same and clicks land in the same place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from restoring import restored
from voxclick.preprocessing import (
    PercentileScaling,
    PreparedImage,
    Preprocessing,
    PreprocessingSettings,
)
from voxclick.volume import LabelMap, Volume

STORAGES = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)
"""All 48 ways to store a volume: order of the axes, direction of each."""

SHAPE = (9, 7, 8)

angles = st.tuples(*[st.floats(-180, 180)] * 3)
lengths = st.tuples(*[st.floats(0.4, 6)] * 3)
shears = st.tuples(*[st.floats(-0.3, 0.3)] * 3)
origins = st.tuples(*[st.floats(-1000, 1000)] * 3)
indices = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))


def affine_of(angles, spacing, shear, origin) -> np.ndarray:
    affine, slant = np.eye(4), np.eye(3)
    slant[0, 1], slant[0, 2], slant[1, 2] = shear
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing) @ slant
    affine[:3, 3] = origin
    return affine


def stored_as(storage, voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with its axes permuted, then turned round; every patient position stays."""
    order, directions = storage
    voxels = voxels.transpose(order)[tuple(slice(None, None, d) for d in directions)]
    columns = affine[:3, order]
    origin = affine[:3, 3].copy()
    for axis, direction in enumerate(directions):
        if direction < 0:
            origin += columns[:, axis] * (voxels.shape[axis] - 1)
    new = np.eye(4)
    new[:3, :3], new[:3, 3] = columns * directions, origin
    return voxels, new


def stored_index(storage, index, shape=SHAPE) -> tuple[int, int, int]:
    order, directions = storage
    i, j, k = (
        index[axis] if direction > 0 else shape[axis] - 1 - index[axis]
        for axis, direction in zip(order, directions, strict=True)
    )
    return (i, j, k)


def prepare(process: Preprocessing, voxels: np.ndarray, affine: np.ndarray) -> PreparedImage:
    return process.prepare([Volume(voxels, affine)])


def logits_of(image: torch.Tensor) -> torch.Tensor:
    """A made-up network: three labels by intensity."""
    return torch.stack([torch.full_like(image[0], 0.3), image[0], 4 * image[0] - 2])


@pytest.mark.parametrize("spacing_mm", [None, (2.0, 2.5, 1.5), (0.75, 1.0, 1.5)])
@pytest.mark.parametrize(
    ("turn", "shear"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((10, -20, 15), (0, 0, 0)),
        # two axes tie for every direction of the patient
        ((0, 0, 45), (0, 0, 0)),
        ((45, 0, 45), (0, 0, 0)),
        ((45, 35.264389682754654, 0), (0, 0, 0)),
        ((10, -20, 15), (0.2, 0.1, -0.2)),
    ],
)
def test_all_48_storages_are_one_image(turn, shear, spacing_mm):
    voxels = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    affine = affine_of(turn, (1.5, 2.0, 3.0), shear, (-100.3, 1e3 / 7, 55.5))
    process = Preprocessing(
        PreprocessingSettings(spacing_mm=spacing_mm, intensity=(PercentileScaling(),))
    )
    reference = prepare(process, voxels, affine)
    mask = restored(logits_of(reference.image), reference)
    label = process.prepare_label(LabelMap(mask, affine), reference)
    assert set(np.unique(mask)) == {0, 1, 2}
    for storage in STORAGES:
        prepared = prepare(process, *stored_as(storage, voxels, affine))
        assert torch.equal(prepared.image, reference.image)
        assert prepared.geometry.matches(reference.geometry, tolerance_mm=1e-9)
        expected, stored_affine = stored_as(storage, mask, affine)
        found = restored(logits_of(prepared.image), prepared)
        assert np.array_equal(found, expected)
        stored_label = process.prepare_label(LabelMap(expected, stored_affine), prepared)
        assert torch.equal(stored_label, label)
        for index in [(0, 0, 0), (8, 6, 7), (3, 5, 1), (4, 4, 4), (5, 3, 6)]:
            click = prepared.click_to_network(stored_index(storage, index))
            assert click == reference.click_to_network(index)


@settings(deadline=None, max_examples=60)
@given(
    angles=angles,
    spacing=lengths,
    shear=shears | st.just((0, 0, 0)),
    origin=origins,
    storage=st.sampled_from(STORAGES),
    target=lengths | st.none(),
    index=indices,
)
# halfway between two network voxels
@example((0, 0, 0), (1, 1, 1), (0, 0, 0), (0.1, 0.1, 0.1), STORAGES[17], (2, 2, 2), (1, 3, 5))
def test_a_click_lands_on_the_voxel_that_holds_its_position(
    angles, spacing, shear, origin, storage, target, index
):
    base = affine_of(angles, spacing, shear, origin)
    voxels, affine = stored_as(storage, np.zeros(SHAPE, np.float32), base)
    process = Preprocessing(
        PreprocessingSettings(spacing_mm=target, intensity=(PercentileScaling(),))
    )
    prepared = prepare(process, voxels, affine)
    geometry = prepared.geometry
    stored = stored_index(storage, index)
    found = prepared.click_to_network(stored)
    position = apply_affine(np.linalg.inv(geometry.affine) @ affine, stored)
    nearest = np.clip(position, 0, np.array(geometry.shape) - 1)
    assert np.abs(np.array(found) - nearest).max() <= 0.5 + 1e-6
    if target is None:
        np.testing.assert_allclose(found, position, atol=1e-6)
        assert prepared.network_to_file(found) == stored
    # the patient's axes stay the patient's axes: no axis of the network runs backwards
    assert np.linalg.det(geometry.affine[:3, :3]) > 0

    back = prepared.network_to_file(found)
    position = apply_affine(np.linalg.inv(affine) @ geometry.affine, found)
    nearest = np.clip(position, 0, np.array(voxels.shape) - 1)
    assert np.abs(np.array(back) - nearest).max() <= 0.5 + 1e-6


@settings(deadline=None, max_examples=30)
@given(
    angles=angles,
    spacing=lengths,
    shear=shears,
    origin=origins,
    storage=st.sampled_from(STORAGES),
    index=indices,
)
def test_a_mask_of_one_voxel_comes_back_to_its_voxel(
    angles, spacing, shear, origin, storage, index
):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[index] = 1
    process = Preprocessing(PreprocessingSettings(intensity=(PercentileScaling(),)))
    prepared = prepare(
        process, *stored_as(storage, voxels, affine_of(angles, spacing, shear, origin))
    )
    click = prepared.click_to_network(stored_index(storage, index))
    mask = torch.zeros(prepared.geometry.shape)
    mask[click] = 1
    assert torch.equal(mask, prepared.image[0])
    found = restored(torch.stack([1 - mask, mask]), prepared)
    assert np.argwhere(found).tolist() == [list(stored_index(storage, index))]
