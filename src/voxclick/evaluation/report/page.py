"""What the pages of reports are made of: tables, numbers in words, one file without links."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from voxclick.evaluation.report.words import METRIC_WORDS
from voxclick.files import replace_when_written

UNDEFINED = "–"
"""Stands where a score is undefined."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: shown.
        key: sorted by; empty where undefined, which comes last whatever the order.
    """

    text: str
    key: str


@dataclass(frozen=True)
class Column:
    """Attributes:
    title: shown.
    is_number: aligned at the right; else text.
    """

    title: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """Attributes:
    name: unique in the page.
    caption: what it shows.
    columns: the first names the rows.
    rows: as many cells as columns each.
    is_sortable: by each column.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_sortable: bool = False


@dataclass(frozen=True)
class KeyFigure:
    """Attributes:
    title: what it is.
    value: the figure.
    remark: below it.
    """

    title: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Plot:
    """Attributes:
    svg: the picture.
    caption: below it.
    """

    svg: Markup
    caption: str


def number(value: float | None, decimals: int = 3) -> Cell:
    """A cell with a figure; NaN and None are undefined."""
    if value is None or math.isnan(value):
        return Cell(UNDEFINED, "")
    return Cell(
        f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}"), repr(float(value))
    )


def signed(value: float | None, decimals: int = 3) -> Cell:
    """A cell with a difference; one that is rounded to nothing has no sign."""
    plain = number(value, decimals)
    if value is None or not plain.key:
        return plain
    size = number(abs(value), decimals).text
    is_nothing = float(f"{abs(value):.{decimals}f}") == 0
    sign = "" if is_nothing else ("+" if value > 0 else "−")
    return Cell(f"{sign}{size}", plain.key)


def whole(value: float) -> Cell:
    """A cell with a count; means over repeats may be broken."""
    return number(value, 0 if float(value).is_integer() else 1)


def words(text: str) -> Cell:
    """A cell with text."""
    return Cell(text, text)


def metric_cell(metric: str, value: float | None) -> Cell:
    """A cell with a score, in its usual number of decimals."""
    return number(value, METRIC_WORDS[metric].decimals)


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Settings in groups as ``group.name``: text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[name] = ", ".join(map(str, value)) or UNDEFINED
        else:
            flat[name] = UNDEFINED if value is None else str(value)
    return flat


def write_page(template: str, path: Path, **content: Any) -> None:
    """Write a page that needs no other file and no network.

    Args:
        template: name of a file in `templates`.
        path: an older file is replaced only when all is written.
        content: what the template speaks of; text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("voxclick.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**content)
    with replace_when_written(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
