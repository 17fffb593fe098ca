"""Normalised surface Dice by hand; `test_metrics_random_masks.py` has the other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from voxclick.errors import GeometryError, UsageError
from voxclick.evaluation.metrics import Surface, normalised_surface_dice, surface_dice

MM = (1.0, 1.0, 1.0)


def mask_of(*voxels: tuple[int, int, int], shape=(9, 9, 9), order="C") -> np.ndarray:
    mask = np.zeros(shape, dtype=bool, order=order)
    for voxel in voxels:
        mask[voxel] = True
    return mask


class TestSurface:
    @pytest.mark.parametrize("spacing", [MM, (2.0, 2.0, 3.0), (0.5, 1.0, 4.0)])
    def test_one_voxel_is_an_octahedron(self, spacing):
        # with its six corners half a voxel from the centre, one face around each voxel corner
        surface = Surface.of(mask_of((2, 3, 4)), spacing)
        assert sorted(map(tuple, surface.corners.tolist())) == [
            (i, j, k) for i in (2, 3) for j in (3, 4) for k in (4, 5)
        ]
        a, b, c = spacing
        face_mm2 = math.sqrt((a * b) ** 2 + (b * c) ** 2 + (c * a) ** 2) / 8
        assert surface.areas_mm2 == pytest.approx([face_mm2] * 8)

    def test_a_flat_face_has_the_area_of_its_voxels(self):
        mask = np.zeros((9, 9, 9), dtype=bool)
        mask[2:7, 2:7, 2:7] = True
        surface = Surface.of(mask, (2.0, 3.0, 5.0))
        areas = dict(zip(map(tuple, surface.corners.tolist()), surface.areas_mm2, strict=True))
        assert areas[2, 4, 4] == areas[7, 4, 4] == pytest.approx(15)
        assert areas[4, 2, 4] == areas[4, 7, 4] == pytest.approx(10)
        assert areas[4, 4, 2] == areas[4, 4, 7] == pytest.approx(6)
        assert (4, 4, 4) not in areas
        assert len(areas) == 6**3 - 4**3

    def test_an_empty_mask_has_none(self):
        surface = Surface.of(mask_of(), MM)
        assert surface.corners.shape == (0, 3)
        assert surface.areas_mm2.shape == (0,)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_lesions_in_several_boxes(self, order):
        voxels = [(0, 0, 0), (60, 2, 30), (99, 39, 39)]
        surface = Surface.of(mask_of(*voxels, shape=(100, 40, 40), order=order), MM)
        starts = {tuple(corner) for corner in surface.corners.tolist()}
        assert len(surface.corners) == len(starts) == 24
        assert {*voxels, (1, 1, 1), (61, 3, 31), (100, 40, 40)} <= starts

    @pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, math.nan)])
    def test_what_is_no_spacing_is_refused(self, spacing):
        with pytest.raises(GeometryError, match="three positive lengths"):
            Surface.of(mask_of((1, 1, 1)), spacing)


class TestNormalisedSurfaceDice:
    @pytest.mark.parametrize(
        ("prediction", "label", "expected"),
        [
            (mask_of(), mask_of(), 1.0),
            (mask_of((4, 4, 4)), mask_of(), 0.0),
            (mask_of(), mask_of((4, 4, 4)), 0.0),
            (mask_of((4, 4, 4)), mask_of((4, 4, 4)), 1.0),
        ],
        ids=["both empty", "label empty", "prediction empty", "equal"],
    )
    def test_empty_and_equal(self, prediction, label, expected):
        assert normalised_surface_dice(prediction, label, MM) == expected

    @pytest.mark.parametrize(
        ("other", "tolerance", "expected"),
        [
            ((4, 4, 5), 2.0, 1.0),  # four corners shared, four exactly 2 mm away
            ((4, 4, 5), 1.999, 0.5),
            ((4, 4, 6), 2.0, 0.5),  # four corners 2 mm away, four 4 mm
            ((4, 4, 6), 4.0, 1.0),
            ((4, 4, 7), 2.0, 0.0),
            ((5, 4, 4), 2.0, 0.5),  # 3 mm on this axis
            ((5, 4, 5), 2.0, 0.5),  # two corners each are 0, 2, 3 and 3.6 mm away
            ((5, 4, 5), 3.0, 0.75),
            ((5, 4, 5), 3.7, 1.0),
            ((4, 4, 4), 0.0, 1.0),
            ((4, 4, 5), 0.0, 0.5),
        ],
    )
    def test_two_voxels(self, other, tolerance, expected):
        score = normalised_surface_dice(
            mask_of((4, 4, 4)), mask_of(other), (3.0, 5.0, 2.0), tolerance
        )
        assert score == pytest.approx(expected)

    def test_area_decides_not_the_number_of_elements(self):
        label = np.zeros((9, 9, 9), dtype=bool)
        label[2:5, 2:5, 2:5] = True
        prediction = label.copy()
        prediction[7, 7, 7] = True
        cube_mm2, lone_mm2 = Surface.of(label, MM).areas_mm2.sum(), math.sqrt(3)
        expected = 2 * cube_mm2 / (2 * cube_mm2 + lone_mm2)
        assert normalised_surface_dice(prediction, label, MM, 1.0) == pytest.approx(expected)

    def test_the_border_of_the_array_is_a_border_like_any_other(self):
        generator = np.random.default_rng(3)
        prediction, label = generator.random((2, 6, 5, 4)) < 0.7
        padded = [np.pad(mask, ((1, 2), (3, 1), (2, 2))) for mask in (prediction, label)]
        expected = normalised_surface_dice(*padded, (1.0, 2.0, 3.0), 1.0)
        assert 0 < expected < 1
        score = normalised_surface_dice(prediction, label, (1.0, 2.0, 3.0), 1.0)
        assert score == pytest.approx(expected, abs=1e-12)

    def test_a_mask_that_fills_the_array_has_a_surface(self):
        mask = np.ones((4, 4, 4), dtype=bool)
        assert normalised_surface_dice(mask, mask, MM) == 1
        assert normalised_surface_dice(mask, mask_of((0, 0, 0), shape=(4, 4, 4)), MM, 0.5) < 0.2

    def test_other_grids_and_tolerances_are_refused(self):
        with pytest.raises(GeometryError, match="must share a grid"):
            normalised_surface_dice(mask_of(), mask_of(shape=(9, 9, 8)), MM)
        with pytest.raises(GeometryError, match="must share a grid"):
            surface_dice(Surface.of(mask_of(), MM), Surface.of(mask_of(), (1.0, 1.0, 2.0)))
        for tolerance in (-1.0, math.nan, math.inf):
            with pytest.raises(UsageError, match="0 mm or more"):
                normalised_surface_dice(mask_of(), mask_of(), MM, tolerance)


class TestTies:
    """With 0.2 mm, float64 takes 15 steps for 3 mm and 9 by 12 steps for 3.0000000000000004."""

    @staticmethod
    def surface(*corners: tuple[int, int, int]) -> Surface:
        return Surface(np.array(corners), np.ones(len(corners)), (0.2, 0.2, 0.2))

    @pytest.mark.parametrize(
        ("corner", "expected"), [((15, 0, 0), 1.0), ((9, 12, 0), 0.0), ((0, -9, 12), 0.0)]
    )
    def test_a_distance_is_rounded_as_in_the_distance_transform(self, corner, expected):
        inside = np.ones((16, 13, 13), dtype=bool)
        inside[tuple(map(abs, corner))] = False
        (distance,) = ndimage.distance_transform_edt(inside, sampling=(0.2, 0.2, 0.2))[:1, 0, 0]
        assert (distance <= 3.0) == bool(expected)
        assert surface_dice(self.surface((0, 0, 0)), self.surface(corner), 3.0) == expected

    @pytest.mark.parametrize("first", [(15, 0, 0), (0, 0, -15), (0, 15, 0)])
    def test_any_of_equally_near_elements_will_do(self, first):
        lone = self.surface((0, 0, 0))
        above = [(9, 12, 0), (12, 9, 0), (-9, 12, 0), (0, -9, 12), (0, 12, 9)]
        for others in ([first, *above], [*above, first]):
            other = self.surface(*others)
            assert surface_dice(lone, other, 3.0) == pytest.approx(2 / 7)
            assert surface_dice(other, lone, 3.0) == pytest.approx(2 / 7)
