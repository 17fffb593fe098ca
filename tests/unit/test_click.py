"""What a click may be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from voxclick import Click
from voxclick.clicks import read_clicks, write_clicks
from voxclick.errors import ClickError, UsageError
from voxclick.volume import VolumeGeometry

LABELS = ("background", "tumor")
GRID = VolumeGeometry((10, 12, 14), np.diag([2.0, 3.0, 4.0, 1.0]))


@pytest.mark.parametrize(
    "index",
    [
        [3, 4, 5],
        np.array([3, 4, 5]),
        (np.int64(3), np.uint8(4), np.int16(5)),
        tuple(np.argwhere(np.ones((4, 5, 6)))[-1]),
    ],
)
def test_whole_numbers_of_any_kind_are_a_voxel_of_plain_ones(index, tmp_path):
    click = Click(index, "tumor")
    assert click == Click((3, 4, 5), "tumor")
    assert hash(click) == hash(Click((3, 4, 5), "tumor"))
    assert type(click.index) is tuple
    assert [type(number) for number in click.index] == [int] * 3
    for form in ("labels", "points"):
        write_clicks([click], tmp_path / "clicks.json", form)
        assert read_clicks(tmp_path / "clicks.json") == [click]
    assert json.loads((tmp_path / "clicks.json").read_text())["points"][0]["point"] == [3, 4, 5]


@pytest.mark.parametrize(
    "index", [(1, 2), (1, 2, 3, 4), (), (1.0, 2, 3), (1, 2, np.float32(3)), (1, 2, "3"), 7, None]
)
def test_anything_but_three_whole_numbers_is_refused(index):
    with pytest.raises(ClickError, match="expected three whole numbers"):
        Click(index, "tumor")


@pytest.mark.parametrize("space", ["RAS", "mm", "", None, "voxels"])
def test_an_unknown_space_is_refused_and_not_taken_for_voxels(space):
    with pytest.raises(UsageError, match="expected one of voxel, ras, lps"):
        Click.at((5.0, 6.0, 7.0), "tumor", space, GRID)


@pytest.mark.parametrize("space", ["voxel", "ras", "lps"])
@pytest.mark.parametrize("position", [(1, 2), (1, 2, 3, 4), None, 7, "1,2,3", (1, None, 3)])
def test_a_position_has_three_numbers(position, space):
    with pytest.raises(ClickError, match="three numbers"):
        Click.at(position, "tumor", space, GRID)


def test_positions_in_mm_become_the_nearest_voxel():
    assert Click.at_ras_mm((6.9, 12.1, 20.0), "tumor", GRID) == Click((3, 4, 5), "tumor")
    assert Click.at_lps_mm((-6.9, -12.1, 20.0), "tumor", GRID) == Click((3, 4, 5), "tumor")


def test_a_click_must_lie_in_the_image_and_have_one_of_its_labels():
    Click((9, 11, 13), "background").check(GRID, LABELS)
    for outside in ((10, 0, 0), (0, 12, 0), (0, 0, -1)):
        with pytest.raises(ClickError, match=r"outside the image of \(10, 12, 14\) voxels"):
            Click(outside, "tumor").check(GRID, LABELS)
    with pytest.raises(ClickError, match="this model knows background, tumor"):
        Click((0, 0, 0), "node").check(GRID, LABELS)
