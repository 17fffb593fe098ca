"""`voxclick`: the command line's entry.

Exit codes: 0 fine, 1 failed, 2 wrong use. An error is one message; ``--debug``, anywhere on the
line, shows the traceback instead.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.text import Text

import voxclick
from voxclick.cli.bench import app as bench
from voxclick.cli.compare import compare
from voxclick.cli.console import plain_console
from voxclick.cli.demo import demo
from voxclick.cli.evaluate import evaluate
from voxclick.cli.metrics import metrics
from voxclick.cli.phantom import phantom
from voxclick.cli.rank import rank
from voxclick.cli.segment import segment
from voxclick.cli.train import train
from voxclick.errors import UsageError, VoxclickError

app = typer.Typer(
    name="voxclick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
app.command()(demo)
app.command()(phantom)
app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.command()(metrics)
app.command()(segment)
app.command()(rank)
app.add_typer(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voxclick {voxclick.__version__}")
        raise typer.Exit


@app.callback()
def voxclick_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error; may stand anywhere")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Segment 3D medical images by clicks. For research; not a medical device."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    console = plain_console(stderr=True)
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _one_line_warning(console)
        try:
            # standalone_mode=False would skip typer's own one-message usage errors
            app([argument for argument in arguments if argument != "--debug"])
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 1
        except KeyboardInterrupt:
            console.print("interrupted")
            return 1
        except VoxclickError as error:
            if debug:
                raise
            _print_error(console, error)
            return 2 if isinstance(error, UsageError) else 1
        except OSError as error:  # a disk that is full, a folder that may not be written
            if debug:
                raise
            place = f"{error.filename}: " if error.filename else ""
            _print_error(console, f"{place}{error.strerror or error}")
            return 1
        except torch.OutOfMemoryError as error:
            if debug:
                raise
            _print_error(
                console,
                "the GPU's memory is full; use a smaller inference.window_batch or "
                f"training.batch_size, or --device cpu ({str(error).splitlines()[0]})",
            )
            return 1
        except Exception as error:
            if debug:
                raise
            console.print(
                f"unexpected error: {type(error).__name__}: {error}\n"
                "This is a fault of voxclick; run again with --debug and report the traceback."
            )
            return 1
    return 0


def _print_error(console: Console, message: object) -> None:
    console.print(Text.assemble(("error:", "red"), f" {message}"))


def _one_line_warning(console: Console):
    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if category is UserWarning:
            console.print(f"warning: {message}")

    return show


def run() -> None:
    """The installed command."""
    sys.exit(main())
