"""`voxclick phantom`: a data set of made-up whole-body PET."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import SeedOption
from voxclick.cli.progress import case_progress
from voxclick.datasets.phantom_folder import write_phantom_dataset
from voxclick.model_files import resolve_device


def phantom(
    out: Annotated[Path, typer.Argument(help="a new folder, in nnU-Net layout")],
    cases: Annotated[int, typer.Option("--cases", min=1, help="how many")] = 20,
    test_fraction: Annotated[
        float, typer.Option("--test-fraction", min=0, max=1, help="share that goes to imagesTs")
    ] = 0.2,
    seed: SeedOption = 0,
    device: Annotated[
        str, typer.Option("--device", help="as everywhere; phantoms are made on the CPU")
    ] = "auto",
) -> None:
    """Write phantoms of whole-body FDG-PET in SUV, with exact lesion labels."""
    resolve_device(device)
    with case_progress("phantoms", cases) as on_case:
        write_phantom_dataset(
            out, cases=cases, seed=seed, test_fraction=test_fraction, on_case=on_case
        )
    plain_console().print(f"{cases} phantoms -> {out}")
