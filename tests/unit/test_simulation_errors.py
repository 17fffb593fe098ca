"""Error regions and components on arrays small enough to read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxclick.geometry.box import Box
from voxclick.simulation.errors import (
    bounding_box,
    dice_of_label,
    largest_component,
    missed_region,
)


def line(*values: int) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


LABEL = line(0, 0, 1, 1, 2, 2)
PREDICTION = line(0, 1, 1, 2, 2, 0)


@pytest.mark.parametrize(("label_index", "missed"), [(0, [1]), (1, [3]), (2, [5])])
def test_missed_regions(label_index, missed):
    found = missed_region(LABEL, PREDICTION, label_index)
    assert found.nonzero()[:, 0].tolist() == missed


def test_dice_of_label():
    assert dice_of_label(LABEL, PREDICTION, 1) == 0.5  # 2 * 1 / (2 + 2)
    assert dice_of_label(line(0, 1, 1), line(0, 0, 1), 1) == pytest.approx(2 / 3)
    assert dice_of_label(line(0, 0), line(0, 1), 1) == 0
    assert dice_of_label(line(0, 0), line(0, 0), 1) == 1


def test_bounding_box():
    region = torch.zeros(5, 6, 7, dtype=torch.bool)
    assert bounding_box(region) is None
    region[1, 2, 6] = True
    assert bounding_box(region) == Box((1, 2, 6), (2, 3, 7))
    region[3, 0, 4] = True
    assert bounding_box(region) == Box((1, 0, 4), (4, 3, 7))


def test_voxels_connect_across_edges_and_corners():
    regions = np.zeros((4, 4, 4), np.uint8)
    regions[0, 0, 0:2] = 1
    regions[1, 0, 2] = 1  # shares an edge with (0, 0, 1)
    regions[2, 1, 3] = 1  # shares a corner with (1, 0, 2)
    assert largest_component(regions).mask.sum() == 4


def test_largest_component_in_its_box():
    regions = np.zeros((10, 10, 10), np.int16)
    regions[0, 0, 0:5] = 1
    regions[4:6, 4:6, 7:10] = 3
    component = largest_component(regions)
    assert component.box == Box((4, 4, 7), (6, 6, 10))
    assert component.mask.all()
    assert component.value == 3


def test_values_that_touch_do_not_connect():
    regions = np.array([1, 1, 2, 2, 2, 1, 1], np.uint8)[:, None, None]
    component = largest_component(regions)
    assert component.value == 2
    assert component.box == Box((2, 0, 0), (5, 1, 1))


def test_the_first_of_equal_components_wins():
    regions = np.array([0, 1, 1, 0, 1, 1], np.uint8)[:, None, None]
    assert largest_component(regions).box == Box((1, 0, 0), (3, 1, 1))


def test_a_component_that_is_all_clicked_steps_back():
    regions = np.array([1, 1, 0, 2], np.uint8)[:, None, None]
    clicked = [(0, 0, 0), (0, 0, 0)]
    assert largest_component(regions, clicked).value == 1
    clicked.append((1, 0, 0))
    assert largest_component(regions, clicked).value == 2
    clicked.append((3, 0, 0))
    assert largest_component(regions, clicked).value == 1


def test_no_component_is_refused():
    with pytest.raises(ValueError, match="zero everywhere"):
        largest_component(np.zeros((3, 3, 3), np.uint8))
