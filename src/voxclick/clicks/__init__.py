"""Clicks, the files that hold them, and the prompts that become clicks."""

from voxclick.clicks.click import BACKGROUND, Click, ClickSpace
from voxclick.clicks.files import read_clicks, write_clicks
from voxclick.clicks.history import ClickHistory
from voxclick.clicks.logs import ClickLog, TimedClick, read_click_log, write_click_log
from voxclick.clicks.prompts import (
    PromptSettings,
    clicks_from_box,
    clicks_from_lasso,
    clicks_from_mask,
    clicks_from_polyline,
    clicks_from_scribble,
)

__all__ = [
    "BACKGROUND",
    "Click",
    "ClickHistory",
    "ClickLog",
    "ClickSpace",
    "PromptSettings",
    "TimedClick",
    "clicks_from_box",
    "clicks_from_lasso",
    "clicks_from_mask",
    "clicks_from_polyline",
    "clicks_from_scribble",
    "read_click_log",
    "read_clicks",
    "write_click_log",
    "write_clicks",
]
