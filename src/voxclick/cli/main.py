"""`voxclick`: the command line's entry.

An error is one message; ``--debug``, anywhere on the line, shows the traceback instead.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import voxclick
from voxclick.allocator import reuse_freed_memory
from voxclick.cli.bench import app as bench
from voxclick.cli.challenge import challenge
from voxclick.cli.compare import compare
from voxclick.cli.demo import demo
from voxclick.cli.evaluate import evaluate
from voxclick.cli.import_weights import import_weights
from voxclick.cli.metrics import metrics
from voxclick.cli.phantom import phantom
from voxclick.cli.rank import rank
from voxclick.cli.reporting import reporting_errors
from voxclick.cli.segment import segment
from voxclick.cli.train import train

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
app.command()(import_weights)
app.command()(challenge)
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
    """Segment images, 3D or of one slice, by clicks. For research; not a medical device."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # standalone_mode=False would skip typer's own one-message usage errors
    return reporting_errors(lambda: app([a for a in arguments if a != "--debug"]), debug)


def run() -> None:
    """The installed command."""
    reuse_freed_memory()
    sys.exit(main())
