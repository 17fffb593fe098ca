"""Which DynUNet a state dict belongs to, found from its tensors alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from voxclick.errors import ModelFileError, UsageError
from voxclick.networks import NetworkSettings, build_network
from voxclick.networks.dynunet import PRESETS, DynUNetOptions
from voxclick.types import Index3

FIRST_WEIGHT = "input_block.conv1.conv.weight"
"""The first convolution's, (filter, channel, i, j, k)."""

_DEFAULT_FILTERS = (32, 64, 128, 256)
_MOST_DEFAULT_FILTERS = 320
"""nnU-Net's, which MONAI takes without others: doubled from level to level, up to this."""


@dataclass(frozen=True, eq=False)
class DynUNetState:
    """A DynUNet's weights, and what they show of it.

    Attributes:
        network: a preset by its name, or ``dynunet`` with other options. Dropout leaves no trace.
        in_channels: of the input.
        out_channels: of the output.
        weights: every tensor of the network, under the first of its names.
    """

    network: NetworkSettings
    in_channels: int
    out_channels: int
    weights: dict[str, Tensor]

    @staticmethod
    def of(state: Mapping[str, Tensor], path: Path) -> DynUNetState:
        """Find the size, and check every name, shape and value.

        Args:
            state: of a DynUNet with the same kernel at every level, as `build_dynunet` makes it.
                Names below ``skip_layers``, which repeat other ones, may be left out.
            path: where it comes from, for messages.

        Raises:
            ModelFileError: missing, unexpected or misshapen tensors, or values that are not finite
                numbers.
        """
        options, in_channels, out_channels = _find_size(state, path)
        network = _named(options)
        weights = _weights_of(network, in_channels, out_channels, state, path)
        return DynUNetState(network, in_channels, out_channels, weights)


def listed(items: Iterable[str]) -> str:
    """The first three of some items."""
    items = list(items)
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")


def with_shape(name: str, tensor: Tensor) -> str:
    return f"{name} {tuple(tensor.shape)}"


def _find_size(state: Mapping[str, Tensor], path: Path) -> tuple[DynUNetOptions, int, int]:
    """The options, and the numbers of input and output channels."""
    levels = ["input_block", *_blocks("downsamples", state), "bottleneck"]
    first, *lower = (_shape(state, f"{level}.conv1.conv.weight", path) for level in levels)
    upsamples = (f"upsamples.{number}" for number in reversed(range(len(lower))))
    # the kernel of an up-sampling is its stride
    kernels = [_shape(state, f"{block}.transp_conv.conv.weight", path)[2:] for block in upsamples]
    try:
        options = DynUNetOptions(
            strides=(1, *map(_sizes, kernels)),
            kernel=_sizes(first[2:]),
            filters=(first[0], *(shape[0] for shape in lower)),
            residual="bottleneck.conv3.conv.weight" in state,
            norm="batch" if "input_block.norm1.running_mean" in state else "instance",
            deep_supervision_heads=len(_blocks("deep_supervision_heads", state)),
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ModelFileError(f"{path}: no DynUNet has such weights: {problem}") from error
    return options, first[1], _shape(state, "output_block.conv.conv.weight", path)[0]


def _blocks(kind: str, state: Mapping[str, Tensor]) -> list[str]:
    """The blocks of a kind that there are, numbered from 0."""
    numbers = {name.split(".")[1] for name in state if name.startswith(f"{kind}.")}
    return [f"{kind}.{number}" for number in range(len(numbers))]


def _shape(state: Mapping[str, Tensor], name: str, path: Path) -> tuple[int, ...]:
    if name not in state:
        raise ModelFileError(f"{path}: expected the weights of a DynUNet, but {name!r} is missing")
    shape = tuple(state[name].shape)
    if len(shape) != 5:
        raise ModelFileError(
            f"{path}: expected the weights of a 3D DynUNet, but {name!r} has the shape {shape} "
            "instead of five axes"
        )
    return shape


def _sizes(along_axes: Sequence[int]) -> int | Index3:
    i, j, k = along_axes
    return i if i == j == k else (i, j, k)


def _named(options: DynUNetOptions) -> NetworkSettings:
    for name, preset in PRESETS.items():
        if _visible(preset) == options:
            return NetworkSettings(name=name)
    return NetworkSettings(name="dynunet", options=options.model_dump(mode="json"))


def _visible(preset: DynUNetOptions) -> DynUNetOptions:
    """A preset as its weights show it."""
    more = (_MOST_DEFAULT_FILTERS,) * len(preset.strides)
    default = (*_DEFAULT_FILTERS, *more)[: len(preset.strides)]
    return preset.model_copy(update={"filters": preset.filters or default, "dropout": None})


def _weights_of(
    network: NetworkSettings,
    in_channels: int,
    out_channels: int,
    state: Mapping[str, Tensor],
    path: Path,
) -> dict[str, Tensor]:
    try:
        with torch.device("meta"):  # no memory for what a damaged file may claim
            built = build_network(network, in_channels, out_channels)
    except (UsageError, AssertionError) as error:  # MONAI asserts that strides fit the kernel
        raise ModelFileError(f"{path}: no DynUNet has such weights: {error}") from error
    expected = built.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        names.setdefault(id(tensor), []).append(name)
    stored = {same[0]: [name for name in same if name in state] for same in names.values()}
    problems = {
        "missing": [name for name, found in stored.items() if not found],
        "too many": [with_shape(name, state[name]) for name in state if name not in expected],
        "of another shape": [
            f"{with_shape(name, state[name])} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    found = "; ".join(f"{kind}: {listed(items)}" for kind, items in problems.items() if items)
    if found:
        raise ModelFileError(
            f"{path}: the weights are not those of the DynUNet that they seem to be; {found}"
        )
    weights = {name: state[found[0]] for name, found in stored.items()}
    for name, tensor in weights.items():
        _check_values(name, tensor, expected[name], path)
    return weights


def _check_values(name: str, tensor: Tensor, expected: Tensor, path: Path) -> None:
    is_whole = (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
    )
    if not is_whole or tensor.is_floating_point() != expected.is_floating_point():
        raise ModelFileError(
            f"{path}: expected {name!r} as {expected.dtype}, one value for each place, found "
            f"{tensor.dtype} of another form"
        )
    if not torch.isfinite(tensor.float()).all():
        raise ModelFileError(
            f"{path}: {name!r} holds NaN or infinite values, as a training that failed leaves "
            "them; take an earlier checkpoint"
        )
