"""The console that commands speak through."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: a path may hold ``[final]`` or ``:x:``.

    Args:
        stderr: for errors and warnings; their lines are not broken, so that they can be searched.
    """
    return Console(stderr=stderr, soft_wrap=stderr, highlight=False, markup=False, emoji=False)
