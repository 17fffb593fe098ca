"""Resampling onto another grid: by hand, by ITK, and by what linear interpolation must give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from scipy.optimize import linprog

from voxclick import memory_map, resampling
from voxclick.errors import GeometryError
from voxclick.geometry.affine import apply_affine, flip_ras_lps
from voxclick.geometry.box import Box
from voxclick.resampling import grids_overlap, resample_image, resample_label_map, sample
from voxclick.volume import LabelMap, Volume, VolumeGeometry


def scaled(*spacing: float, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def along_i(values, spacing=1.0, origin=0.0) -> Volume:
    """A volume that changes along i alone."""
    voxels = np.broadcast_to(np.array(values, np.float32)[:, None, None], (len(values), 3, 3))
    return Volume(voxels.copy(), scaled(spacing, 1, 1, origin=(origin, 0, 0)))


def profile(volume: Volume) -> list[float]:
    assert np.ptp(volume.voxels, axis=(1, 2)).max() == 0
    return volume.voxels[:, 0, 0].tolist()


def rotation(rng: np.random.Generator) -> np.ndarray:
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return axes


def any_affine(
    rng: np.random.Generator, shear: float = 0.3, spacing: tuple[float, float] = (0.5, 4)
) -> np.ndarray:
    affine = np.eye(4)
    sheared = np.eye(3) + np.triu(rng.uniform(-shear, shear, (3, 3)), 1)
    affine[:3, :3] = rotation(rng) @ sheared @ np.diag(rng.uniform(*spacing, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def grid_around(centre: np.ndarray, shape, affine: np.ndarray) -> VolumeGeometry:
    moved = affine.copy()
    middle = (np.array(shape) - 1) / 2
    moved[:3, 3] = centre - affine[:3, :3] @ middle
    return VolumeGeometry(shape, moved)


def test_a_shift_by_half_a_voxel_gives_means_and_ends_half_a_voxel_beyond_the_last_centre():
    image = along_i([1, 3, 7, 5])
    grid = VolumeGeometry((6, 3, 3), scaled(1, 1, 1, origin=(-1.5, 0, 0)))
    # centres at -1.5, -0.5, 0.5, …; the image reaches from -0.5 to 3.5
    assert profile(resample_image(image, grid)) == [1, 1, 2, 5, 6, 5]


def test_outside_the_field_of_view_is_the_smallest_value():
    image = along_i([40, -1000, 7, 50])
    grid = VolumeGeometry((8, 3, 3), scaled(1, 1, 1, origin=(-2, 0, 0)))
    assert profile(resample_image(image, grid)) == [-1000, -1000, 40, -1000, 7, 50, -1000, -1000]


def test_half_the_spacing():
    image = along_i([0, 8, 4], spacing=2)
    grid = VolumeGeometry((6, 3, 3), scaled(1, 1, 1, origin=(-0.5, 0, 0)))
    assert profile(resample_image(image, grid)) == [0, 2, 6, 7, 5, 4]
    labels = LabelMap(image.voxels.astype(np.uint8) // 4, image.affine, labels=("b", "x", "y"))
    resampled = resample_label_map(labels, grid)
    assert profile(resampled) == [0, 0, 2, 2, 1, 1]
    assert resampled.voxels.dtype == np.uint8
    assert resampled.labels == ("b", "x", "y")


def test_a_flipped_grid_turns_the_voxels_around():
    image = along_i([1, 2, 3, 9])
    grid = VolumeGeometry((4, 3, 3), scaled(-1, 1, 1, origin=(3, 0, 0)))
    assert profile(resample_image(image, grid)) == [9, 3, 2, 1]


def test_swapped_axes_are_a_transpose():
    voxels = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    swapped = np.eye(4)[[2, 0, 1, 3]]
    grid = VolumeGeometry((5, 6, 4), swapped)
    resampled = resample_image(Volume(voxels, np.eye(4)), grid)
    np.testing.assert_array_equal(resampled.voxels, voxels.transpose(1, 2, 0))


def test_background_outside_a_label_map():
    label = LabelMap(np.ones((3, 3, 3), np.uint8), np.eye(4), labels=("background", "tumor"))
    grid = VolumeGeometry((5, 3, 3), scaled(1, 1, 1, origin=(-1, 0, 0)))
    assert profile(resample_label_map(label, grid)) == [0, 1, 1, 1, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_onto_its_own_grid_nothing_changes(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 9, 3).tolist())
    affine = any_affine(rng)
    image = Volume(rng.normal(size=shape).astype(np.float32), affine)
    np.testing.assert_array_equal(resample_image(image, image.geometry).voxels, image.voxels)
    label = LabelMap(rng.integers(0, 3, shape, dtype=np.uint8), affine, labels=("b", "x", "y"))
    np.testing.assert_array_equal(resample_label_map(label, label.geometry).voxels, label.voxels)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_linear_in_space_stays_so_on_sheared_grids(seed):
    rng = np.random.default_rng(seed)
    source = VolumeGeometry((14, 12, 13), any_affine(rng, spacing=(1, 3)))
    slope = rng.normal(size=3)

    def values(grid: VolumeGeometry) -> np.ndarray:
        indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
        return apply_affine(grid.affine, indices) @ slope

    image = Volume(values(source), source.affine)
    fine = any_affine(rng, spacing=(0.3, 0.9))
    inner = grid_around(source.corners_mm.mean(axis=0), (4, 5, 3), fine)
    inside = apply_affine(np.linalg.inv(source.affine), inner.corners_mm)
    assert (inside >= 0).all()
    assert (inside <= np.array(source.shape) - 1).all()
    resampled = resample_image(image, inner)
    np.testing.assert_allclose(resampled.voxels, values(inner), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(resampled.affine, inner.affine)


def to_itk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = flip_ras_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def by_itk(volume: Volume, grid: VolumeGeometry, interpolator: int, outside: float) -> np.ndarray:
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(to_itk(np.zeros(grid.shape, np.uint8), grid.affine))
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(outside)
    return sitk.GetArrayFromImage(resampler.Execute(to_itk(volume.voxels, volume.affine))).T


@pytest.mark.parametrize("seed", range(6))
def test_as_itk_does_it(seed):
    rng = np.random.default_rng(seed)
    source = VolumeGeometry((11, 9, 10), any_affine(rng, shear=0))
    grid = grid_around(source.corners_mm.mean(axis=0), (12, 13, 10), any_affine(rng, shear=0))
    image = Volume(rng.normal(size=source.shape).astype(np.float32), source.affine)
    resampled = resample_image(image, grid).voxels
    smallest = float(image.voxels.min())
    expected = by_itk(image, grid, sitk.sitkLinear, smallest)
    assert 0.02 < (expected != smallest).mean() < 1  # both inside and outside are there
    np.testing.assert_allclose(resampled, expected, atol=1e-4)
    voxels = rng.integers(0, 4, source.shape, dtype=np.uint8)
    label = LabelMap(voxels, source.affine, labels=("b", "x", "y", "z"))
    expected = by_itk(label, grid, sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(resample_label_map(label, grid).voxels, expected)


def test_slab_by_slab_and_on_disk_it_is_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    image = Volume(rng.normal(size=(8, 9, 10)).astype(np.float32), any_affine(rng))
    grid = grid_around(image.geometry.corners_mm.mean(axis=0), (9, 7, 11), any_affine(rng))
    whole = resample_image(image, grid).voxels
    monkeypatch.setattr(resampling, "_SLAB_VOXELS", 2 * 9 * 7)
    monkeypatch.setattr(memory_map, "LARGE_BYTES", 0)
    in_slabs = resample_image(image, grid).voxels
    assert isinstance(in_slabs.base, np.memmap)
    np.testing.assert_allclose(in_slabs, whole, atol=1e-6)


def test_grids_that_are_apart_are_refused():
    image = along_i([1, 2, 3])
    far = VolumeGeometry((3, 3, 3), scaled(1, 1, 1, origin=(100, 0, 0)))
    with pytest.raises(GeometryError, match=r"centre is at \(1, 1, 1\) mm, .* \(101, 1, 1\) mm"):
        resample_image(image, far)
    label = LabelMap(np.ones((3, 3, 3), np.uint8), np.eye(4))
    with pytest.raises(GeometryError, match="nowhere near"):
        resample_label_map(label, far)


def test_a_common_face_is_no_overlap():
    one = VolumeGeometry((4, 4, 4), np.eye(4))
    for origin, expected in (((4, 0, 0), False), ((3.9, 0, 0), True), ((0, 0, -4.1), False)):
        other = VolumeGeometry((4, 4, 4), scaled(1, 1, 1, origin=origin))
        assert grids_overlap(one, other) is expected
        assert grids_overlap(other, one) is expected


@pytest.mark.parametrize("seed", range(30))
def test_overlap_is_there_where_some_point_is_a_mixture_of_both_corners(seed):
    """Against the definition of a convex hull, as a linear program."""
    rng = np.random.default_rng(seed)
    one, other = (
        VolumeGeometry((5, 4, 6), np.block([[any_affine(rng)[:3, :3], origin], [0, 0, 0, 1]]))
        for origin in rng.uniform(-8, 8, (2, 3, 1))
    )

    def corners(grid: VolumeGeometry) -> np.ndarray:
        ends = itertools.product(*((-0.5, n - 0.5) for n in grid.shape))
        return apply_affine(grid.affine, np.array(list(ends)))

    shares = np.vstack([np.hstack([corners(one).T, -corners(other).T]), np.repeat(np.eye(2), 8, 1)])
    found = linprog(np.zeros(16), A_eq=shares, b_eq=[0, 0, 0, 1, 1], bounds=(0, None))
    assert grids_overlap(one, other) is (found.status == 0)


def test_edges_that_pass_each_other_are_told_apart():
    """Two bars cross at right angles, one above the other, both on an edge.

    No normal of a face separates them: only the product of their edges does.
    """
    turn = np.array([[1.0, 0, 0], [0, 1, -1], [0, 1, 1]]) / np.sqrt([1, 2, 2])[:, None]
    lower = np.eye(4)
    lower[:3, :3] = turn
    upper = np.eye(4)
    upper[:3, :3] = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ turn
    for gap, expected in ((0.1, False), (-0.1, True)):
        bars = [grid_around(np.zeros(3), (21, 3, 3), lower)]
        height = 3 * np.sqrt(2) + gap
        bars.append(grid_around(np.array([0, 0, height]), (21, 3, 3), upper))
        assert grids_overlap(*bars) is expected


@pytest.mark.parametrize("beyond", ["border", "zeros"])
def test_a_part_of_what_is_sampled_has_the_bits_of_the_whole(beyond):
    values = torch.rand((2, 7, 9, 8), dtype=torch.float64)
    to_source = np.array([[0.61, 0.1, 0, -1], [-0.2, 0.73, 0, 0.5], [0, 0.3, 1.1, 0], [0, 0, 0, 1]])
    whole = sample(values, to_source, (13, 11, 6), beyond)
    part = Box((3, 0, 2), (9, 11, 3))
    sampled = sample(values, to_source, (13, 11, 6), beyond, part)
    assert torch.equal(sampled, whole[(..., *part.to_slices())])


def test_values_between_voxels_are_those_of_scipy():
    values = np.random.default_rng(0).random((7, 9, 8))
    to_source = np.array([[0.61, 0.1, 0, 1], [-0.2, 0.73, 0, 3.5], [0, 0.1, 1.1, 0], [0, 0, 0, 1]])
    expected = affine_transform(values, to_source, output_shape=(6, 5, 4), order=1, mode="nearest")
    sampled = sample(torch.from_numpy(values)[None], to_source, (6, 5, 4), "border")
    np.testing.assert_allclose(sampled[0], expected, atol=1e-12)
