"""Pages as the standard library, and as a browser without a network, read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

_VOID = frozenset({"meta", "img", "br", "input", "link", "hr"})
_FETCHES = re.compile(r"https?:|@import|url\((?!#)", re.IGNORECASE)


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = (c if isinstance(c, str) else c.text for c in self.children)
        return "".join(parts).strip()

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """The elements below it that have the tag and the attributes; ``_`` stands for ``-``."""
        wanted = {key.replace("_", "-"): value for key, value in attributes.items()}
        return [
            element
            for element in self._below()
            if tag in ("", element.tag) and wanted.items() <= element.attributes.items()
        ]

    def one(self, tag: str = "", **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    def _below(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._below()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """The page as a tree; every element must be closed where it was opened."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    (root,) = reader.open
    return root


def table(page: Element, name: str) -> list[list[str]]:
    """The text of a table's body."""
    body = page.one("table", id=name).one("tbody")
    return [
        [cell.text for cell in row.children if isinstance(cell, Element)] for row in body.all("tr")
    ]


def keys(page: Element, name: str, column: int) -> list[str]:
    """What a table's column is sorted by."""
    body = page.one("table", id=name).one("tbody")
    return [
        [cell for cell in row.children if isinstance(cell, Element)][column].attributes["data-key"]
        for row in body.all("tr")
    ]


def assert_needs_nothing_else(page: str) -> None:
    """Nothing is fetched: no address but of the page's own data and places."""
    assert not _FETCHES.search(page)
    root = parse(page)
    assert not root.all("link")
    for element in root.all():
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            value = element.attributes.get(key)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))


def assert_ids_are_unique_and_referred_ones_there(page: Element) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.all():
        for key, value in element.attributes.items():
            referred = re.findall(r"url\(#(.+?)\)", value)
            if key == "href" and value.startswith("#"):
                referred.append(value[1:])
            if key == "aria-labelledby":
                referred += value.split()
            assert set(referred) <= set(ids)


def in_browser(page: Path, folder: Path, script: str = "") -> Element:
    """What Chromium makes of a page, without a network.

    Skips the test where there is no Chromium.

    Args:
        page: to open.
        folder: for its profile.
        script: run when the page's own has run.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no chromium to open the page with")
    opened = folder / "opened.html"
    text = page.read_text(encoding="utf-8")
    opened.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=500,900",
            "--virtual-time-budget=2000",
            "--dump-dom",
            opened.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return parse(done.stdout)
