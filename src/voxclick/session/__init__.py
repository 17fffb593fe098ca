"""The session engine: what the command line, evaluation and every server stand on."""

from voxclick.session.clicked_image import ClickedImage
from voxclick.session.pool import SessionPool
from voxclick.session.session import (
    DEFAULT_RADIUS_MM,
    InteractiveSession,
    Prediction,
    Update,
)
from voxclick.session.uncertainty import Proposal, Survey

__all__ = [
    "DEFAULT_RADIUS_MM",
    "ClickedImage",
    "InteractiveSession",
    "Prediction",
    "Proposal",
    "SessionPool",
    "Survey",
    "Update",
]
