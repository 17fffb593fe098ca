"""Networks that are fast in either layout of memory.

oneDNN's 3D convolutions are fastest with channels last, and cuDNN's in half precision often are.
But PyTorch's instance norm copies such tensors to channels first and back, which costs more than
the layout gains. Batch norm has kernels for channels last, and instance norm is batch norm of one
sample at a time: the same numbers, without the copies (a batch of several is joined once).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ChannelsLastInstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm over (batch, channel, i, j, k), without copies where channels are last.

    It has the parameters of the `torch.nn.InstanceNorm3d` that it stands for, and its result.
    """

    @staticmethod
    def like(norm: nn.InstanceNorm3d) -> ChannelsLastInstanceNorm3d:
        """One that shares the parameters of an instance norm without running statistics."""
        mine = ChannelsLastInstanceNorm3d(norm.num_features, norm.eps, affine=norm.affine)
        mine.weight, mine.bias = norm.weight, norm.bias
        return mine

    def as_pytorch(self) -> nn.InstanceNorm3d:
        """PyTorch's own, sharing the parameters of this one."""
        norm = nn.InstanceNorm3d(self.num_features, self.eps, affine=self.affine)
        norm.weight, norm.bias = self.weight, self.bias
        return norm

    def forward(self, input: Tensor) -> Tensor:
        if input.is_contiguous() or not input.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(input)
        normed = [self._normed(sample) for sample in input.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)

    def _normed(self, sample: Tensor) -> Tensor:
        # As rows of channels: on a GPU, volumes with channels last have no kernel of their own.
        # And not by cuDNN's, which may overflow, and add in any order.
        voxels = sample.movedim(1, -1)
        normed = torch.batch_norm(
            voxels.reshape(-1, sample.shape[1]),
            self.weight,
            self.bias,
            running_mean=None,
            running_var=None,
            training=True,
            momentum=0.0,
            eps=self.eps,
            cudnn_enabled=False,
        )
        return normed.view(voxels.shape).movedim(-1, 1)


def lay_out_for(network: nn.Module, device: torch.device) -> nn.Module:
    """Make a network fast on a device; its results stay the same.

    Returns:
        The network itself on ``device``, its instance norms exchanged by such as keep either
        layout. On a CPU it works with channels last whatever it is given, on a GPU in the layout
        of its input.
    """
    network = network.to(device)
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.InstanceNorm3d and not child.track_running_stats:
                setattr(parent, name, ChannelsLastInstanceNorm3d.like(child))
    if device.type != "cpu":
        return network
    # the overload is missing from PyTorch's annotations
    return network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]


def in_plain_layout(network: nn.Module) -> nn.Module:
    """The same network with PyTorch's own instance norms, for what does not know ours.

    Returns:
        The network itself if it has none of ours, else a copy that shares its weights.
    """
    if not any(isinstance(module, ChannelsLastInstanceNorm3d) for module in network.modules()):
        return network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    plain = copy.deepcopy(network, shared)
    for parent in plain.modules():
        for name, child in parent.named_children():
            if isinstance(child, ChannelsLastInstanceNorm3d):
                setattr(parent, name, child.as_pytorch())
    return plain
