"""The registry: a name and its options make a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from voxclick.errors import UsageError
from voxclick.networks.dynunet import PRESETS, DynUNetOptions, build_dynunet, dynunet_multiple
from voxclick.types import Index3


class NetworkSettings(BaseModel):
    """Which network, stored with the weights.

    Attributes:
        name: a name from `list_networks`.
        options: changes to that network's defaults, e.g. ``{"filters": [16, 32, 64, 128]}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "dynunet"
    options: dict[str, Any] = {}


NetworkBuilder = Callable[..., nn.Module]
"""Called as ``builder(in_channels, out_channels, **options)``; maps a batch of inputs
(batch, channel, i, j, k) to logits (batch, label, i, j, k)."""


@dataclass(frozen=True)
class _OwnNetwork:
    builder: NetworkBuilder
    window_multiple: Index3


_own_networks: dict[str, _OwnNetwork] = {}

ENTRY_POINTS = "voxclick.networks"
"""Entry points of this group are called, without arguments, when a name is not known yet: there
installed packages call `register_network`, and the commands know their networks."""


def register_network(
    name: str, builder: NetworkBuilder, window_multiple: Index3 = (1, 1, 1)
) -> None:
    """Make a network of your own known under a name, for training and for loading its weights.

    Args:
        name: must not be taken by another network.
        builder: see `NetworkBuilder`; options come from `NetworkSettings.options`.
        window_multiple: its windows must have a multiple of this many voxels along (i, j, k).

    Raises:
        UsageError: the name is taken.
    """
    if name in list_networks():
        raise UsageError(f"a network named {name!r} exists already; choose another name")
    _own_networks[name] = _OwnNetwork(builder, window_multiple)


def list_networks() -> tuple[str, ...]:
    """All names that `build_network` knows."""
    return (*PRESETS, *_own_networks)


def build_network(settings: NetworkSettings, in_channels: int, out_channels: int) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        settings: name and options.
        in_channels: image channels plus one guidance channel per label.
        out_channels: labels, background included.

    Raises:
        UsageError: unknown name, or options that the network does not take.
    """
    own = _find_own(settings.name)
    if own is not None:
        return own.builder(in_channels, out_channels, **settings.options)
    return build_dynunet(in_channels, out_channels, _dynunet_options(settings))


def is_same_network(one: NetworkSettings, other: NetworkSettings) -> bool:
    """Whether two settings name one network, however its options are spelled out.

    Raises:
        UsageError: as `build_network`.
    """
    if _find_own(one.name) is not None or _find_own(other.name) is not None:
        return one == other
    return _dynunet_options(one) == _dynunet_options(other)


def window_multiple(settings: NetworkSettings) -> Index3:
    """Windows for this network must have a multiple of this many voxels along (i, j, k)."""
    own = _find_own(settings.name)
    if own is not None:
        return own.window_multiple
    return dynunet_multiple(_dynunet_options(settings))


def _find_own(name: str) -> _OwnNetwork | None:
    if name not in list_networks():
        _register_installed()
    return _own_networks.get(name)


@cache
def _register_installed() -> None:
    for entry_point in entry_points(group=ENTRY_POINTS):
        entry_point.load()()


def _dynunet_options(settings: NetworkSettings) -> DynUNetOptions:
    preset = PRESETS.get(settings.name)
    if preset is None:
        raise UsageError(
            f"there is no network named {settings.name!r}; known are {', '.join(list_networks())}"
            " (register_network adds your own)"
        )
    try:
        return DynUNetOptions.model_validate({**preset.model_dump(), **settings.options})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(f"network {settings.name!r}: {problems}") from error
