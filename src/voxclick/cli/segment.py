"""`voxclick segment`: one image, some clicks, one mask."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    DEFAULT_CACHE,
    BackendName,
    BackendOption,
    CacheDiskGibOption,
    CacheDtype,
    CacheDtypeOption,
    CacheGibOption,
    CacheGpuGibOption,
    CombinationName,
    DeviceOption,
    EnsembleOption,
    InferenceOverrides,
    ModelsOption,
    cache_settings,
    choose_model,
)
from voxclick.cli.progress import window_progress
from voxclick.clicks import Click, ClickSpace, read_clicks
from voxclick.errors import ClickError, UnsupportedImageError, UsageError
from voxclick.io import (
    IMAGE_SUFFIXES,
    check_stores,
    read_label_map,
    read_volume,
    write_label_map,
)
from voxclick.session import DEFAULT_RADIUS_MM, InteractiveSession
from voxclick.volume import VolumeGeometry


class ClickSpaceName(str, Enum):
    """`voxclick.clicks.ClickSpace`, for the command line."""

    voxel = "voxel"
    ras = "ras"
    lps = "lps"


def segment(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="the image file (.nii.gz, .mha, .png …); of several channels one file each, in "
            "the model's order, which the error says if one is missing"
        ),
    ],
    model: ModelsOption,
    out: Annotated[Path, typer.Option("--out", help="the mask to write (.nii.gz, .mha, .png …)")],
    click: Annotated[
        list[str] | None,
        typer.Option(
            "--click",
            help="X,Y,Z:label, e.g. 109,103,353:tumor, or 109,103,0:tumor in a .png; may be "
            "repeated",
        ),
    ] = None,
    clicks: Annotated[
        Path | None, typer.Option("--clicks", help="a JSON file of clicks, in voxels of the image")
    ] = None,
    space: Annotated[
        ClickSpaceName,
        typer.Option("--space", help="--click in voxels of the file, or in RAS or LPS mm"),
    ] = ClickSpaceName.voxel,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", help="a mask to correct; it stands wherever no click is near"),
    ] = None,
    radius_mm: Annotated[
        float | None,
        typer.Option(
            "--radius-mm",
            min=0,
            help="how far from a click the mask may change, above 0; no limit without it, 30 "
            "with --start-from",
        ),
    ] = None,
    skip_air: Annotated[
        bool,
        typer.Option("--skip-air", help="pass over windows that show nothing but air"),
    ] = False,
    ensemble: EnsembleOption = CombinationName.mean,
    overrides: InferenceOverrides = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="as everywhere; segmenting draws nothing at random")
    ] = 0,
    device: DeviceOption = "auto",
    backend: BackendOption = BackendName.torch,
    cache_dtype: CacheDtypeOption = CacheDtype.float32,
    cache_gib: CacheGibOption = DEFAULT_CACHE.host_gib,
    cache_gpu_gib: CacheGpuGibOption = DEFAULT_CACHE.gpu_gib,
    cache_disk_gib: CacheDiskGibOption = DEFAULT_CACHE.disk_gib,
) -> None:
    """Segment IMAGE with MODEL, corrected by clicks; the mask lies on the image's own grid."""
    torch.manual_seed(seed)
    _check_out(out, images)
    cache = cache_settings(cache_dtype, cache_gib, cache_gpu_gib, cache_disk_gib)
    chosen = choose_model(model, ensemble, device, backend, overrides)
    labels = chosen.model.settings.labels
    volumes = [read_volume(path) for path in images]
    _check_out_stores(out, volumes[0].geometry)
    session = InteractiveSession(
        chosen.model, volumes, chosen.inference, cache, radius_mm=radius_mm, skip_air=skip_air
    )
    if start_from is not None:
        mask = read_label_map(start_from, labels)
        session.start_from(mask, radius_mm or DEFAULT_RADIUS_MM)
    session.add([parse_click(text, space.value, volumes[0].geometry) for text in click or []])
    if clicks is not None:
        session.add(read_clicks(clicks))
    with window_progress("segmenting") as on_window:
        prediction = session.predict(on_window)
    write_label_map(prediction.label_map, out)
    console = plain_console()
    for index, label in enumerate(labels[1:], start=1):
        voxels = int((prediction.label_map.voxels == index).sum())
        volume_ml = voxels * prediction.label_map.geometry.voxel_volume_ml
        console.print(f"{label}: {volume_ml:.2f} ml in {voxels} voxels")
    console.print(
        f"clicks: {len(session.clicks)}, windows: {prediction.windows}, {prediction.seconds:.2f} s "
        f"-> {out}"
    )


def _check_out(out: Path, images: list[Path]) -> None:
    """Say before the work what would make it fail in the end, or cost a scan."""
    if not out.name.lower().endswith(IMAGE_SUFFIXES):
        raise UsageError(
            f"--out {out}: unknown image format; expected one of {', '.join(IMAGE_SUFFIXES)}"
        )
    if any(out.exists() and out.samefile(image) for image in images if image.exists()):
        raise UsageError(f"--out {out}: is an image that goes in; name another file for the mask")


def _check_out_stores(out: Path, geometry: VolumeGeometry) -> None:
    try:
        check_stores(geometry, out)
    except UnsupportedImageError as error:
        raise UsageError(f"--out {error}") from error


def parse_click(text: str, space: ClickSpace, geometry: VolumeGeometry) -> Click:
    """Read ``X,Y,Z:label``.

    Raises:
        UsageError: not of that form, or a fraction of a voxel.
        ClickError: a position in mm that lies outside the image.
    """
    position, separator, label = text.partition(":")
    try:
        x, y, z = (float(number) for number in position.split(","))
    except ValueError as error:
        raise UsageError(
            f"--click {text!r}: expected X,Y,Z:label, e.g. 109,103,353:tumor, or 109,103,0:tumor "
            "in a single slice"
        ) from error
    if not separator or not label:
        raise UsageError(f"--click {text!r}: the label is missing; expected X,Y,Z:label")
    try:
        return Click.at((x, y, z), label, space, geometry)
    except ClickError as error:
        if space == "voxel":
            raise UsageError(f"--click {text!r}: {error} (--space)") from error
        raise
