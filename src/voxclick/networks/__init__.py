"""Networks by name: MONAI's DynUNet in the field's sizes, and a place for a user's own."""

from voxclick.networks.channels_last import lay_out_for
from voxclick.networks.openvino import OpenVinoNetwork
from voxclick.networks.registry import (
    NetworkSettings,
    build_network,
    is_same_network,
    list_networks,
    register_network,
    window_multiple,
)

__all__ = [
    "NetworkSettings",
    "OpenVinoNetwork",
    "build_network",
    "is_same_network",
    "lay_out_for",
    "list_networks",
    "register_network",
    "window_multiple",
]
