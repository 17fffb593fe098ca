"""Progress bars with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voxclick.sliding_window import ProgressCallback


@contextmanager
def case_progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar that moves by one at each call of what is yielded, whatever its arguments."""
    with _bar() as progress:
        task = progress.add_task(title, total=total)
        yield lambda *_: progress.advance(task)


@contextmanager
def step_progress(
    title: str, total: int, *, hidden: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many steps more are done.

    Args:
        hidden: in all but one of several processes, which share a terminal.
    """
    with _bar(hidden=hidden) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps: progress.advance(task, steps)


@contextmanager
def window_progress(title: str) -> Iterator[ProgressCallback]:
    """A bar that is told the windows done and the windows in all; it leaves nothing behind."""
    with _bar(transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _bar(*, transient: bool = False, hidden: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=transient,
        disable=hidden,
    )
