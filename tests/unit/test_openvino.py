"""The OpenVINO backend: PyTorch's own logits are the oracle."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from voxclick.errors import UsageError
from voxclick.geometry.box import Box
from voxclick.model_files import load_model, save_model
from voxclick.networks import NetworkSettings, OpenVinoNetwork, build_network, lay_out_for
from voxclick.networks import openvino as openvino_backend
from voxclick.networks.channels_last import ChannelsLastInstanceNorm3d, in_plain_layout
from voxclick.sliding_window import SlidingWindows, TensorSource
from voxclick.sliding_window.precision import resolve_precision
from voxclick.weights import PHANTOM_PET

# imported with the backend alone, which sees to it that OpenVINO reports to nobody
if find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

CPU = torch.device("cpu")
SMALL = {"filters": (4, 8, 8, 8)}
TOLERANCE = 1e-3


def network(**options) -> nn.Module:
    """With running statistics and affine parameters that change something."""
    torch.manual_seed(0)
    settings = NetworkSettings(name="dynunet-light", options={**SMALL, **options})
    built = build_network(settings, 3, 3).train()
    for name, parameter in built.named_parameters():
        if ".norm" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    with torch.no_grad():
        built(3 * torch.rand(2, 3, 16, 16, 16) - 1)
    return built.eval()


def windows(count: int = 1, shape: tuple[int, int, int] = (16, 24, 16)) -> torch.Tensor:
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits(module: nn.Module, batch: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return module(batch)


def assert_same_segmentation(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < TOLERANCE
    first, second = expected.topk(2, dim=1).values.unbind(1)
    certain = first - second > 2 * TOLERANCE
    assert certain.float().mean() > 0.9
    assert torch.equal(found.argmax(1)[certain], expected.argmax(1)[certain])


@pytest.mark.parametrize("laid_out", [False, True], ids=["plain", "channels last"])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "instance"},
        {"norm": "batch"},
        {"residual": False},
        {"deep_supervision_heads": 2},
        {"strides": (1, 2, (2, 2, 1), 2), "dropout": 0.2},
    ],
    ids=lambda options: next(iter(options)) + "=" + str(next(iter(options.values()))),
)
def test_logits_are_pytorchs(options, laid_out):
    ours = network(**options)
    expected = logits(ours, windows(2))
    ours = lay_out_for(ours, CPU) if laid_out else ours
    assert_same_segmentation(logits(OpenVinoNetwork(ours), windows(2)), expected)


def test_the_network_given_keeps_its_layout_and_its_weights_are_shared():
    given = lay_out_for(network(), CPU)
    plain = in_plain_layout(given)
    assert any(isinstance(module, ChannelsLastInstanceNorm3d) for module in given.modules())
    assert not any(isinstance(module, ChannelsLastInstanceNorm3d) for module in plain.modules())
    pairs = zip(given.parameters(), plain.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)
    assert list(plain.state_dict()) == list(given.state_dict())
    assert in_plain_layout(plain) is plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_has_the_same_logits_alone_and_in_a_batch_and_again(dtype):
    by_openvino = OpenVinoNetwork(network())
    together = logits(by_openvino, windows(3), dtype)
    alone = torch.cat([logits(by_openvino, window, dtype) for window in windows(3).split(1)])
    assert torch.equal(together, alone)
    assert torch.equal(together, logits(OpenVinoNetwork(network()), windows(3), dtype))


def test_earlier_logits_and_the_input_stay_as_they_are():
    class InPlace(nn.Module):
        def forward(self, batch):
            return batch.relu_().add_(1)

    by_openvino = OpenVinoNetwork(InPlace())
    batch = windows() - 0.5
    before = batch.clone()
    first = logits(by_openvino, batch)
    kept = first.clone()
    second = logits(by_openvino, 3 * batch)
    assert torch.equal(batch, before)
    assert torch.equal(first, kept)
    assert torch.equal(first, before.relu() + 1)
    assert not torch.equal(first, second)


def test_windows_in_any_layout_and_dtype():
    by_openvino = OpenVinoNetwork(network())
    batch = windows(2).half().float()
    expected = logits(by_openvino, batch)
    channels_last = batch.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(logits(by_openvino, channels_last), expected)
    assert torch.equal(logits(by_openvino, batch.half()), expected)
    assert torch.equal(by_openvino(batch.requires_grad_()), expected)


def test_precision_is_autocasts():
    by_openvino = OpenVinoNetwork(network())
    in_float32 = logits(by_openvino, windows())
    in_bfloat16 = logits(by_openvino, windows(), torch.bfloat16)
    pytorchs = logits(by_openvino.network, windows(), torch.bfloat16).float()
    error = (in_bfloat16 - in_float32).abs().mean()
    assert error < 2 * (pytorchs - in_float32).abs().mean()
    compiled = {
        dtype: by_openvino._compiled(3, (16, 24, 16), dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    hints = {d: c.get_property("INFERENCE_PRECISION_HINT").to_string() for d, c in compiled.items()}
    assert hints[torch.float32] == "f32"
    if resolve_precision("auto", CPU) == torch.bfloat16:
        assert hints[torch.bfloat16] == "bf16"
        assert error > 0


def test_a_shape_is_converted_once_and_few_are_kept(monkeypatch):
    by_openvino = OpenVinoNetwork(network())
    shapes = []
    convert = openvino_backend._convert

    def counted(module, shape):
        shapes.append(shape)
        return convert(module, shape)

    monkeypatch.setattr(openvino_backend, "_convert", counted)
    logits(by_openvino, windows(1))
    logits(by_openvino, windows(3))
    assert shapes == [(1, 3, 16, 24, 16)]
    for size in (8, 16, 24):
        logits(by_openvino, windows(1, (size, 16, 16)))
    assert len(shapes) == 4
    assert by_openvino._compiled.cache_info().currsize == openvino_backend.KEPT


def test_a_network_is_traced_only_if_its_code_cannot_be_read(monkeypatch):
    traced = []
    trace = torch.jit.trace

    def noted(module, example, **options):
        traced.append(module)
        return trace(module, example, **options)

    monkeypatch.setattr(torch.jit, "trace", noted)
    readable, other = network(), network(deep_supervision_heads=1)
    for module in (readable, other):
        logits(OpenVinoNetwork(module), windows())
    assert traced == [other]


def test_threads_are_pytorchs_and_roam():
    compiled = OpenVinoNetwork(network())._compiled(3, (16, 16, 16), torch.float32)
    assert compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert not compiled.get_property("ENABLE_CPU_PINNING")


def test_several_threads_may_ask_at_once():
    by_openvino = OpenVinoNetwork(network())
    batch = windows(8)
    expected = logits(by_openvino, batch)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda window: logits(by_openvino, window), batch.split(1))
    assert torch.equal(torch.cat(list(found)), expected)


def test_a_signal_is_handled_after_networks_came_and_went():
    code = """
