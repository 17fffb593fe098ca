"""One phantom from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from voxclick.phantoms.anatomy import SHOULDER_MM, THIGH_MM, TOP_MM, paint_body
from voxclick.phantoms.canvas import Canvas
from voxclick.phantoms.lesions import Lesion, paint_lesions
from voxclick.phantoms.scanner import scan
from voxclick.phantoms.settings import PhantomSettings
from voxclick.types import Vector3
from voxclick.volume import LabelMap, Volume

LABELS = ("background", "tumor")
_HALF_WIDTH_MM, _HALF_DEPTH_MM = 205.0, 130.0


@dataclass(frozen=True, eq=False)
class Phantom:
    """Attributes:
    image: float32 SUV (body weight).
    label: uint8, 1 in every lesion, on the image's grid.
    lesions: what they are, with centres in the image's patient mm (RAS+).
    """

    image: Volume
    label: LabelMap
    lesions: tuple[Lesion, ...]


def make_phantom(seed: int, settings: PhantomSettings | None = None) -> Phantom:
    """Make a phantom; the same seed and settings give the same bits.

    Args:
        seed: not negative.
        settings: None for the defaults.
    """
    settings = settings or PhantomSettings()
    generator = np.random.default_rng(seed)
    canvas = _empty_canvas(settings, generator)
    body = paint_body(canvas, generator)
    mask, lesions = paint_lesions(canvas, body, settings, generator)
    suv = scan(canvas.suv, canvas.spacing_mm, generator)
    return _place(canvas, suv, mask, lesions, generator)


def _empty_canvas(settings: PhantomSettings, generator: np.random.Generator) -> Canvas:
    in_plane, between = generator.uniform(3.6, 5.0), generator.uniform(3.0, 5.0)
    spacing: Vector3 = settings.spacing_mm or (float(in_plane), float(in_plane), float(between))
    whole = settings.region == "whole-body"
    bottom, top = (THIGH_MM, TOP_MM + 20) if whole else (0.0, SHOULDER_MM)
    extent = (2 * _HALF_WIDTH_MM, 2 * _HALF_DEPTH_MM, top - bottom)
    shape = [round(length / step) for length, step in zip(extent, spacing, strict=True)]
    return Canvas(
        (-_HALF_WIDTH_MM, -_HALF_DEPTH_MM, bottom), spacing, np.zeros(shape, dtype=np.float32)
    )


def _place(
    canvas: Canvas,
    suv: np.ndarray,
    mask: np.ndarray,
    lesions: tuple[Lesion, ...],
    generator: np.random.Generator,
) -> Phantom:
    """Put the body somewhere in the scanner, stored in RAS or LPS order as scanners' files are."""
    offset = generator.uniform(-60, 60, 3) - (0, 0, 400)
    affine = np.diag([*canvas.spacing_mm, 1.0])
    affine[:3, 3] = np.array(canvas.origin_mm) + offset
    if generator.random() < 0.5:
        for axis in (0, 1):
            last = suv.shape[axis] - 1
            affine[:3, 3] += last * affine[:3, axis]
            affine[:3, axis] *= -1
        suv, mask = suv[::-1, ::-1], mask[::-1, ::-1]
    moved = tuple(
        replace(lesion, centre_mm=tuple((np.array(lesion.centre_mm) + offset).tolist()))
        for lesion in lesions
    )
    return Phantom(
        Volume(np.ascontiguousarray(suv), affine),
        LabelMap(np.ascontiguousarray(mask), affine, labels=LABELS),
        moved,
    )
