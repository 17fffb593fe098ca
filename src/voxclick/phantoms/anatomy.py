"""The body and its physiologic FDG uptake.

Shapes are ellipsoids with uneven surfaces, in the mean adult's places. Uptake is in SUV (body
weight); the ranges are typical of clinical FDG-PET an hour after injection, rounded, and wide on
purpose: what is bright in one patient is dark in the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxclick.geometry.box import Box
from voxclick.phantoms.canvas import Canvas, smooth_noise
from voxclick.types import Vector3

Range = tuple[float, float]

TOP_MM, CROTCH_MM, THIGH_MM = 890.0, 0.0, -160.0
SHOULDER_MM = 650.0

_TRUNK = np.array(
    [  # z, half width, half depth; exact anatomy does not matter, the outline must look like one
        (-20, 165, 105),
        (60, 172, 108),
        (140, 165, 105),
        (240, 148, 100),
        (330, 152, 105),
        (450, 165, 112),
        (540, 178, 108),
        (600, 188, 92),
        (635, 150, 72),
        (655, 70, 62),
        (700, 60, 62),
        (720, 56, 60),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Organ:
    """An ellipsoid of uptake.

    Attributes:
        centre_mm: in body coordinates.
        radii_mm: along x, y, z.
        suv: range of its mean.
        core: uptake of the inner part as a range of fractions of the mean, None if it is filled.
        core_radius: of the inner part, as a fraction.
        probability: of showing at all.
        mottling: standard deviation of its texture, as a fraction of its mean.
        replaces: the uptake is set, not only raised to at least this.
    """

    centre_mm: Vector3
    radii_mm: Vector3
    suv: Range
    core: Range | None = None
    core_radius: float = 0.6
    probability: float = 1.0
    mottling: float = 0.05
    replaces: bool = False


def _pair(centre_mm: Vector3, radii_mm: Vector3, suv: Range, **rest: object) -> tuple[Organ, Organ]:
    x, y, z = centre_mm
    right = Organ(centre_mm, radii_mm, suv, **rest)  # pyright: ignore[reportArgumentType]
    left = Organ((-x, y, z), radii_mm, suv, **rest)  # pyright: ignore[reportArgumentType]
    return right, left


ORGANS: tuple[Organ, ...] = (
    # lungs first: what lies inside them comes after
    *_pair((78, -5, 505), (60, 80, 108), (0.3, 0.6), replaces=True),
    Organ((0, 0, 515), (30, 55, 105), (1.2, 1.9), replaces=True),  # mediastinal blood pool
    Organ(
        (0, 5, 800), (64, 82, 62), (6.0, 13.0), core=(0.35, 0.55), core_radius=0.72, mottling=0.12
    ),
    Organ((0, -48, 738), (50, 30, 26), (5.0, 10.0), mottling=0.1),  # cerebellum
    Organ((58, 12, 372), (92, 78, 66), (1.8, 3.0), mottling=0.08),  # liver, right lobe
    Organ((-12, 45, 388), (62, 38, 42), (1.8, 3.0), mottling=0.08),  # liver, left lobe
    Organ((-98, -42, 390), (28, 42, 52), (1.4, 2.4)),  # spleen
    *_pair((62, -55, 312), (27, 25, 54), (2.5, 5.0), core=(1.2, 3.0), core_radius=0.5),  # kidneys
    Organ(
        (-24, 32, 462),
        (46, 42, 44),
        (1.5, 12.0),
        core=(0.15, 0.3),
        core_radius=0.72,
        probability=0.75,
    ),
    Organ((-48, 38, 352), (38, 30, 46), (1.5, 4.0), core=(0.4, 0.7), probability=0.8),  # stomach
    Organ((0, 38, 45), (38, 32, 30), (5.0, 35.0), mottling=0.02),  # bladder
    *_pair((78, -38, 128), (26, 18, 56), (0.9, 1.9)),  # iliac bone
    *_pair((46, 22, 716), (10, 15, 18), (1.8, 5.0), probability=0.8),  # salivary glands
    *_pair((13, 30, 704), (7, 8, 9), (2.0, 6.0), probability=0.6),  # tonsils
    Organ((0, 38, 668), (12, 8, 10), (1.5, 5.0), probability=0.3),  # larynx
    *_pair((16, 42, 648), (9, 9, 18), (1.5, 6.0), probability=0.12),  # thyroid
    *_pair((85, -20, 600), (28, 20, 22), (2.0, 5.0), probability=0.08),  # tense muscles
)

SPINE_Y_MM = -62.0


def paint_body(canvas: Canvas, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Paint the body and all physiologic uptake; returns which voxels are body."""
    body = _outline(canvas)
    muscle = generator.uniform(0.5, 0.9)
    texture = 1 + 0.12 * smooth_noise(canvas.shape, 3.0, generator)
    canvas.suv[body] = (muscle * texture)[body]
    _paint_spine(canvas, generator)
    activity = generator.uniform(0.85, 1.15)
    for organ in ORGANS:
        paint_organ(canvas, organ, generator, activity)
    _paint_gut(canvas, generator)
    _paint_foci(canvas, generator)
    canvas.suv[~body] = 0.0
    return body