import gc, os, signal, torch
from voxclick.networks import OpenVinoNetwork

def used_network(length):
    network = OpenVinoNetwork(torch.nn.Conv3d(1, 2, 3, padding=1))
    network(torch.zeros(1, 1, 8, 8, length))
    return network

first, second = used_network(8), used_network(16)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_openvino_reports_to_nobody():
    OpenVinoNetwork(network())
    assert sys.modules["openvino_telemetry"] is None


def test_training_is_refused():
    by_openvino = OpenVinoNetwork(network().train())
    assert not by_openvino.training
    assert not by_openvino.network.training
    by_openvino.eval()
    with pytest.raises(UsageError, match="cannot be trained"):
        by_openvino.train()


def test_an_operation_that_openvino_does_not_know_is_named(caplog):
    class Unknown(nn.Module):
        def forward(self, batch):
            return torch.linalg.svdvals(batch)

    with pytest.raises(UsageError, match=r"linalg_svdvals.*use the backend torch"):
        logits(OpenVinoNetwork(Unknown()), windows())
    # where it fails, OpenVINO would leave the whole program's log at errors only
    logging.getLogger("of.somebody").warning("heard")
    assert "heard" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_runs_by_openvino(dtype):
    expected = load_model(PHANTOM_PET, "cpu")
    loaded = load_model(PHANTOM_PET, backend="openvino")
    assert isinstance(loaded.network, OpenVinoNetwork)
    assert loaded.device == CPU
    assert loaded.settings == expected.settings
    batch = torch.rand(2, expected.settings.in_channels, 32, 32, 32)
    found, reference = (logits(m.network, batch, dtype) for m in (loaded, expected))
    if dtype == torch.float32:
        assert_same_segmentation(found, reference)
    else:
        assert (found.argmax(1) == reference.argmax(1)).float().mean() > 0.99


def test_a_model_run_by_openvino_can_be_saved(tmp_path):
    loaded = load_model(PHANTOM_PET, backend="openvino")
    save_model(tmp_path / "m.safetensors", loaded.settings, loaded.network)
    again, original = (load_model(p, "cpu") for p in (tmp_path / "m.safetensors", PHANTOM_PET))
    for name, tensor in original.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)


def test_no_batch_is_filled_up_for_what_runs_windows_one_by_one(monkeypatch):
    loaded = load_model(PHANTOM_PET, backend="openvino")
    batches = []

    def one_logit(windows: torch.Tensor) -> torch.Tensor:
        batches.append(len(windows))
        return torch.zeros(len(windows), 2, *windows.shape[2:])

    monkeypatch.setattr(loaded.network, "forward", one_logit)
    settings = SlidingWindows(window=(32, 32, 32), overlap=0.25, window_batch=4)
    inference = loaded.inference((32, 32, 50), settings)
    inference.margins(TensorSource(torch.zeros(3, 32, 32, 50)), Box.of_shape((32, 32, 50)))
    assert batches == [1, 1]
