"""What a CPU cannot show: the same answers on a CUDA device.

Run with ``pytest -m gpu``.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from voxclick import Click, InteractiveSession, Volume
from voxclick.geometry.box import Box
from voxclick.guidance import (
    DiskGuidance,
    DistanceGuidance,
    GaussianGuidance,
    SwFastEditGuidance,
    build_encoder,
)
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings, build_network, lay_out_for
from voxclick.networks.channels_last import ChannelsLastInstanceNorm3d
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.simulation import Corrective, LargestError, MaxSteps, SimulatedUser
from voxclick.simulation.distances import distance_to_outside
from voxclick.sliding_window import (
    CacheSettings,
    SlidingWindows,
    TensorSource,
    VolumeInference,
)
from voxclick.sliding_window.network import faster_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FIRST, LAST = torch.contiguous_format, torch.channels_last_3d


def blobs(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((1, 1, 40, 48, 56), generator=generator)
    smooth = torch.nn.functional.avg_pool3d(noise, 7, stride=1, padding=3)
    return (smooth[0, 0] > 0.5).to(torch.uint8)


def margins(network, settings, device, volume, layout=FIRST) -> torch.Tensor:
    shape = tuple(volume.shape[1:])
    inference = VolumeInference(
        network, settings, (8, 8, 8), device, shape, 2, CacheSettings(), layout=layout
    )
    return inference.margins(TensorSource(volume), Box.of_shape(shape))


@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_margins_agree_with_the_cpu(precision, layout):
    torch.manual_seed(0)
    network = build_network(NetworkSettings(name="dynunet-light"), 3, 2)
    volume = torch.rand((3, 70, 50, 60))
    settings = SlidingWindows(window=(32, 32, 32), window_batch=4, precision="float32")
    expected = margins(network, settings, CPU, volume)
    chosen = settings.model_copy(update={"precision": precision})
    found = margins(lay_out_for(network, CUDA), chosen, CUDA, volume, layout).cpu()
    tolerance = 1e-3 if precision == "float32" else 0.1
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_instance_norm_with_channels_last_is_pytorchs(dtype):
    torch.manual_seed(0)
    norm = torch.nn.InstanceNorm3d(5, affine=True).to(CUDA)
    torch.nn.init.normal_(norm.weight)
    values = torch.randn((2, 5, 9, 10, 11), device=CUDA).to(dtype)
    found = ChannelsLastInstanceNorm3d.like(norm)(values.contiguous(memory_format=LAST))
    assert found.is_contiguous(memory_format=LAST)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, norm(values), atol=tolerance, rtol=tolerance)


def test_a_trial_of_layouts_ends_in_one_of_them():
    torch.manual_seed(0)
    network = lay_out_for(build_network(NetworkSettings(name="dynunet-light"), 3, 2), CUDA)
    assert faster_layout(network, CUDA, torch.float32, (1, 3, 32, 32, 32)) in (FIRST, LAST)


def test_distances_agree_with_the_cpu():
    region = blobs(1).bool()
    expected = distance_to_outside(region, (4.0, 4.1, 3.27))
    found = distance_to_outside(region.to(CUDA), (4.0, 4.1, 3.27)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "strategy", [LargestError(), Corrective(), Corrective(weighting="border-distance")]
)
def test_the_same_seed_clicks_the_same_voxels(strategy):
    label, prediction = blobs(1), blobs(2)
    clicks = []
    for device in (CPU, CUDA):
        user = SimulatedUser(strategy, MaxSteps(max_steps=5), seed=3)
        for _ in range(5):
            user.next_clicks(label.to(device), prediction.to(device), (4.0, 4.0, 3.0))
        clicks.append(user.clicked)
    assert clicks[0] == clicks[1]


@pytest.mark.parametrize(
    "settings", [DiskGuidance(), GaussianGuidance(), DistanceGuidance(), SwFastEditGuidance()]
)
def test_guidance_is_the_same(settings):
    encoder = build_encoder(settings, (4.0, 4.0, 3.0))
    clicks = [[(3, 4, 5), (30, 20, 10)], [(0, 0, 0)]]
    on_cpu = encoder.encode(clicks, (40, 48, 56), CPU)
    assert np.array_equal(encoder.encode(clicks, (40, 48, 56), CUDA).cpu(), on_cpu)


def opened(cache: CacheSettings | None = None) -> InteractiveSession:
    torch.manual_seed(0)
    settings = ModelSettings(
        labels=("background", "tumor"),
        channels=("PET",),
        preprocessing=PreprocessingSettings(
            spacing_mm=(1.5, 1.5, 1.5), intensity=(RangeScaling(low=0, high=1),)
        ),
        guidance=DiskGuidance(),
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=(32, 32, 32)),
    )
    model = Model(settings, lay_out_for(settings.build_network().eval(), CUDA), CUDA)
    voxels = np.random.default_rng(0).random((60, 50, 70), dtype=np.float32)
    return InteractiveSession(model, Volume(voxels, np.eye(4)), cache=cache)


@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize(
    "cache",
    [CacheSettings(), CacheSettings(gpu_gib=0), CacheSettings(gpu_gib=0.0005, host_gib=0.0005)],
)
def test_undo_on_a_gpu_gives_the_same_bits(cache, layout, monkeypatch):
    monkeypatch.setattr("voxclick.model_files.model.faster_layout", lambda *_: layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the smallest cache says that it is
        session, fresh = opened(cache), opened()
    masks = [session.predict().label_map.voxels]
    clicks = [Click((30, 20, 40), "tumor"), Click((3, 44, 65), "background")]
    for click in clicks:
        *_, update = session.click(click.index, click.label)
        assert update.kind == "exact"
        masks.append(session.predict().label_map.voxels)
    fresh.add(clicks[::-1])
    assert np.array_equal(fresh.predict().label_map.voxels, masks[2])
    for expected in masks[1::-1]:
        session.undo()
        assert np.array_equal(session.predict().label_map.voxels, expected)


def test_a_full_gpu_is_the_exception_that_the_session_expects():
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2**50, device=CUDA)
