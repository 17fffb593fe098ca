"""Clicks and the files that hold them."""

from voxclick.clicks.click import Click

__all__ = ["Click"]
