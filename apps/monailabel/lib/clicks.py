"""The clicks that requests carry, and the logs of them."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any

from voxclick import Click
from voxclick.clicks import BACKGROUND, ClickLog, read_click_log, write_click_log
from voxclick.errors import ClickError

_logger = logging.getLogger(__name__)

_FOREGROUND = "foreground"


@dataclass(frozen=True)
class RequestedClicks:
    """Attributes:
    clicks: all of them, in voxels of the image.
    single_label: the label that foreground and background were clicked for, where the request has
        that form: its answer is a mask of this label alone. None for points by label.
    """

    clicks: tuple[Click, ...]
    single_label: str | None = None


def clicks_of_request(request: Mapping[str, Any], labels: Sequence[str]) -> RequestedClicks:
    """Read the clicks of a request for inference, in either form that 3D Slicer sends.

    ``{"tumor": [[i, j, k], …], "background": […]}``: a list of points for each label (DeepEdit).
    ``{"label": "tumor", "foreground": […], "background": […]}``: one label (DeepGrow).

    Args:
        request: with much else beside the clicks.
        labels: of the model, background first.

    Raises:
        ClickError: points for a label that the model does not know, or that are no voxels.
    """
    if _FOREGROUND in request and _FOREGROUND not in labels:
        label = _single_label(request.get("label"), labels[1:])
        points = {label: request[_FOREGROUND], BACKGROUND: request.get(BACKGROUND)}
        return RequestedClicks(_clicks(points), label)
    unknown = [key for key, value in request.items() if key not in labels and _are_points(value)]
    if unknown:
        raise ClickError(
            f"there are clicks for {', '.join(map(repr, unknown))}, which the model does not "
            f"know; it knows {', '.join(labels)}"
        )
    return RequestedClicks(_clicks({label: request.get(label) for label in labels}))


def _single_label(asked: object, foreground: Sequence[str]) -> str:
    """Whichever segment somebody clicks for, a model of one label can mean only that one."""
    if asked in foreground:
        return str(asked)
    if len(foreground) == 1:
        return foreground[0]
    raise ClickError(
        f"'label' says {asked!r}, but the model knows {', '.join(foreground)}; foreground and "
        "background are clicked for one of these"
    )


def _clicks(points_of: Mapping[str, object]) -> tuple[Click, ...]:
    clicks: list[Click] = []
    for label, points in points_of.items():
        if points is None:
            continue
        if not isinstance(points, list):
            raise ClickError(f"expected a list of voxels [i, j, k] for {label!r}, got {points!r}")
        clicks += [Click(_voxel(point, label), label) for point in points]
    return tuple(clicks)


def _voxel(point: object, label: str) -> tuple[int, int, int]:
    if not _is_point(point):
        raise ClickError(f"expected a voxel [i, j, k] for {label!r}, got {point!r}")
    i, j, k = (round(number) for number in point)
    return (i, j, k)


def _are_points(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_point, value))


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
        and all(map(math.isfinite, value))
    )


@dataclass
class _Sitting:
    """Attributes:
    log: so far.
    seconds_before: what the log's clock stood at when the image was opened.
    opened: when that was, on the recorder's clock.
    """

    log: ClickLog
    seconds_before: float
    opened: float


class ClickRecorder:
    """Keeps a click log for each image and client, in a file that `voxclick metrics` reads.

    Its clock runs from the opening of the image, which is when a client was told to take it next,
    or its first request. When the image is opened again, after a pause or by another server, the
    log goes on and its clock stands still in between.

    Args:
        folder: for files ``IMAGE_CLIENT.json``; made when there is something to write.
        clock: seconds that only grow.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._sittings: dict[tuple[str, str | None], _Sitting] = {}

    def open(self, image: str, client: str | None) -> None:
        """A client begins to look at an image, for the first time or again."""
        known = self._sittings.get((image, client))
        log = self._log_on_disk(image, client) if known is None else known.log
        self._sittings[image, client] = _Sitting(log, _end_of(log), self._clock())

    def record(self, image: str, client: str | None, clicks: Sequence[Click]) -> None:
        """The clicks of a client in an image, as they are now.

        Raises:
            OSError: the log cannot be written.
        """
        if (image, client) not in self._sittings:
            self.open(image, client)
        sitting = self._sittings[image, client]
        seconds = round(sitting.seconds_before + self._clock() - sitting.opened, 3)
        log = sitting.log.followed_by(clicks, seconds)
        path = self._path(image, client)
        if log != sitting.log or not path.exists():
            write_click_log(log, path)
        sitting.log = log

    def _log_on_disk(self, image: str, client: str | None) -> ClickLog:
        path = self._path(image, client)
        started = datetime.now(timezone.utc)
        if path.exists():
            try:
                return read_click_log(path)
            except ClickError as error:
                aside = path.with_name(f"{path.name}.{started:%Y%m%dT%H%M%S}.unreadable")
                _logger.warning("%s; it is kept as %s", error, aside.name)
                path.rename(aside)
        return ClickLog(image, (), client, started)

    def _path(self, image: str, client: str | None) -> Path:
        """A client may call itself anything; a file may not, and no two the same."""
        name = image if client is None else f"{image}_{client}"
        safe = re.sub(r"[^\w.-]", "-", name)
        if safe != name:
            safe += "-" + blake2b(name.encode(), digest_size=3).hexdigest()
        return self._folder / f"{safe}.json"


def _end_of(log: ClickLog) -> float:
    return max((timed.removed or timed.seconds for timed in log.clicks), default=0.0)
