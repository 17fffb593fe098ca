"""Networks: the original's sizes, window multiples, and a user's own."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from voxclick.errors import UsageError
from voxclick.networks import (
    NetworkSettings,
    build_network,
    list_networks,
    register_network,
    registry,
    window_multiple,
)
from voxclick.networks.registry import _own_networks


def parameters(network: nn.Module) -> int:
    # shared tensors are counted once
    return sum(p.numel() for p in network.parameters())


def test_dynunet_has_the_size_of_the_original():
    network = build_network(NetworkSettings(name="dynunet"), in_channels=3, out_channels=2)
    # SW-FastEdit reports 31.0 M parameters for 3 inputs and 2 outputs
    assert round(parameters(network) / 1e6, 1) == 31.0


@pytest.mark.parametrize(
    ("name", "multiple"),
    [
        ("dynunet", (32, 32, 16)),
        ("dynunet-small", (4, 4, 2)),
        ("dynunet-big", (64, 64, 32)),
        ("dynunet-huge", (64, 64, 64)),
        ("dynunet-light", (8, 8, 8)),
        ("dynunet-2d", (32, 32, 1)),
        ("dynunet-light-2d", (8, 8, 1)),
    ],
)
def test_window_multiples_are_the_products_of_the_strides(name, multiple):
    assert window_multiple(NetworkSettings(name=name)) == multiple


@pytest.mark.parametrize("name", ["dynunet-small", "dynunet-light"])
def test_output_has_one_channel_per_label_on_the_same_grid(name):
    network = build_network(NetworkSettings(name=name), in_channels=4, out_channels=3)
    assert network(torch.zeros(1, 4, 16, 24, 8)).shape == (1, 3, 16, 24, 8)


def test_deep_supervision_adds_outputs_in_training_only():
    settings = NetworkSettings(name="dynunet-light", options={"deep_supervision_heads": 2})
    network = build_network(settings, in_channels=3, out_channels=2)
    image = torch.zeros(1, 3, 16, 16, 16)
    assert network.train()(image).shape == (1, 3, 2, 16, 16, 16)
    assert network.eval()(image).shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize("name", ["dynunet-2d", "dynunet-light-2d"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_2d_network_is_monais_of_two_axes(name, norm):
    settings = NetworkSettings(name=name, options={"norm": norm})
    torch.manual_seed(0)
    ours = build_network(settings, in_channels=3, out_channels=2).eval()
    filters = {"dynunet-2d": [32, 64, 128, 256, 320, 320], "dynunet-light-2d": [16, 32, 64, 128]}
    levels = len(filters[name])
    monais = DynUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=2,
        kernel_size=[3] * levels,
        strides=[1, *[2] * (levels - 1)],
        upsample_kernel_size=[2] * (levels - 1),
        filters=filters[name],
        norm_name=norm,
        res_block=True,
    ).eval()
    monais.load_state_dict(
        {
            key: weights.squeeze(-1) if weights.ndim == 5 else weights
            for key, weights in ours.state_dict().items()
        }
    )
    image = torch.rand(1, 3, 64, 96, 2)
    with torch.no_grad():
        for k in range(2):
            expected = monais(image[..., k])
            torch.testing.assert_close(ours(image[..., k : k + 1])[..., 0], expected)
        if norm == "batch":  # which does not look at what is in the image
            both = torch.stack([monais(image[..., k]) for k in range(2)], dim=-1)
            torch.testing.assert_close(ours(image), both)


def test_options_change_a_preset():
    settings = NetworkSettings(name="dynunet-light", options={"filters": [4, 8, 8, 8]})
    small = build_network(settings, in_channels=3, out_channels=2)
    preset = build_network(NetworkSettings(name="dynunet-light"), in_channels=3, out_channels=2)
    assert parameters(small) < parameters(preset) / 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (NetworkSettings(name="unet9000"), "there is no network named 'unet9000'"),
        (NetworkSettings(options={"filters": [8, 8]}), "one entry per level"),
        (NetworkSettings(options={"colour": "red"}), "colour"),
        (NetworkSettings(options={"deep_supervision_heads": 5}), "must lie in 0…4"),
        (NetworkSettings(options={"kernel": [3, 3, 2]}), "kernel must be odd"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(UsageError, match=message):
        build_network(settings, in_channels=3, out_channels=2)


def test_a_network_of_ones_own(monkeypatch):
    monkeypatch.setattr("voxclick.networks.registry._own_networks", dict(_own_networks))
    register_network("line", lambda i, o, bias=True: nn.Conv3d(i, o, 1, bias=bias), (2, 2, 2))
    settings = NetworkSettings(name="line", options={"bias": False})
    assert "line" in list_networks()
    assert parameters(build_network(settings, 3, 2)) == 6
    assert window_multiple(settings) == (2, 2, 2)
    with pytest.raises(UsageError, match="exists already"):
        register_network("dynunet", nn.Conv3d)


def test_installed_packages_are_asked_for_a_name_that_is_not_known(monkeypatch):
    monkeypatch.setattr(registry, "_own_networks", {})
    group = registry.ENTRY_POINTS
    point = EntryPoint("mine", f"{__name__}:register_installed_network", group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._register_installed.cache_clear()
    settings = NetworkSettings(name="installed")
    assert window_multiple(settings) == (4, 4, 4)
    assert isinstance(build_network(settings, 3, 2), nn.Conv3d)
    with pytest.raises(UsageError, match="no network named 'other'"):
        build_network(NetworkSettings(name="other"), 3, 2)


def register_installed_network():
    register_network("installed", lambda i, o: nn.Conv3d(i, o, 1), (4, 4, 4))
