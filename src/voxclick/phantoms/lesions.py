"""Tumour lesions: irregular, in plausible places, with their exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt

from voxclick.geometry.box import Box
from voxclick.phantoms.canvas import Canvas, smooth_noise
from voxclick.phantoms.settings import PhantomSettings
from voxclick.types import Vector3


@dataclass(frozen=True)
class Lesion:
    """Attributes:
    site: where in the body.
    centre_mm: of the image, RAS+.
    volume_ml: of its voxels.
    suv: mean uptake before blur and noise.
    """

    site: str
    centre_mm: Vector3
    volume_ml: float
    suv: float


@dataclass(frozen=True)
class Site:
    """Attributes:
    name: of the place.
    centre_mm: in body coordinates; mirrored to the left half of the time if `both_sides`.
    reach_mm: standard deviation of the lesions' places around it.
    weight: how often lesions are there.
    """

    name: str
    centre_mm: Vector3
    reach_mm: Vector3
    weight: float
    both_sides: bool = False


SITES = (
    Site("lung", (75, -5, 500), (25, 35, 50), 3.0, both_sides=True),
    Site("mediastinum", (0, 0, 520), (18, 22, 45), 2.0),
    Site("liver", (55, 10, 375), (40, 30, 28), 2.0),
    Site("neck", (35, 5, 660), (15, 15, 22), 1.5, both_sides=True),
    Site("axilla", (140, -5, 570), (14, 18, 18), 1.0, both_sides=True),
    Site("abdomen", (0, -20, 270), (40, 25, 60), 2.0),
    Site("inguinal", (75, 55, 15), (14, 12, 18), 1.0, both_sides=True),
    Site("spine", (0, -62, 350), (10, 8, 170), 1.5),
    Site("pelvis", (70, -30, 120), (22, 15, 35), 1.0, both_sides=True),
    Site("thigh", (88, 0, -80), (25, 30, 40), 0.7, both_sides=True),
)

_ATTEMPTS = 20
_GAP_VOXELS = 2
"""Between lesions, so that each stays a component of its own."""


def paint_lesions(
    canvas: Canvas,
    body: NDArray[np.bool_],
    settings: PhantomSettings,
    generator: np.random.Generator,
) -> tuple[NDArray[np.uint8], tuple[Lesion, ...]]:
    """Paint lesions; returns their mask and what they are (centres in body coordinates)."""
    mask = np.zeros(canvas.shape, dtype=np.uint8)
    lesions: list[Lesion] = []
    for _ in range(_draw_count(settings, generator)):
        for _ in range(_ATTEMPTS):
            lesion = _paint_lesion(canvas, body, mask, settings, generator)
            if lesion is not None:
                lesions.append(lesion)
                break
    return mask, tuple(lesions)


def _draw_count(settings: PhantomSettings, generator: np.random.Generator) -> int:
    fewest, most = settings.lesions
    lesion_free = generator.random() < settings.lesion_free_fraction
    # few lesions are more common than many
    drawn = round(most * generator.random() ** 1.7)
    return (
        0 if lesion_free and fewest == 0 else int(np.clip(drawn, max(fewest, min(1, most)), most))
    )


def _paint_lesion(
    canvas: Canvas,
    body: NDArray[np.bool_],
    mask: NDArray[np.uint8],
    settings: PhantomSettings,
    generator: np.random.Generator,
) -> Lesion | None:
    """One lesion at a drawn place, or None where there is no room for it."""
    site, centre = _draw_place(generator)
    smallest, largest = settings.lesion_volume_ml
    wanted_ml = smallest * (largest / smallest) ** (generator.random() ** 1.6)
    radius = 10 * (3 * wanted_ml / (4 * np.pi)) ** (1 / 3)
    low, high = settings.lesion_suv
    suv = low * (high / low) ** generator.random()

    box = canvas.box_around(centre, (2.2 * radius + 6,) * 3)
    if box.is_empty:
        return None
    level = _uneven_blob(canvas, box, centre, radius, generator)
    taken = binary_dilation(mask[box.to_slices()] > 0, np.ones((3, 3, 3)), _GAP_VOXELS)
    level[np.logical_or(taken, ~body[box.to_slices()])] = np.inf
    voxel_ml = float(np.prod(canvas.spacing_mm)) / 1000
    inside = _lowest_component(level, max(1, round(wanted_ml / voxel_ml)))
    if inside is None or inside.sum() * voxel_ml < max(0.5 * wanted_ml, smallest):
        return None

    uptake = canvas.suv[box.to_slices()]
    # colder than its surroundings it would be no lesion on PET
    suv = max(suv, 1.4 * float(np.median(uptake[inside])))
    if suv > high:
        return None
    texture = suv * (1 + 0.15 * smooth_noise(box.shape, 1.2, generator))
    if wanted_ml > 15 and generator.random() < 0.4:
        depth = np.asarray(distance_transform_edt(inside, sampling=canvas.spacing_mm))
        texture[depth > 0.45 * depth.max()] *= generator.uniform(0.15, 0.5)  # necrosis
    uptake[inside] = np.maximum(texture, 0.2)[inside]
    mask[box.to_slices()][inside] = 1

    middle = np.argwhere(inside).mean(axis=0) + box.start
    x, y, z = (np.array(canvas.origin_mm) + middle * canvas.spacing_mm).tolist()
    return Lesion(
        site.name, (x, y, z), float(inside.sum()) * voxel_ml, float(texture[inside].mean())
    )


def _draw_place(generator: np.random.Generator) -> tuple[Site, Vector3]:
    weights = np.array([site.weight for site in SITES])
    site = SITES[generator.choice(len(SITES), p=weights / weights.sum())]
    x, y, z = (np.array(site.centre_mm) + generator.normal(0, 1, 3) * site.reach_mm).tolist()
    mirrored = site.both_sides and generator.random() < 0.5
    return site, (-x if mirrored else x, y, z)


def _uneven_blob(
    canvas: Canvas, box: Box, centre: Vector3, radius: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Low inside, high outside: a union of ellipsoids with a rough surface."""
    level = np.full(box.shape, np.inf, dtype=np.float32)
    for _ in range(generator.integers(1, 4)):
        x, y, z = (np.array(centre) + generator.normal(0, 0.45 * radius, 3)).tolist()
        a, b, c = (radius * generator.uniform(0.6, 1.3, 3)).tolist()
        level = np.minimum(level, canvas.ellipsoid_radius(box, (x, y, z), (a, b, c)))
    smoothness = max(1.0, 0.35 * radius / float(np.mean(canvas.spacing_mm)))
    return level + 0.15 * smooth_noise(box.shape, smoothness, generator)


def _lowest_component(level: NDArray[np.float32], voxels: int) -> NDArray[np.bool_] | None:
    """The largest connected part of the ``voxels`` voxels with the lowest level."""
    finite = np.isfinite(level)
    if finite.sum() < voxels:
        return None
    threshold = np.partition(level[finite], voxels - 1)[voxels - 1]
    components = cc3d.connected_components(level <= threshold, connectivity=6)
    return components == 1 + int(np.bincount(components.ravel())[1:].argmax())
