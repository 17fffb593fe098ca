"""Checkpoints of SW-FastEdit: all forms are read, the network's size is found, no code runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from safetensors.torch import save_file
from torch import nn

from voxclick.cli.main import main
from voxclick.errors import ModelFileError, UsageError
from voxclick.guidance import SwFastEditGuidance
from voxclick.model_files import load_model
from voxclick.model_files.dynunet_state import DynUNetState
from voxclick.model_files.sw_fastedit import import_sw_fastedit
from voxclick.networks import NetworkSettings, build_network
from voxclick.networks.dynunet import PRESETS
from voxclick.preprocessing import PercentileScaling, RangeScaling
from voxclick.sliding_window import SlidingWindows

PATH = Path("checkpoint.pt")


def original(inputs=3, outputs=2, strides=(1, 2, [2, 2, 1]), filters=(6, 8, 9), **changes):
    """MONAI's DynUNet as SW-FastEdit builds it, in small; its weights are random."""
    torch.manual_seed(1)
    arguments = {
        "spatial_dims": 3,
        "kernel_size": [3] * len(strides),
        "strides": list(strides),
        "upsample_kernel_size": list(strides[1:]),
        "filters": filters,
        "norm_name": "instance",
        "deep_supervision": False,
        "res_block": True,
    }
    return DynUNet(in_channels=inputs, out_channels=outputs, **{**arguments, **changes}).eval()


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return saved({"net": original().state_dict()}, tmp_path / "checkpoint.pt")


def optimizer_state(network):
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 3, 8, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def scheduler_state(network):
    optimizer = torch.optim.Adam(network.parameters())
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict()


