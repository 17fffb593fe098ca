"""Model files: everything comes back, and what is not one of ours is refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from voxclick.errors import ModelFileError, UsageError
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings, load_model, save_model
from voxclick.model_files.model import read_model_settings
from voxclick.networks import NetworkSettings, lay_out_for
from voxclick.preprocessing import PercentileScaling, PreprocessingSettings
from voxclick.sliding_window import OnePass, SlidingWindows

NETWORK = NetworkSettings(
    name="dynunet-light",
    options={"filters": (4, 8, 8), "strides": (1, 2, 2), "deep_supervision_heads": 1},
)


def settings(**changes) -> ModelSettings:
    values = {
        "labels": ("background", "tumor"),
        "channels": ("PET",),
        "preprocessing": PreprocessingSettings(intensity=(PercentileScaling(),)),
        "guidance": DiskGuidance(),
        "network": NETWORK,
        "inference": SlidingWindows(window=(16, 16, 16)),
    }
    return ModelSettings(**{**values, **changes})


@pytest.fixture
def model_file(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", settings(), settings().build_network())
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_weights_and_settings_come_back(norm, tmp_path):
    torch.manual_seed(1)
    options = {**NETWORK.options, "norm": norm}
    written = settings(network=NETWORK.model_copy(update={"options": options}))
    # as it is trained: on a CPU with channels last
    network = lay_out_for(written.build_network(), torch.device("cpu"))
    network(torch.rand(2, 3, 16, 16, 16))  # batch norm's statistics are weights too
    network.eval()
    save_model(tmp_path / "m.safetensors", written, network)
    loaded = load_model(tmp_path / "m.safetensors", "cpu")
    assert loaded.settings.model_dump(mode="json") == written.model_dump(mode="json")
    assert read_model_settings(tmp_path / "m.safetensors") == loaded.settings
    volume = torch.rand(1, 3, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded.network(volume), network(volume), atol=1e-5)
    assert not loaded.network.training


def test_the_file_is_readable_as_the_umask_says(tmp_path):
    previous = os.umask(0o022)
    try:
        save_model(tmp_path / "m.safetensors", settings(), settings().build_network())
    finally:
        os.umask(previous)
    assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("tumor", "background")}, "background"),
        ({"labels": ("background", "tumor", "tumor")}, "differ"),
        ({"channels": ("CT", "PET")}, "one entry per channel"),
        ({"inference": SlidingWindows(window=(18, 16, 16))}, "multiples"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_files_that_are_not_models_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    contents = {
        "pickle.safetensors": pickle.dumps(Trap()),
        "empty.safetensors": b"",
        "text.safetensors": b"not a model at all",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ModelFileError, match="no such model file"):
        load_model(tmp_path / "nowhere.safetensors")


def test_foreign_and_damaged_metadata_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="without voxclick's metadata"):
        load_model(path)
    save_file({"a": torch.zeros(1)}, path, {"voxclick": "{"})
    with pytest.raises(ModelFileError, match="metadata is damaged"):
        load_model(path)
    save_file({"a": torch.zeros(1)}, path, {"voxclick": settings().model_dump_json()})
    with pytest.raises(ModelFileError, match=r"missing, a too many"):
        load_model(path)


def test_weights_of_another_size_are_refused(model_file):
    larger = NetworkSettings(
        name="dynunet-light", options={"filters": (8, 8, 8), "strides": (1, 2, 2)}
    )
    save_model(model_file, settings(network=larger), settings().build_network())
    with pytest.raises(ModelFileError, match="do not fit"):
        load_model(model_file)


def test_a_file_that_lacks_weights_is_refused(model_file):
    with safe_open(model_file, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in list(file.keys())[1:]}
    save_file(tensors, model_file, metadata)
    with pytest.raises(ModelFileError, match=r"missing, none too many"):
        load_model(model_file)


def test_a_truncated_file_is_refused(model_file):
    model_file.write_bytes(model_file.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        load_model(model_file)


def test_metadata_says_what_its_use_needs(model_file):
    with safe_open(model_file, framework="pt") as file:
        stored = json.loads(file.metadata()["voxclick"])
    assert set(stored) == set(ModelSettings.model_fields)
    assert stored["labels"] == ["background", "tumor"]


@pytest.mark.parametrize("device", ["gpu", "cuda:97", "mps", "meta"])
def test_devices_that_are_not_there_are_refused(device, model_file):
    with pytest.raises(UsageError, match=device):
        load_model(model_file, device)


def test_backends_that_are_not_there_are_refused(model_file, monkeypatch):
    with pytest.raises(UsageError, match="no backend 'tensorrt'; expected one of torch, openvino"):
        load_model(model_file, backend="tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"run: pip install 'voxclick\[openvino\]'"):
        load_model(model_file, backend="openvino")


def test_openvino_is_for_the_cpu_alone(model_file, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="runs on the CPU, got the device 'cuda'"):
        load_model(model_file, "cuda", backend="openvino")


@pytest.mark.parametrize(
    ("inference", "tried"),
    [
        (SlidingWindows(window=(16, 16, 32), window_batch=2), (2, 3, 16, 16, 32)),
        (SlidingWindows(window=(64, 64, 256)), (1, 3, 64, 64, 128)),
        # rounded up to what the network takes
        (OnePass(), (1, 3, 128, 128, 12)),
        (OnePass(centre_crop=(30, 30, 30)), (1, 3, 32, 32, 12)),
    ],
)
def test_on_a_gpu_layouts_are_tried_with_windows_as_they_will_come(inference, tried, monkeypatch):
    calls, ways = [], []

    def faster_layout(*args):
        calls.append(args)
        return torch.channels_last_3d

    monkeypatch.setattr("voxclick.model_files.model.faster_layout", faster_layout)
    monkeypatch.setattr("voxclick.model_files.model.VolumeInference", lambda *a: ways.append(a))
    network, cuda = settings().build_network(), torch.device("cuda")
    chosen = inference.model_copy(update={"precision": "bfloat16"})
    Model(settings(), network, cuda).inference((200, 200, 10), chosen)
    assert calls == [(network, cuda, torch.bfloat16, tried)]
    assert ways[0][-1] == torch.channels_last_3d


def test_on_a_cpu_nothing_is_tried(model_file, monkeypatch):
    monkeypatch.setattr("voxclick.model_files.model.faster_layout", None)
    assert "channels first" in load_model(model_file, "cpu").inference((20, 20, 20)).computed_by
