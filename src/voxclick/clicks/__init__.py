"""Clicks and the files that hold them."""

from voxclick.clicks.click import Click
from voxclick.clicks.files import read_clicks, write_clicks
from voxclick.clicks.history import ClickHistory

__all__ = ["Click", "ClickHistory", "read_clicks", "write_clicks"]
