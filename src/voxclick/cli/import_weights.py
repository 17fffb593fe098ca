"""`voxclick import-weights`: a checkpoint of SW-FastEdit becomes a model file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from voxclick.cli.console import plain_console
from voxclick.errors import UsageError
from voxclick.model_files import save_model
from voxclick.model_files.sw_fastedit import (
    AUTOPET_SPACING_MM,
    OVERLAP,
    WINDOW,
    import_sw_fastedit,
)

_SUFFIX = ".safetensors"


class Scaling(str, Enum):
    """`voxclick.model_files.sw_fastedit.SwFastEditScaling`, for the command line."""

    percentile = "percentile"
    range = "range"


def import_weights(
    file: Annotated[
        Path, typer.Argument(help="a checkpoint of SW-FastEdit, e.g. 151_best_0.8534.pt")
    ],
    out: Annotated[Path, typer.Option("--out", help="the model file to write (.safetensors)")],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="of the outputs after the background, in order; tumor, if none is named",
        ),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", help="of the image, in the input's order; PET, if none is named"),
    ] = None,
    scaling: Annotated[
        Scaling,
        typer.Option("--scaling", help="of the training: percentiles 0.05 to 99.95, or 0 to 43"),
    ] = Scaling.percentile,
    spacing_mm: Annotated[
        tuple[float, float, float],
        typer.Option("--spacing-mm", help="of the grid that the network was trained on"),
    ] = AUTOPET_SPACING_MM,
    sigma: Annotated[
        float, typer.Option("--sigma", help="of the disks, in voxels of that grid")
    ] = 1.0,
    window: Annotated[
        tuple[int, int, int], typer.Option("--window", help="voxels of a sliding window")
    ] = WINDOW,
    overlap: Annotated[
        float, typer.Option("--overlap", help="fraction of a window that neighbours share")
    ] = OVERLAP,
) -> None:
    """Make a model file of SW-FastEdit's weights.

    The defaults are what the interactive baseline of autoPET IV was trained with.
    """
    if out.suffix != _SUFFIX:
        raise UsageError(f"--out {out}: expected a name that ends in {_SUFFIX}")
    settings, network = import_sw_fastedit(
        file,
        labels=label or ["tumor"],
        channels=channel or ["PET"],
        scaling=scaling.value,
        spacing_mm=spacing_mm,
        sigma=sigma,
        window=window,
        overlap=overlap,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(out, settings, network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    clicks = "" if settings.guidance is None else " and clicks"
    plain_console().print(
        f"{settings.network.name} ({parameters:,} parameters), {settings.in_channels} inputs "
        f"({', '.join(settings.channels)}{clicks}), {len(settings.labels)} outputs "
        f"({', '.join(settings.labels)}) -> {out}",
        soft_wrap=True,
    )