FORMS = {
    "net": lambda network: {"net": network.state_dict()},
    "bare": lambda network: network.state_dict(),
    "module": lambda network: {"net": nn.DataParallel(network).state_dict()},
    "without repeated names": lambda network: {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("skip_layers")
    },
    "half precision": lambda network: {
        "net": {name: tensor.half() for name, tensor in network.state_dict().items()}
    },
    "of a training": lambda network: {
        "trainer": {"epoch_length": 4, "iteration": 8, "max_epochs": 400, "rng_states": None},
        "net": network.state_dict(),
        "opt": optimizer_state(network),
        "lr": scheduler_state(network),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_network_with_background_first(form, tmp_path):
    network = original()
    path = saved(FORMS[form](network), tmp_path / "checkpoint.pt")
    settings, imported = import_sw_fastedit(path)
    image, background, tumor = torch.rand(3, 1, 1, 16, 16, 8)
    with torch.no_grad():
        expected = network(torch.cat([image, tumor, background], dim=1))
        answer = imported(torch.cat([image, background, tumor], dim=1))
    assert torch.allclose(answer, expected, atol=0.02 if form == "half precision" else 1e-5)
    assert not imported.training
    assert settings.labels == ("background", "tumor")


def test_the_published_baseline_is_the_default(checkpoint):
    settings, _ = import_sw_fastedit(checkpoint)
    assert settings.channels == ("PET",)
    assert settings.preprocessing.spacing_mm == (2.03642011, 2.03642011, 3.0)
    assert settings.preprocessing.intensity == (PercentileScaling(low=0.05, high=99.95),)
    assert settings.guidance == SwFastEditGuidance(sigma=1)
    assert settings.inference == SlidingWindows(
        window=(128, 128, 128), overlap=0.25, blending="gaussian"
    )
    settings, _ = import_sw_fastedit(checkpoint, scaling="range", sigma=2)
    assert settings.preprocessing.intensity == (RangeScaling(low=0, high=43, clip=True),)
    assert settings.guidance == SwFastEditGuidance(sigma=2)


def test_several_labels_and_image_channels(tmp_path):
    network = original(inputs=5, outputs=3)
    path = saved({"net": network.state_dict()}, tmp_path / "c.pt")
    settings, imported = import_sw_fastedit(path, labels=("a", "b"), channels=("CT", "PET"))
    assert settings.labels == ("background", "a", "b")
    assert len(settings.preprocessing.intensity) == 2
    ct, pet, background, a, b = torch.rand(5, 1, 1, 16, 16, 8)
    with torch.no_grad():
        expected = network(torch.cat([ct, pet, a, b, background], dim=1))
        answer = imported(torch.cat([ct, pet, background, a, b], dim=1))
    assert torch.allclose(answer, expected, atol=1e-5)


def test_without_clicks_the_image_is_the_whole_input(tmp_path):
    network = original(inputs=1)
    settings, imported = import_sw_fastedit(saved(network.state_dict(), tmp_path / "c.pt"))
    assert settings.guidance is None
    image = torch.rand(1, 1, 16, 16, 8)
    with torch.no_grad():
        assert torch.equal(imported(image), network(image))


@pytest.mark.parametrize("residual", [True, False])
def test_as_many_filters_as_inputs(residual, tmp_path):
    network = original(filters=(3, 6, 8), res_block=residual)
    path = saved(network.state_dict(), tmp_path / "c.pt")
    if residual:
        with pytest.raises(ModelFileError, match="cannot be put into another order"):
            import_sw_fastedit(path)
        return
    image, background, tumor = torch.rand(3, 1, 1, 16, 16, 8)
    with torch.no_grad():
        expected = network(torch.cat([image, tumor, background], dim=1))
        _, imported = import_sw_fastedit(path)
        answer = imported(torch.cat([image, background, tumor], dim=1))
    assert torch.allclose(answer, expected, atol=1e-5)


def zeros(build):
    """The state of a network of zeros, which takes no time to draw."""
    with torch.device("meta"):
        state = build().state_dict(keep_vars=True)
    distinct = {id(tensor): torch.zeros(tensor.shape) for tensor in state.values()}
    return {name: distinct[id(tensor)] for name, tensor in state.items()}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found(name):
    state = zeros(lambda: build_network(NetworkSettings(name=name), 3, 2))
    found = DynUNetState.of(state, PATH)
    assert found.network == NetworkSettings(name=name)
    assert (found.in_channels, found.out_channels) == (3, 2)
    everything = {tensor.data_ptr() for tensor in state.values()}
    assert {tensor.data_ptr() for tensor in found.weights.values()} == everything


# the sizes of SW-FastEdit, as its get_network has them
SIZES = {
    "dynunet": {"strides": [1, 2, 2, 2, 2, [2, 2, 1]], "filters": None},
    "dynunet-small": {"strides": [1, 2, [2, 2, 1]], "filters": None},
    "dynunet-big": {"strides": [1, 2, 2, 2, 2, 2, [2, 2, 1]], "filters": None},
    "dynunet-huge": {
        "strides": [1, 2, 2, 2, 2, 2, 2],
        "filters": [32, 64, 128, 192, 256, 384, 512],
        "dropout": 0.1,
    },
}


@pytest.mark.parametrize("name", SIZES)
def test_the_original_s_sizes_are_presets(name):
    found = DynUNetState.of(zeros(lambda: original(**SIZES[name])), PATH)
    assert found.network == NetworkSettings(name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"filters": (9, 8, 6)},
        {"strides": (1, 1, [2, 1, 2], 2), "filters": (4, 4, 5, 6)},
        {"res_block": False},
        {"norm_name": "batch"},
        {"kernel_size": [[3, 3, 1]] * 3},
        {"deep_supervision": True, "deep_supr_num": 1},
    ],
)
def test_other_sizes_become_options(changes, tmp_path):
    network = original(**changes)
    path = saved({"net": network.state_dict()}, tmp_path / "c.pt")
    settings, imported = import_sw_fastedit(path, window=(16, 16, 24))
    assert settings.network.name == "dynunet"
    image, background, tumor = torch.rand(3, 1, 1, 16, 16, 24)
    with torch.no_grad():
        expected = network(torch.cat([image, tumor, background], dim=1))
        answer = imported(torch.cat([image, background, tumor], dim=1))
    assert torch.allclose(answer, expected, atol=1e-5)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self._folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self._folder),))


