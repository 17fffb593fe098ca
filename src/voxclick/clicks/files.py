"""Click files: two JSON forms, coordinates in voxels (i, j, k) of the image file's own array.

labels: ``{"tumor": [[109, 103, 353], ...], "background": [[84, 84, 264], ...]}``

points, as grand-challenge.org has it: ``{"version": {"major": 1, "minor": 0},
"type": "Multiple points", "points": [{"point": [109, 103, 353], "name": "tumor"}, ...]}``
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from voxclick.clicks.click import Click
from voxclick.errors import ClickError
from voxclick.files import replace_when_written
from voxclick.types import Index3

POINTS_TYPE = "Multiple points"


def read_clicks(path: str | Path) -> list[Click]:
    """Read a click file of either form; fractions of a voxel are rounded to the nearest one.

    The labels form keeps the order of the clicks within a label only. Clicks of a log
    (`voxclick.clicks.logs`) that were taken back are left out.

    Raises:
        ClickError: missing, not JSON, of neither form, or a coordinate that is no voxel.
    """
    path = Path(path)
    content = read_click_json(path)
    if not is_points_form(content):
        return _from_labels_form(content, path)
    clicks = clicks_of_points(content, path)
    return [
        click
        for click, point in zip(clicks, content["points"], strict=True)
        if point.get("removed") is None
    ]


def read_click_json(path: Path) -> dict[str, Any]:
    """What a click file holds, of whatever form.

    Raises:
        ClickError: missing, not JSON, or no JSON object.
    """
    if not path.is_file():
        raise ClickError(f"{path}: there is no such click file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ClickError(f"{path}: the click file cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise _unexpected(path, "a JSON object", content)
    return content


def is_points_form(content: dict[str, Any]) -> bool:
    """Whether this is the points form, not the labels form."""
    return isinstance(content.get("type"), str)


def clicks_of_points(content: dict[str, Any], path: Path) -> list[Click]:
    """A click for every point of the points form.

    Raises:
        ClickError: not the points form, or a coordinate that is no voxel.
    """
    points = content.get("points")
    if content.get("type") != POINTS_TYPE or not isinstance(points, list):
        raise ClickError(
            f"{path}: expected the type {POINTS_TYPE!r} with a list 'points', got the type "
            f"{content.get('type')!r} with {', '.join(sorted(content))}"
        )
    clicks: list[Click] = []
    for point in points:
        if not isinstance(point, dict) or not isinstance(point.get("name"), str):
            raise _unexpected(path, 'points like {"point": [1, 2, 3], "name": "tumor"}', point)
        clicks.append(Click(_voxel(point.get("point"), path), point["name"]))
    return clicks


def write_clicks(
    clicks: Sequence[Click], path: str | Path, form: Literal["labels", "points"] = "labels"
) -> None:
    """Write a click file; an older one of that name is replaced only when all is written."""
    path = Path(path)
    content = _to_points_form(clicks) if form == "points" else _to_labels_form(clicks)
    with replace_when_written(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _to_labels_form(clicks: Sequence[Click]) -> dict[str, list[list[int]]]:
    voxels: dict[str, list[list[int]]] = {}
    for click in clicks:
        voxels.setdefault(click.label, []).append(list(click.index))
    return voxels


def _to_points_form(clicks: Sequence[Click]) -> dict[str, object]:
    return {
        "version": {"major": 1, "minor": 0},
        "type": POINTS_TYPE,
        "points": [{"point": list(click.index), "name": click.label} for click in clicks],
    }


def _from_labels_form(content: dict[str, Any], path: Path) -> list[Click]:
    clicks: list[Click] = []
    for label, voxels in content.items():
        if not isinstance(voxels, list):
            raise _unexpected(path, f"a list of voxels for the label {label!r}", voxels)
        clicks += [Click(_voxel(voxel, path), label) for voxel in voxels]
    return clicks


def _voxel(value: object, path: Path) -> Index3:
    if not isinstance(value, list) or len(value) != 3:
        raise _unexpected(path, "three voxel coordinates", value)
    i, j, k = (_coordinate(number, value, path) for number in value)
    return (i, j, k)


def _coordinate(number: object, voxel: list[object], path: Path) -> int:
    # bool is an int to Python, but true is no coordinate
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _unexpected(path, "three voxel coordinates", voxel)
    if isinstance(number, float) and not math.isfinite(number):
        raise _unexpected(path, "finite voxel coordinates", voxel)
    if round(number) < 0:
        raise ClickError(
            f"{path}: the click {voxel} has a negative coordinate; click files count voxels of "
            "the image file from 0 (not mm)"
        )
    return round(number)


def _unexpected(path: Path, expected: str, value: object) -> ClickError:
    found = json.dumps(value)
    return ClickError(
        f"{path}: expected {expected}, got {found if len(found) <= 60 else found[:60] + ' …'}"
    )
