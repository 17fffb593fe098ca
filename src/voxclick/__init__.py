"""Click-driven segmentation of volumetric medical images of any size."""

__version__ = "0.1.0"

from voxclick.allocator import reuse_freed_memory
from voxclick.clicks import (
    Click,
    clicks_from_box,
    clicks_from_lasso,
    clicks_from_mask,
    clicks_from_polyline,
    clicks_from_scribble,
    read_clicks,
    write_clicks,
)
from voxclick.errors import VoxclickError
from voxclick.io import read_label_map, read_volume, write_label_map, write_volume
from voxclick.model_files import load_ensemble, load_model
from voxclick.networks import register_network
from voxclick.session import InteractiveSession
from voxclick.volume import LabelMap, Volume

__all__ = [
    "Click",
    "InteractiveSession",
    "LabelMap",
    "Volume",
    "VoxclickError",
    "clicks_from_box",
    "clicks_from_lasso",
    "clicks_from_mask",
    "clicks_from_polyline",
    "clicks_from_scribble",
    "load_ensemble",
    "load_model",
    "read_clicks",
    "read_label_map",
    "read_volume",
    "register_network",
    "reuse_freed_memory",
    "write_clicks",
    "write_label_map",
    "write_volume",
]
