"""Sliding windows: MONAI's inferer is the oracle, and some answers are known by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from voxclick.geometry.box import Box
from voxclick.sliding_window import OnePass, SlidingWindows, VolumeInference, WindowGrid

CPU = torch.device("cpu")


class PositionDependent(nn.Module):
    """Its output depends on where in the window a voxel lies, so that blending matters."""

    def __init__(self, window: tuple[int, int, int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.gain = nn.Parameter(torch.rand((2, *window), generator=generator))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.sum(dim=1, keepdim=True) * self.gain + self.gain.flip(0)


def infer(network, settings, volume, multiple=(1, 1, 1)):
    return VolumeInference(network, settings, multiple, CPU).predict(volume)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("window_batch", [1, 3])
@pytest.mark.parametrize("shape", [(20, 17, 25), (8, 8, 8), (5, 20, 7), (30, 6, 8)])
def test_equals_monai(shape, window_batch, blending):
    window = (8, 8, 8)
    network = PositionDependent(window)
    volume = torch.rand((3, *shape), generator=torch.Generator().manual_seed(1))
    ours = infer(
        network,
        SlidingWindows(
            window=window, blending=blending, window_batch=window_batch, precision="float32"
        ),
        volume,
    )
    theirs = sliding_window_inference(
        volume[None], window, window_batch, network, overlap=0.25, mode=blending
    )
    torch.testing.assert_close(ours, theirs[0].detach(), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    window=st.tuples(*[st.integers(1, 16)] * 3),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_every_voxel_and_stay_inside(shape, window, overlap):
    grid = WindowGrid.cover(shape, window, overlap)
    seen = torch.zeros(grid.padded_shape)
    for box in grid.boxes:
        assert box.shape == window
        assert box.clip(grid.padded_shape) == box
        seen[box.to_slices()] += 1
    assert seen.min() >= 1
    assert grid.volume_box.shape == shape


def test_a_network_that_copies_gives_the_volume_back():
    volume = torch.rand((2, 19, 23, 11))
    copied = infer(nn.Identity(), SlidingWindows(window=(8, 8, 8), precision="float32"), volume)
    torch.testing.assert_close(copied, volume)


def test_one_pass_pads_to_the_multiple_and_cuts_it_off_again():
    seen = []

    class Spy(nn.Module):
        def forward(self, windows):
            seen.append(tuple(windows.shape))
            return windows

    volume = torch.rand((2, 5, 8, 9))
    result = infer(Spy(), OnePass(precision="float32"), volume, multiple=(4, 4, 4))
    assert seen == [(1, 2, 8, 8, 12)]
    assert torch.equal(result, volume)


def test_one_pass_over_a_centre_crop_leaves_the_rest_background():
    volume = torch.zeros((2, 8, 8, 8))
    volume[1] = 1.0  # the label's logit is above the background's everywhere
    result = infer(nn.Identity(), OnePass(centre_crop=(4, 4, 4), precision="float32"), volume)
    predicted = result.argmax(dim=0).bool()
    assert predicted[Box((2, 2, 2), (6, 6, 6)).to_slices()].all()
    assert predicted.sum() == 64


def test_progress_counts_windows():
    told = []
    inference = VolumeInference(
        nn.Identity(), SlidingWindows(window=(8, 8, 8), window_batch=2), (1, 1, 1), CPU
    )
    inference.predict(torch.zeros(1, 8, 8, 20), lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]


def test_the_network_is_left_in_the_mode_it_was_in():
    network = nn.Dropout(0.5).train()
    volume = torch.ones((1, 8, 8, 8))
    result = infer(network, SlidingWindows(window=(8, 8, 8), precision="float32"), volume)
    assert network.training
    assert torch.equal(result, volume)  # but it ran without dropout
