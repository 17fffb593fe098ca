"""How a command ends: an exit code, and an error as one message.

Exit codes: 0 fine, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from voxclick.cli.console import plain_console
from voxclick.errors import UsageError, VoxclickError
from voxclick.hardware import saying_when_memory_is_full

_INTERRUPTED = 130
"""As shells have it of what Ctrl-C has ended; typer exits with it, too."""


def reporting_errors(run: Callable[[], int | None], debug: bool) -> int:
    """Run a command; returns the exit code.

    Args:
        run: the command; None stands for 0.
        debug: let errors through with their traceback, and warnings with their place.
    """
    console = plain_console(stderr=True)
    with warnings.catch_warnings():
        if debug:
            return _exit_code(run)
        warnings.showwarning = _one_line_warning(console)
        try:
            with saying_when_memory_is_full():
                code = _exit_code(run)
        except KeyboardInterrupt:
            code = _INTERRUPTED
        except VoxclickError as error:
            _print_error(console, error)
            return 2 if isinstance(error, UsageError) else 1
        except OSError as error:  # a disk that is full, a folder that may not be written
            place = f"{error.filename}: " if error.filename else ""
            _print_error(console, f"{place}{error.strerror or error}")
            return 1
        except Exception as error:  # noqa: BLE001 - said to be a fault of ours, and how to see where
            console.print(
                f"unexpected error: {type(error).__name__}: {error}\n"
                "This is a fault of voxclick; run again with --debug and report the traceback."
            )
            return 1
        if code == _INTERRUPTED:
            console.print("interrupted")
        return code


def _exit_code(run: Callable[[], int | None]) -> int:
    try:
        return run() or 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1


def _print_error(console: Console, message: object) -> None:
    console.print(Text.assemble(("error:", "red"), f" {message}"))


def _one_line_warning(console: Console):
    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if category is UserWarning:
            console.print(f"warning: {message}")

    return show
