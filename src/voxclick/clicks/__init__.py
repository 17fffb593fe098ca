"""Clicks and the files that hold them."""

from voxclick.clicks.click import Click
from voxclick.clicks.files import read_clicks, write_clicks

__all__ = ["Click", "read_clicks", "write_clicks"]
