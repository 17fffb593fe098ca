"""The console that commands speak through."""

from __future__ import annotations

import sys

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: a path may hold ``[final]`` or ``:x:``.

    Lines are broken for people at a terminal alone; elsewhere a path in them is searched for.

    Args:
        stderr: for errors and warnings, whose lines are not broken at a terminal either.
    """
    soft_wrap = stderr or not sys.stdout.isatty()
    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)
