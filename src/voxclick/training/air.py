"""How dark air is, and where the body is."""

from __future__ import annotations

from collections.abc import Iterable

import cc3d
import numpy as np

from voxclick.geometry.box import Box
from voxclick.simulation.errors import bounding_box
from voxclick.training.cache import PreparedCase

_MARGIN = 0.5
"""Unseen lesions may be fainter than the faintest that was seen: half as bright still counts."""


def air_threshold(cases: Iterable[PreparedCase]) -> float | None:
    """The value below which an image shows no labelled structure, for `ModelSettings.air_below`.

    Half the brightness of the faintest labelled component of all cases; a component is as bright
    as its brightest voxel in any channel.

    Returns:
        In the network's input; None where nothing is labelled, or something is no brighter than
        zero.
    """
    faintest = np.inf
    for case in cases:
        label = case.label.numpy()
        if not label.any():
            continue
        # as uint8: cc3d 4.1.1 fails on some boolean arrays
        components = np.asarray(cc3d.connected_components((label > 0).astype(np.uint8)))
        brightness = case.image.amax(dim=0).numpy()
        inside = components > 0
        brightest = np.full(int(components.max()) + 1, -np.inf)
        np.maximum.at(brightest, components[inside], brightness[inside])
        faintest = min(faintest, float(brightest[1:].min()))
    if not 0 < faintest < np.inf:
        return None
    return _MARGIN * faintest


def body_box(case: PreparedCase, air_below: float | None) -> Box | None:
    """The box around all that is brighter than air.

    Args:
        case: prepared.
        air_below: of `air_threshold`.

    Returns:
        In the network's grid; None where nobody knows, or nothing is as bright.
    """
    if air_below is None:
        return None
    return bounding_box((case.image >= air_below).any(dim=0))