def test_a_file_that_needs_unpickling_is_refused_and_runs_nothing(tmp_path):
    trap = Trap(tmp_path / "sprung")
    content = {"net": original().state_dict(), "trainer": trap}
    with pytest.raises(ModelFileError, match=r"Python object \(\w+\.mkdir\).*weights_only=False"):
        import_sw_fastedit(saved(content, tmp_path / "c.pt"))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(ModelFileError, match="another kind of file"):
        import_sw_fastedit(tmp_path / "raw.pt")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelFileError, match=r"PyTorch 1\.6 or later"):
        import_sw_fastedit(tmp_path / "old.pt")
    assert not (tmp_path / "sprung").exists()
    # what the message advises leads on
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        torch.save({"net": torch.load("c.pt", weights_only=False)["net"]}, "weights.pt")
    assert (tmp_path / "sprung").exists()
    import_sw_fastedit(tmp_path / "weights.pt")


def test_other_and_damaged_files_are_refused(checkpoint, tmp_path):
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("letter.txt", "not a checkpoint")
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    for name in ("cut", "empty", "text", "zip", "script"):
        with pytest.raises(ModelFileError, match=rf"{name}\.pt: .* damaged"):
            import_sw_fastedit(tmp_path / f"{name}.pt")
    with pytest.raises(ModelFileError, match="no such file"):
        import_sw_fastedit(tmp_path)


def test_damaged_bytes_are_refused_or_harmless(checkpoint, tmp_path):
    """A flipped byte in what describes the tensors never leads to another error."""
    whole = checkpoint.read_bytes()
    start = whole.index(b"data.pkl")
    for place in range(start, start + 3000, 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            import_sw_fastedit(tmp_path / "damaged.pt")
        except ModelFileError as error:
            assert "damaged.pt" in str(error)  # noqa: PT017 - some bytes change nothing


def test_safetensors_need_no_import(checkpoint, tmp_path):
    save_file(original().output_block.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="needs no import"):
        import_sw_fastedit(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 8, 7), nn.Linear(8, 2)).state_dict(),
            r"0\.weight \(8, 3, 7, 7",
        ),
        ({"epoch": 3, "optimizer": {}}, "no tensors, but 'epoch', 'optimizer'"),
        ({"net": {}}, "something else"),
        (torch.zeros(3), "something else"),
    ],
)
def test_foreign_contents_are_refused(content, found, tmp_path):
    with pytest.raises(ModelFileError, match=rf"'input_block.conv1.conv.weight'.*{found}"):
        import_sw_fastedit(saved(content, tmp_path / "c.pt"))


def without(name):
    def change(state):
        return {key: tensor for key, tensor in state.items() if not key.endswith(name)}

    return change


def with_tensor(name, tensor):
    return lambda state: {**state, name: tensor}


BOTTLENECK = "bottleneck.conv2.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bottleneck.conv1.conv.weight"), "'bottleneck.conv1.conv.weight' is missing"),
        (without("conv_block.conv2.conv.weight"), r"missing: upsamples\.0\.conv_block\.conv2"),
        (with_tensor("head.weight", torch.zeros(2)), r"too many: head\.weight \(2,\)"),
        (
            lambda _: original(norm_name=("instance", {"affine": True})).state_dict(),
            r"too many: input_block\.norm1\.weight",
        ),
        (
            with_tensor(BOTTLENECK, torch.zeros(9, 9, 1, 1, 1)),
            r"bottleneck\.conv2\.conv\.weight \(9, 9, 1, 1, 1\) instead of \(9, 9, 3, 3, 3\)",
        ),
        (
            lambda _: original(
                spatial_dims=2, strides=(1, 2, 2), upsample_kernel_size=[2, 2]
            ).state_dict(),
            r"3D DynUNet.*\(6, 3, 3, 3\)",
        ),
        (
            with_tensor("upsamples.0.transp_conv.conv.weight", torch.zeros(9, 8, 9, 9, 9)),
            "no DynUNet has such weights",
        ),
        (
            lambda _: original(kernel_size=[2] * 3).state_dict(),
            "kernel must be odd",
        ),
        (with_tensor(BOTTLENECK, torch.full((9, 9, 3, 3, 3), torch.nan)), "NaN or infinite"),
        (with_tensor(BOTTLENECK, torch.full((9, 9, 3, 3, 3), torch.inf)), "NaN or infinite"),
        (with_tensor(BOTTLENECK, torch.zeros(1).expand(9, 9, 3, 3, 3)), "one value for each"),
        (with_tensor(BOTTLENECK, torch.zeros(9, 9, 3, 3, 3).int()), r"found torch\.int32"),
        (with_tensor(BOTTLENECK, torch.zeros(9, 9, 3, 3, 3, device="meta")), "one value for each"),
    ],
)
def test_what_is_not_such_a_dynunet_is_refused(change, message, tmp_path):
    path = saved({"net": change(original().state_dict())}, tmp_path / "c.pt")
    with pytest.raises(ModelFileError, match=rf"c\.pt.*{message}"):
        import_sw_fastedit(path)


