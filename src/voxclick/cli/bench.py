"""`voxclick bench`: ours and a peer, side by side."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voxclick.bench.click import (
    ClickBenchSettings,
    bench_click,
    generated_body,
    plain,
    shipped_model,
    untrained_model,
)
from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    DEFAULT_CACHE,
    CacheDiskGibOption,
    CacheDtype,
    CacheDtypeOption,
    CacheGibOption,
    CacheGpuGibOption,
    DeviceOption,
    SeedOption,
    cache_settings,
)
from voxclick.errors import UsageError
from voxclick.files import replace_when_written
from voxclick.io import read_volume
from voxclick.model_files import Model, load_model, resolve_device

app = typer.Typer(
    name="bench", no_args_is_help=True, help="Measure against a peer on the same work."
)


_WINDOW = 128


class BenchPrecision(str, Enum):
    """`voxclick.sliding_window.precision.Precision`, for the command line."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.callback()
def bench() -> None:
    """Measure against a peer on the same work."""


@app.command()
def click(
    out: Annotated[Path | None, typer.Option("--out", help="folder for click.json")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="an image file; a generated body without it")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="a model.safetensors; the shipped one without it"),
    ] = None,
    shape: Annotated[
        tuple[int, int, int], typer.Option("--shape", help="voxels of the generated body")
    ] = (400, 400, 326),
    network: Annotated[
        str | None,
        typer.Option("--network", help="a network by name with random weights, without --model"),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option("--window", min=8, help="edge of the windows, without --model: 128"),
    ] = None,
    clicks: Annotated[int, typer.Option("--clicks", min=1, help="one click a step")] = 10,
    full_runs: Annotated[
        int, typer.Option("--full-runs", min=1, help="of these, how many MONAI answers too")
    ] = 1,
    precision: Annotated[
        BenchPrecision, typer.Option("--precision", help="of both networks")
    ] = BenchPrecision.float32,
    same_layout: Annotated[
        bool,
        typer.Option(
            "--same-layout", help="give MONAI the faster layout of the network in memory, too"
        ),
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    cache_dtype: CacheDtypeOption = CacheDtype.float32,
    cache_gib: CacheGibOption = DEFAULT_CACHE.host_gib,
    cache_gpu_gib: CacheGpuGibOption = DEFAULT_CACHE.gpu_gib,
    cache_disk_gib: CacheDiskGibOption = DEFAULT_CACHE.disk_gib,
) -> None:
    """A click in our session, and in MONAI's sliding-window inferer run in full.

    Without options: 400 x 400 x 326 voxels, 64 windows of 128³, the shipped network for CPUs; on
    two CPU cores that takes a quarter of an hour, most of it MONAI's.
    """
    if min(shape) < 1:
        raise UsageError(f"--shape {shape}: expected three numbers of voxels")
    console = plain_console()
    settings = ClickBenchSettings(
        clicks=clicks,
        full_runs=full_runs,
        precision=precision.value,
        seed=seed,
        cache=cache_settings(cache_dtype, cache_gib, cache_gpu_gib, cache_disk_gib),
        same_layout=same_layout,
    )
    figures = bench_click(
        _model(model, network, window, device),
        read_volume(image) if image is not None else generated_body(shape, seed),
        settings,
        lambda step: console.print(f"… {step}"),
    )
    if out is not None:
        with replace_when_written(out / "click.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    _print(figures, console)


def _model(path: Path | None, network: str | None, window: int | None, device: str) -> Model:
    if path is None:
        edge, where = window or _WINDOW, resolve_device(device)
        if network is None:
            return plain(shipped_model(edge, where))
        return untrained_model(network, edge, where)
    if network is not None or window is not None:
        raise UsageError("--network and --window make a model, so they do not go with --model")
    loaded = load_model(path, device)
    if len(loaded.settings.channels) != 1:
        raise UsageError(f"--model {path}: this bench takes models of one image channel")
    return plain(loaded)


def _print(figures: dict[str, Any], console: Console) -> None:
    table = Table("", "seconds (median)", "p95", "windows", "MONAI takes … times as long")
    table.add_row(
        "MONAI, all windows", f"{figures['seconds_full']:.2f}", "", str(figures["windows_total"])
    )
    table.add_row(
        "first prediction",
        f"{figures['seconds_first']:.2f}",
        "",
        str(figures["windows_total"]),
        f"{figures['ratio_first']:.2f}",
    )
    own = figures["windows_per_click"]
    has_preview = figures["seconds_preview"] is not None
    if has_preview:
        table.add_row("click to preview", *_click_cells(figures, "preview", "1"))
    table.add_row(
        "click to exact answer" + (", preview included" if has_preview else ""),
        *_click_cells(figures, "until_exact", f"{own + has_preview:.2f}"),
    )
    if has_preview:
        table.add_row(
            "exact answer without the preview before it",
            *_click_cells(figures, "exact", f"{own:.2f}"),
        )
    console.print(table)
    memory = figures["peak_memory_bytes"]
    console.print(
        f"largest difference of logits {figures['max_logit_difference']:.1e}, "
        f"{figures['masks_differ_at']} voxels labelled otherwise; "
        + (f"{memory / 2**30:.2f} GiB beyond the network; " if memory is not None else "")
        + f"{figures['network']}, {figures['precision']}, {figures['threads']} threads, "
        f"{figures['device']}"
    )


def _click_cells(figures: dict[str, Any], name: str, windows: str) -> tuple[str, str, str, str]:
    return (
        f"{figures[f'seconds_{name}']:.3f}",
        f"{figures[f'seconds_{name}_p95']:.3f}",
        windows,
        f"{figures[f'ratio_{name}']:.1f}",
    )
