"""`voxclick compare`: two evaluations of the same cases, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from voxclick.cli.console import plain_console
from voxclick.cli.options import SeedOption
from voxclick.errors import UsageError
from voxclick.evaluation.report.comparison import compare_runs, write_comparison
from voxclick.evaluation.report.comparison_page import (
    caution,
    differences_table,
    lesion_free_table,
    remarks,
    verdict,
)
from voxclick.evaluation.report.page import Table as PageTable
from voxclick.evaluation.report.paired import Comparison
from voxclick.evaluation.report.run_folder import read_run


def compare(
    run_a: Annotated[Path, typer.Argument(help="folder of `voxclick evaluate`")],
    run_b: Annotated[Path, typer.Argument(help="folder of another model on the same cases")],
    out: Annotated[Path, typer.Option("--out", help="folder for comparison.html, .csv and .json")],
    name_a: Annotated[
        str | None, typer.Option("--name-a", help="what RUN_A is called; its folder's name")
    ] = None,
    name_b: Annotated[
        str | None, typer.Option("--name-b", help="what RUN_B is called; its folder's name")
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Compare two evaluations, case by case: is B better than A, and is it more than chance?

    Cases are matched by their names; both evaluations need the same protocol and steps.
    """
    if run_a.resolve() == run_b.resolve():
        raise UsageError(f"{run_a} and {run_b} are the same folder; name two evaluations")
    default_a, default_b = short_names(run_a, run_b)
    names = (name_a or default_a, name_b or default_b)
    comparison = compare_runs(read_run(run_a), read_run(run_b), names, seed=seed)
    write_comparison(comparison, out)
    print_comparison(comparison, plain_console(), out)


def short_names(a: Path, b: Path) -> tuple[str, str]:
    """The ends of two different paths, as long as it takes for them to differ."""
    parts_a, parts_b = a.resolve().parts, b.resolve().parts
    for length in range(1, max(len(parts_a), len(parts_b))):
        names = tuple("/".join(parts[-length:]) for parts in (parts_a, parts_b))
        if names[0] != names[1]:
            return names[0], names[1]
    return str(a), str(b)


def print_comparison(comparison: Comparison, console: Console, out: Path) -> None:
    """The paired differences as tables, lesion-free cases in one of their own, then in words."""
    if comparison.cases:
        console.print(_for_terminal(differences_table(comparison)))
    if comparison.lesion_free:
        console.print(_for_terminal(lesion_free_table(comparison)))
    for line in (*verdict(comparison), *remarks(comparison), caution(comparison)):
        console.print(line)
    console.print(f"-> {out / 'comparison.html'}", soft_wrap=True)


def _for_terminal(content: PageTable) -> Table:
    table = Table(title=content.caption, box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(content.columns):
        justify = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=place > 0)
    for row in content.rows:
        table.add_row(*(cell.text for cell in row))
    return table