def test_a_size_that_a_file_only_claims_takes_no_memory(tmp_path):
    state = original().state_dict()
    for level in ("input_block", "downsamples.0", "bottleneck"):
        state[f"{level}.conv1.conv.weight"] = torch.zeros(1_000_000, 3, 1, 1, 1)
    with pytest.raises(ModelFileError, match="of another shape"):
        import_sw_fastedit(saved(state, tmp_path / "c.pt"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": ("a", "b")}, ModelFileError, r"2 outputs.*1 label\(s\).*got 2 \(a, b\)"),
        ({"labels": ()}, ModelFileError, "got 0"),
        ({"channels": ("CT", "PET")}, ModelFileError, r"4 inputs, or 2 .*found 3"),
        ({"labels": ("background",)}, UsageError, "labels must differ"),
        ({"window": (127, 128, 128)}, UsageError, "multiples"),
        ({"window": (0, 128, 128)}, UsageError, "window"),
        ({"overlap": 1.0}, UsageError, "overlap"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, UsageError, "spacing_mm"),
        ({"sigma": -1.0}, UsageError, "sigma"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message, checkpoint):
    with pytest.raises(error, match=rf"checkpoint\.pt.*{message}"):
        import_sw_fastedit(checkpoint, **arguments)


def run(*arguments) -> int:
    return main(["import-weights", *map(str, arguments)])


def test_the_command_leaves_a_model_file(tmp_path, capsys):
    path = saved({"net": original(inputs=4, outputs=2).state_dict()}, tmp_path / "c.pt")
    out = tmp_path / "new/folder/model.safetensors"
    options = ["--label", "lesion", "--channel", "CT", "--channel", "PET", "--scaling", "range"]
    options += ["--spacing-mm", 4, 4, 4, "--sigma", 2, "--window", 64, 64, 32, "--overlap", 0.5]
    assert run(path, "--out", out, *options) == 0
    parameters = sum(parameter.numel() for parameter in original(inputs=4).parameters())
    assert capsys.readouterr().out == (
        f"dynunet ({parameters:,} parameters), 4 inputs (CT, PET and clicks), 2 outputs "
        f"(background, lesion) -> {out}\n"
    )
    settings, network = import_sw_fastedit(
        path,
        labels=["lesion"],
        channels=["CT", "PET"],
        scaling="range",
        spacing_mm=(4, 4, 4),
        sigma=2,
        window=(64, 64, 32),
        overlap=0.5,
    )
    loaded = load_model(out, "cpu")
    assert loaded.settings.model_dump_json() == settings.model_dump_json()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)


def test_the_command_refuses_another_suffix(checkpoint, tmp_path, capsys):
    assert run(checkpoint, "--out", tmp_path / "model.pt") == 2
    assert "model.pt: expected a name that ends in .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "model.pt").exists()


def test_the_command_leaves_an_older_file_when_it_fails(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_text("an older one")
    (tmp_path / "c.pt").write_text("no checkpoint")
    assert run(tmp_path / "c.pt", "--out", tmp_path / "model.safetensors") == 1
    assert "c.pt: expected a checkpoint of PyTorch" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text() == "an older one"