def paint_organ(
    canvas: Canvas, organ: Organ, generator: np.random.Generator, activity: float = 1.0
) -> None:
    """Paint one organ, moved and scaled a little, with an uneven surface."""
    centre = np.array(organ.centre_mm) + generator.normal(0, 4, 3)
    radii = np.array(organ.radii_mm) * generator.uniform(0.88, 1.12, 3)
    mean = generator.uniform(*organ.suv) * activity
    core = None if organ.core is None else generator.uniform(*organ.core) * mean
    if generator.random() >= organ.probability:
        return
    where = (float(centre[0]), float(centre[1]), float(centre[2]))
    size = (float(radii[0]), float(radii[1]), float(radii[2]))
    box = canvas.box_around(where, (size[0] * 1.3, size[1] * 1.3, size[2] * 1.3))
    if box.is_empty:
        return
    radius = canvas.ellipsoid_radius(box, where, size)
    radius = radius + 0.06 * smooth_noise(box.shape, 3.0, generator)
    uptake = np.full(box.shape, mean, dtype=np.float32)
    if core is not None:
        uptake[radius < organ.core_radius] = core
    uptake *= 1 + organ.mottling * smooth_noise(box.shape, 1.5, generator)
    _put(canvas, box, radius < 1, uptake, replace=organ.replaces)


def _put(
    canvas: Canvas, box: Box, inside: NDArray[np.bool_], uptake: NDArray, *, replace: bool
) -> None:
    painted = canvas.suv[box.to_slices()]
    painted[inside] = uptake[inside] if replace else np.maximum(painted, uptake)[inside]


def _outline(canvas: Canvas) -> NDArray[np.bool_]:
    x, y, z = canvas.coordinates(Box.of_shape(canvas.shape))
    half_width = np.interp(z, _TRUNK[:, 0], _TRUNK[:, 1], left=0, right=0)
    half_depth = np.interp(z, _TRUNK[:, 0], _TRUNK[:, 2], left=0, right=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        trunk = (np.abs(x) / half_width) ** 2.5 + (np.abs(y) / half_depth) ** 2.5 < 1
    head = (x / 78) ** 2 + ((y - 5) / 98) ** 2 + ((z - 785) / 100) ** 2 < 1
    thigh = np.clip(75 + 0.05 * z, 60, 80)
    legs = ((np.abs(x) - 88) / thigh) ** 2 + (y / (1.15 * thigh)) ** 2 < 1
    return trunk | head | (legs & (z < 20))


def _paint_spine(canvas: Canvas, generator: np.random.Generator) -> None:
    """Vertebral bodies, one below the other, with the discs dark between them."""
    marrow = generator.uniform(1.0, 2.2) * (1.6 if generator.random() < 0.15 else 1.0)
    for z in np.arange(35, 690, 27):
        size = 0.75 if z > 560 else 1.0
        vertebra = Organ(
            (0, SPINE_Y_MM, float(z)),
            (20 * size, 17 * size, 12.5),
            (0.9 * marrow, 1.1 * marrow),
            mottling=0.08,
        )
        paint_organ(canvas, vertebra, generator)


def _paint_gut(canvas: Canvas, generator: np.random.Generator) -> None:
    """Loops of bowel: random walks that are bright in parts."""
    for _ in range(generator.integers(3, 8)):
        place = np.array(
            [generator.uniform(-95, 95), generator.uniform(10, 65), generator.uniform(110, 310)]
        )
        direction = generator.normal(0, 1, 3)
        suv = generator.uniform(1.2, 6.0)
        for _ in range(generator.integers(4, 14)):
            direction = 0.6 * direction / np.linalg.norm(direction) + 0.6 * generator.normal(
                0, 1, 3
            )
            place = np.clip(
                place + 11 * direction / np.linalg.norm(direction), (-110, -5, 90), (110, 78, 330)
            )
            width = generator.uniform(8, 13)
            loop = Organ(
                (float(place[0]), float(place[1]), float(place[2])),
                (width, width, width),
                (0.5 * suv, suv),
            )
            paint_organ(canvas, loop, generator)


def _paint_foci(canvas: Canvas, generator: np.random.Generator) -> None:
    """Small hot spots that are no lesions: urine in the ureters, brown fat."""
    for _ in range(generator.integers(0, 5)):
        down = generator.uniform(0.05, 0.95)
        side = generator.choice([-1, 1])
        centre = (side * (45 - 20 * down), -40 + 45 * down, 280 - 200 * down)
        radius = generator.uniform(3.5, 6)
        focus = Organ(centre, (radius, radius, 2 * radius), (4.0, 18.0))
        paint_organ(canvas, focus, generator)
    if generator.random() < 0.15:
        suv = generator.uniform(3, 10)
        for _ in range(generator.integers(4, 12)):
            centre = (
                float(generator.choice([-1, 1]) * generator.uniform(35, 130)),
                float(generator.uniform(-45, 0)),
                float(generator.uniform(595, 650)),
            )
            radius = generator.uniform(5, 11)
            paint_organ(
                canvas, Organ(centre, (radius, radius, radius), (0.6 * suv, suv)), generator
            )
