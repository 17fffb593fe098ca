"""Click logs: who clicked where and when, so that work can be measured and replayed.

The points form of `voxclick.clicks.files`, with more said in it, so that `read_clicks` reads it,
too: ``{"version": {"major": 1, "minor": 0}, "type": "Multiple points", "case": "patient-7",
"annotator": "anna", "started": "2025-03-01T09:30:00Z", "points": [{"point": [109, 103, 353],
"name": "tumor", "seconds": 12.5, "removed": 20.1}, ...]}``

``case``, ``annotator``, ``started`` and ``removed`` may be missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from voxclick.clicks.click import Click
from voxclick.clicks.files import (
    POINTS_TYPE,
    clicks_of_points,
    is_points_form,
    read_click_json,
)
from voxclick.errors import ClickError
from voxclick.files import replace_when_written

_MOMENT = TypeAdapter(datetime)


@dataclass(frozen=True)
class TimedClick:
    """A click, and when it was given.

    Attributes:
        click: in voxels of the image file.
        seconds: from the opening of the image to the click.
        removed: seconds from the opening to when the click was taken back; None if it stands.

    Raises:
        ClickError: a time that is negative or not finite, or taken back before it was given.
    """

    click: Click
    seconds: float
    removed: float | None = None

    def __post_init__(self) -> None:
        for name, time in (("seconds", self.seconds), ("removed", self.removed)):
            if time is not None and not (math.isfinite(time) and time >= 0):
                raise ClickError(
                    f"the click at voxel {self.click.index} has {name!r} {time}; expected a finite "
                    "number of seconds since the image was opened, 0 or more"
                )
        if self.removed is not None and self.removed < self.seconds:
            raise ClickError(
                f"the click at voxel {self.click.index} was taken back after {self.removed} s, "
                f"before it was given after {self.seconds} s; both count from the opening of the "
                "image"
            )


@dataclass(frozen=True)
class ClickLog:
    """What somebody clicked in one case.

    Attributes:
        case: its name.
        clicks: all that were given, those taken back included; put in order of time, and at one
            time in the order in which they come.
        annotator: who clicked, if that is known.
        started: when the image was opened, in UTC, if that is known.

    Raises:
        ClickError: `started` has no time zone.
    """

    case: str
    clicks: tuple[TimedClick, ...]
    annotator: str | None = None
    started: datetime | None = None

    def __post_init__(self) -> None:
        in_order = sorted(self.clicks, key=lambda timed: timed.seconds)
        object.__setattr__(self, "clicks", tuple(in_order))
        if self.started is None:
            return
        if self.started.tzinfo is None:
            raise ClickError(
                f"the log was started at {self.started.isoformat()}, which has no time zone; "
                "expected UTC, like 2025-03-01T09:30:00Z"
            )
        object.__setattr__(self, "started", self.started.astimezone(timezone.utc))

    @property
    def standing(self) -> tuple[TimedClick, ...]:
        """The clicks that were never taken back, in order of time: those that can be replayed."""
        return tuple(timed for timed in self.clicks if timed.removed is None)

    def followed_by(self, clicks: Sequence[Click], seconds: float) -> ClickLog:
        """The log after somebody's clicks have become others.

        Args:
            clicks: all that there are now. Those that stood before are not given again; those that
                stood and are missing were taken back.
            seconds: when, from the opening of the image.

        Raises:
            ClickError: a time that is negative, not finite, or before that of a click which is
                taken back.
        """
        after = set(clicks)
        known = tuple(
            timed
            if timed.removed is not None or timed.click in after
            else replace(timed, removed=seconds)
            for timed in self.clicks
        )
        standing = {timed.click for timed in self.standing}
        new = [click for click in dict.fromkeys(clicks) if click not in standing]
        return replace(self, clicks=(*known, *(TimedClick(click, seconds) for click in new)))


def read_click_log(path: str | Path) -> ClickLog:
    """Read a click log; the points may come in any order.

    Returns:
        The case is the file's name without its suffix where the log names none.

    Raises:
        ClickError: what `read_clicks` refuses, a click file of the labels form, which has no
            times, a point without its time, or times that cannot be.
    """
    path = Path(path)
    content = read_click_json(path)
    if not is_points_form(content):
        raise ClickError(
            f"{path}: a click log must have the type {POINTS_TYPE!r} and a list 'points', but this "
            "is a click file of the labels form, which knows no times"
        )
    clicks = clicks_of_points(content, path)
    times = [
        _times(click, point, path) for click, point in zip(clicks, content["points"], strict=True)
    ]
    case, annotator = _text(content, "case", path), _text(content, "annotator", path)
    started = _started(content, path)
    try:
        timed = tuple(TimedClick(click, *when) for click, when in zip(clicks, times, strict=True))
        return ClickLog(case or path.stem, timed, annotator, started)
    except ClickError as error:
        raise ClickError(f"{path}: {error}") from error


def write_click_log(log: ClickLog, path: str | Path) -> None:
    """Write a click log; an older one of that name is replaced only when all is written."""
    path = Path(path)
    about = {
        "case": log.case,
        "annotator": log.annotator,
        "started": None if log.started is None else log.started.isoformat(),
    }
    content = {
        "version": {"major": 1, "minor": 0},
        "type": POINTS_TYPE,
        **{key: value for key, value in about.items() if value is not None},
        "points": [_point(timed) for timed in log.clicks],
    }
    with replace_when_written(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _point(timed: TimedClick) -> dict[str, object]:
    point: dict[str, object] = {
        "point": list(timed.click.index),
        "name": timed.click.label,
        "seconds": timed.seconds,
    }
    return point if timed.removed is None else point | {"removed": timed.removed}


def _times(click: Click, point: dict[str, object], path: Path) -> tuple[float, float | None]:
    """When the click of a point was given, and when it was taken back."""
    if "seconds" not in point:
        raise ClickError(
            f"{path}: the click at voxel {click.index} has no time; every point of a click log has "
            "'seconds', from the opening of the image to the click"
        )
    removed = point.get("removed")
    return (
        _number(point["seconds"], "seconds", path),
        None if removed is None else _number(removed, "removed", path),
    )


def _number(value: object, name: str, path: Path) -> float:
    # bool is an int to Python, but true is no time
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ClickError(f"{path}: expected a number of seconds for {name!r}, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf  # an integer beyond all floats, which is no time either


def _text(content: dict[str, Any], name: str, path: Path) -> str | None:
    value = content.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ClickError(f"{path}: expected a name for {name!r}, got {value!r}")
    return value


def _started(content: dict[str, Any], path: Path) -> datetime | None:
    text = _text(content, "started", path)
    if text is None:
        return None
    try:
        return _MOMENT.validate_python(text)
    except ValidationError as error:
        raise ClickError(
            f"{path}: expected a time in UTC for 'started', like 2025-03-01T09:30:00Z, got {text!r}"
        ) from error
