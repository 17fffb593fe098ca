"""Sessions with a network whose answer is known: a voxel is tumour where its channel is set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from voxclick import Click, InteractiveSession, Volume
from voxclick.errors import ClickError, GeometryError
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows


class ClicksAreTheAnswer(nn.Module):
    """Image above a half is tumour, a tumour click makes tumour, a background click takes it."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        image, background, tumor = windows.unbind(dim=1)
        score = (image > 0.5).float() + 4 * tumor - 4 * background
        return torch.stack([torch.full_like(score, 0.5), score], dim=1)


def session(shape=(20, 24, 28), affine=None, channels=("PET",), guidance=True):
    settings = ModelSettings(
        labels=("background", "tumor"),
        channels=channels,
        preprocessing=PreprocessingSettings(
            intensity=tuple(RangeScaling(low=0, high=1) for _ in channels)
        ),
        guidance=DiskGuidance() if guidance else None,
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=(16, 16, 16), overlap=0.25),
    )
    voxels = np.zeros(shape, dtype=np.float32)
    voxels[2:5, 2:5, 2:5] = 1
    volume = Volume(voxels, np.eye(4) if affine is None else affine)
    model = Model(settings, ClicksAreTheAnswer(), torch.device("cpu"))
    return InteractiveSession(model, [volume] * len(channels))


def ball(shape, centre):
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return (grid**2).sum(axis=0) <= 4


def test_clicks_land_on_their_voxel_and_can_be_taken_back():
    opened = session()
    first = opened.predict()
    assert first.label_map.mask("tumor").sum() == 27
    assert first.windows == 2 * 2 * 2
    added = opened.click((14, 20, 9), "tumor")
    assert np.array_equal(
        added.mask("tumor") & ~first.label_map.mask("tumor"), ball((20, 24, 28), (14, 20, 9))
    )
    taken = opened.click((3, 3, 3), "background")
    assert taken.mask("tumor")[3, 3, 3] == 0
    opened.remove(Click((3, 3, 3), "background"))
    assert np.array_equal(opened.predict().label_map.voxels, added.voxels)
    opened.reset()
    assert np.array_equal(opened.predict().label_map.voxels, first.label_map.voxels)


def test_clicks_are_voxels_of_the_file_whatever_its_orientation():
    affine = np.array([[0, -2, 0, 5], [0, 0, 3, -7], [-1, 0, 0, 9], [0, 0, 0, 1.0]])
    opened = session(affine=affine)
    mask = opened.click((14, 20, 9), "tumor").mask("tumor")
    assert np.array_equal(mask[8:], ball((20, 24, 28), (14, 20, 9))[8:])


def test_the_order_of_clicks_does_not_matter():
    clicks = [Click((3, 3, 3), "background"), Click((9, 9, 9), "tumor"), Click((10, 9, 9), "tumor")]
    masks = []
    for order in (clicks, clicks[::-1]):
        opened = session()
        opened.add(order)
        masks.append(opened.predict().label_map.voxels)
    assert np.array_equal(*masks)


def test_a_click_twice_is_one_click():
    opened = session()
    opened.add([Click((3, 3, 3), "tumor"), Click((3, 3, 3), "tumor")])
    opened.add([Click((3, 3, 3), "tumor")])
    assert len(opened.clicks) == 1


def test_wrong_clicks_change_nothing():
    opened = session()
    good, outside = Click((3, 3, 3), "tumor"), Click((20, 3, 3), "tumor")
    for wrong in (outside, Click((-1, 0, 0), "tumor"), Click((3, 3, 3), "liver")):
        with pytest.raises(ClickError):
            opened.add([good, wrong])
        assert opened.clicks == ()
    with pytest.raises(ClickError, match="no click at voxel"):
        opened.remove(good)
    with pytest.raises(ClickError, match="takes none"):
        session(guidance=False).add([good])


def test_the_channels_are_counted():
    model = session(channels=("CT", "PET")).model
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(GeometryError, match="takes 2 image"):
        InteractiveSession(model, volume)
