"""The clicks that requests carry, and the logs of them."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any

from voxclick import Click
from voxclick.clicks import BACKGROUND, ClickLog, read_click_log, write_click_log
from voxclick.errors import ClickError, UsageError

_logger = logging.getLogger(__name__)

_FOREGROUND = "foreground"


@dataclass(frozen=True)
class RequestedClicks:
    """Attributes:
    clicks: all of them, in voxels of the image.
    single_label: the label that foreground and background were clicked for, where the request has
        that form: its answer is a mask of this label alone. None for points by label.
    ignored: labels with points that only other models know.
    """

    clicks: tuple[Click, ...]
    single_label: str | None = None
    ignored: tuple[str, ...] = ()


def clicks_of_request(
    request: Mapping[str, Any], labels: Sequence[str], others: Collection[str] = ()
) -> RequestedClicks:
    """Read the clicks of a request for inference, in either form that 3D Slicer sends.

    ``{"tumor": [[i, j, k], …], "background": […]}``: a list of points for each label (DeepEdit).
    ``{"label": "tumor", "foreground": […], "background": […]}``: one label (DeepGrow).

    Args:
        request: with much else beside the clicks.
        labels: of the model, background first.
        others: labels of other models. 3D Slicer sends the points of all labels to every model.

    Raises:
        ClickError: points for a label that the model does not know, or that are no voxels.
    """
    if _FOREGROUND in request and _FOREGROUND not in labels:
        label = _single_label(request.get("label"), labels[1:])
        points = {label: request[_FOREGROUND], BACKGROUND: request.get(BACKGROUND)}
        return RequestedClicks(_clicks(points), label)
    foreign = [key for key, value in request.items() if key not in labels and _are_points(value)]
    unknown = [key for key in foreign if key not in others]
    if unknown:
        raise ClickError(
            f"there are clicks for {', '.join(map(repr, unknown))}, which the model does not "
            f"know; it knows {', '.join(labels)}"
        )
    clicks = _clicks({label: request.get(label) for label in labels})
    return RequestedClicks(clicks, ignored=tuple(foreign))


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


def client_of(request: Mapping[str, Any]) -> str | None:
    """Who asks; None if the request does not say.

    Raises:
        UsageError: something else than a name.
    """
    client = request.get("client_id")
    if client is None or client == "":
        return None
    if not isinstance(client, str):
        raise UsageError(f"client_id says {client!r}; expected a name")
    return client


@dataclass
class _Sitting:
    """Attributes:
    path: of the log.
    log: so far.
    seconds_before: what the log's clock stood at when the image was opened.
    opened: when that was, on the recorder's clock.
    """

    path: Path
    log: ClickLog
    seconds_before: float
    opened: float


class ClickRecorder:
    """Keeps a click log for each image and client, in a file that `voxclick metrics` reads.

    Its clock runs from the opening of the image, which is when a client was told to take it next,
    or its first request. When the client comes back to an image, from another one or to another
    server, the log goes on and its clock has stood still in between.

    Args:
        folder: for files ``IMAGE_CLIENT.json``; made when there is something to write.
        clock: seconds that only grow.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._sittings: dict[tuple[str, str | None], _Sitting] = {}
        self._image_of: dict[str | None, str] = {}
        # a client may ask several models about one image at the same time
        self._one_at_a_time = threading.RLock()

    def open(self, image: str, client: str | None) -> None:
        """A client begins to look at an image, for the first time or again."""
        with self._one_at_a_time:
            known = self._sittings.get((image, client))
            if known is None:
                path, log = self._log_on_disk(image, client)
            else:
                path, log = known.path, known.log
            self._sittings[image, client] = _Sitting(path, log, _end_of(log), self._clock())
            self._image_of[client] = image

    def record(self, image: str, client: str | None, clicks: Sequence[Click]) -> None:
        """The clicks of a client in an image, as they are now.

        Raises:
            OSError: the log cannot be written.
        """
        with self._one_at_a_time:
            if self._image_of.get(client) != image:
                self.open(image, client)
            sitting = self._sittings[image, client]
            seconds = round(sitting.seconds_before + self._clock() - sitting.opened, 3)
            log = sitting.log.followed_by(clicks, seconds)
            if log != sitting.log or not sitting.path.exists():
                write_click_log(log, sitting.path)
            sitting.log = log

    def _log_on_disk(self, image: str, client: str | None) -> tuple[Path, ClickLog]:
        """The file for a log, and what it holds."""
        started = datetime.now(timezone.utc)
        for path in _paths(self._folder, image, client):
            if not path.exists():
                return path, ClickLog(image, (), client, started)
            try:
                log = read_click_log(path)
            except ClickError as error:
                aside = path.with_name(f"{path.name}.{started:%Y%m%dT%H%M%S}.unreadable")
                _logger.warning("%s; it is kept as %s", error, aside.name)
                path.rename(aside)
                return path, ClickLog(image, (), client, started)
            if (log.case, log.annotator) == (image, client):
                return path, log
        raise AssertionError("no two have the same digest")


def _paths(folder: Path, image: str, client: str | None) -> Iterator[Path]:
    """Where a log may lie: a client may call itself anything, and a file may be another's."""
    name = image if client is None else f"{image}_{client}"
    if re.fullmatch(r"[\w.-]{1,100}", name):
        yield folder / f"{name}.json"
    digest = blake2b(f"{image}\0{client or ''}".encode(), digest_size=6).hexdigest()
    safe = re.sub(r"[^\w.-]", "-", name)[:100]
    yield folder / f"{safe}-{digest}.json"


def _end_of(log: ClickLog) -> float:
    return max((timed.removed or timed.seconds for timed in log.clicks), default=0.0)
