"""Layouts of memory: PyTorch's own instance norm is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voxclick.networks import NetworkSettings, build_network, lay_out_for
from voxclick.networks.channels_last import ChannelsLastInstanceNorm3d

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_and_its_gradient_equal_pytorchs(affine, batch):
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(5, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    ours = ChannelsLastInstanceNorm3d.like(norm)
    values = torch.randn(batch, 5, 4, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    results = []
    for module in (norm, ours):
        leaf = values.clone(memory_format=torch.preserve_format).requires_grad_()
        output = module(leaf)
        (output**3).sum().backward()
        results.append((output, leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-5)
    assert results[1][0].is_contiguous(memory_format=torch.channels_last_3d)


def test_with_channels_first_it_is_pytorchs_to_the_last_bit():
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(5, affine=True)
    values = torch.randn(3, 5, 4, 6, 7)
    assert torch.equal(ChannelsLastInstanceNorm3d.like(norm)(values), norm(values))


def test_a_single_voxel_is_refused_as_pytorch_refuses_it():
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        ChannelsLastInstanceNorm3d(5)(torch.zeros(1, 5, 1, 1, 1))


def test_the_layout_changes_speed_alone():
    torch.manual_seed(0)
    settings = NetworkSettings(name="dynunet-light", options={"filters": [4, 8, 8, 8]})
    network = build_network(settings, 3, 2).eval()
    volume = torch.rand(2, 3, 16, 16, 24)
    before = network(volume)
    keys = list(network.state_dict())
    laid_out = lay_out_for(network, CPU)
    torch.testing.assert_close(laid_out(volume), before, rtol=1e-4, atol=1e-5)
    assert list(laid_out.state_dict()) == keys
    assert not any(type(module) is nn.InstanceNorm3d for module in laid_out.modules())
