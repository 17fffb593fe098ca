"""Scribbles, boxes, lassos and masks as clicks.

Networks learn from clicks alone, so any other prompt is turned into clicks that stand for it:
some of its own label inside, and background clicks around it where the prompt also says where the
object ends. Prompts and clicks are voxels (i, j, k) of the image file's own array.

Every function returns the same clicks for the same prompt, no voxel twice, none outside the image,
clicks of the prompt's label inside the prompt and background clicks outside it. A prompt that is
background itself has no opposite, so it gives the clicks inside alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from skimage.draw import polygon

from voxclick.clicks.click import BACKGROUND, Click
from voxclick.clicks.placement import (
    inside_voxels,
    largest_components,
    outside_voxels,
    steps_outside,
)
from voxclick.errors import ClickError
from voxclick.geometry.affine import apply_affine
from voxclick.geometry.box import Box
from voxclick.geometry.flat import flat_axis
from voxclick.types import Index3
from voxclick.volume import VolumeGeometry


class PromptSettings(BaseModel):
    """How many clicks stand for a prompt, and where.

    Attributes:
        spacing_mm: between the clicks along a path, along an elongated region, and around one:
            wide enough that clicks do not repeat each other, close enough that no part of the
            prompt goes unheard.
        outside_mm: from the prompt's nearest voxel to a background click; a little more than the
            radius of a guidance disk, so that the disk does not reach into the object.
        max_clicks: of one prompt inside, and as many around it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing_mm: float = Field(default=15.0, gt=0, allow_inf_nan=False)
    outside_mm: float = Field(default=6.0, gt=0, allow_inf_nan=False)
    max_clicks: int = Field(default=12, ge=1)


DEFAULT_SETTINGS = PromptSettings()

_LEAST_DEPTH_OF_REGION = 0.25
"""What is less deep than this fraction of a region's deepest voxel is its ragged edge: a click
there would be as much outside as inside. Strokes have no such edge, people paint them as meant."""


def clicks_from_polyline(
    points: ArrayLike,
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings = DEFAULT_SETTINGS,
) -> tuple[Click, ...]:
    """Clicks along a path, at equal distances in mm from its first to its last point.

    A path shorter than the spacing gives one click, half-way along it.

    Args:
        points: shape (n, 3), n >= 1, voxel indices, fractions allowed; in the order drawn.

    Raises:
        ClickError: no points, not of that shape, not finite, or outside the image.
    """
    path = _checked_path(points, geometry)
    step_mm = np.linalg.norm(np.diff(apply_affine(geometry.affine, path), axis=0), axis=1)
    along_mm = np.concatenate([[0.0], np.cumsum(step_mm)])
    at_mm = _equal_distances(float(along_mm[-1]), settings)
    positions = np.stack([np.interp(at_mm, along_mm, axis) for axis in path.T], axis=-1)
    # a point may lie in the outer half of a border voxel
    voxels = np.rint(positions).astype(int).clip(0, np.array(geometry.shape) - 1)
    return _clicks(((i, j, k) for i, j, k in voxels.tolist()), label)


def clicks_from_scribble(
    mask: NDArray[np.bool_],
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings = DEFAULT_SETTINGS,
) -> tuple[Click, ...]:
    """Clicks along the middle of painted strokes.

    First the deepest voxel of each 26-connected stroke, the largest first; then, while clicks are
    left, more until all of a stroke is near one. Nothing is said about what lies around them.

    Args:
        mask: the painted voxels, shape (i, j, k) of the image.

    Raises:
        ClickError: empty, not boolean, or of another shape than the image.
    """
    _check_mask(mask, geometry)
    components = largest_components(mask, settings.max_clicks)
    inside = inside_voxels(
        components,
        geometry,
        spacing_mm=settings.spacing_mm,
        least_depth=0.0,
        count=settings.max_clicks,
    )
    return _clicks(inside, label)


def clicks_from_box(
    box: Box,
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings = DEFAULT_SETTINGS,
) -> tuple[Click, ...]:
    """A click at the centre of a box, and background outside the middle of each of its faces.

    What of the box lies outside the image is cut off. A box one voxel thick on exactly one axis
    is drawn on a slice and gets its background clicks there, and so does any box in an image of a
    single slice; of the six (or four) those outside the image are left out.

    Raises:
        ClickError: the box is empty or lies outside the image.
    """
    visible = box.clip(geometry.shape)
    if visible.is_empty:
        raise ClickError(
            f"the box from {box.start} to {box.stop} (exclusive) holds no voxel of the image of "
            f"{geometry.shape} voxels; boxes are zero-based, half-open voxels of the image file"
        )
    i, j, k = ((a + b - 1) // 2 for a, b in zip(visible.start, visible.stop, strict=True))
    inside = _clicks([(i, j, k)], label)
    if label == BACKGROUND:
        return inside
    flat = flat_axis(geometry.shape)
    if flat is None:
        flat = flat_axis(box.shape)
    steps = steps_outside(settings.outside_mm, geometry.spacing_mm, flat)
    image = Box.of_shape(geometry.shape)
    beside = filter(image.contains, _beyond_faces(visible, (i, j, k), steps))
    return inside + _clicks(beside, BACKGROUND)


def clicks_from_lasso(
    contour: ArrayLike,
    axis: int,
    position: int,
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings = DEFAULT_SETTINGS,
) -> tuple[Click, ...]:
    """The clicks of `clicks_from_mask` for the voxels that a contour on a slice encloses.

    A voxel is enclosed when its centre is; where none is, the one at the vertex in the middle of
    the others is taken. What of the contour lies outside the image is cut off.

    Args:
        contour: shape (n, 2), n >= 3, voxel indices along the other two axes in their order,
            fractions allowed; closed without repeating the first vertex.
        axis: array axis that the slice is at right angles to, 0 to 2.
        position: of the slice, in voxels along that axis.

    Raises:
        ClickError: fewer than three vertices, not of that shape, not finite, no such axis or
            slice, or a contour outside the image.
    """
    vertices = _checked_contour(contour)
    _check_slice(axis, position, geometry)
    enclosed = np.expand_dims(_fill(vertices, np.delete(geometry.shape, axis)), axis)
    start = [0, 0, 0]
    start[axis] = position
    return _clicks_of_region(enclosed, (start[0], start[1], start[2]), label, geometry, settings)


def clicks_from_mask(
    mask: NDArray[np.bool_],
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings = DEFAULT_SETTINGS,
) -> tuple[Click, ...]:
    """Clicks in the middle of a region, and background clicks around it.

    Inside: the voxel deepest inside each 26-connected component, the largest component first;
    then, while clicks are left, more along those that reach far beyond the ball around it, thin
    edges excepted.

    Around: voxels `outside_mm` from the region, spread by farthest points. A region one voxel
    thick on exactly one axis is surrounded in its slice only.

    Args:
        mask: shape (i, j, k) of the image.

    Raises:
        ClickError: empty, not boolean, or of another shape than the image.
    """
    _check_mask(mask, geometry)
    return _clicks_of_region(mask, (0, 0, 0), label, geometry, settings)


def _clicks_of_region(
    region: NDArray[np.bool_],
    start: Index3,
    label: str,
    geometry: VolumeGeometry,
    settings: PromptSettings,
) -> tuple[Click, ...]:
    """`clicks_from_mask` for a part of the image that begins at the voxel `start`."""
    components = largest_components(region, settings.max_clicks)
    inside = inside_voxels(
        components,
        geometry,
        spacing_mm=settings.spacing_mm,
        least_depth=_LEAST_DEPTH_OF_REGION,
        count=settings.max_clicks,
    )
    clicks = _clicks((_moved(voxel, start) for voxel in inside), label)
    if label == BACKGROUND:
        return clicks
    around = outside_voxels(
        region,
        components,
        geometry,
        outside_mm=settings.outside_mm,
        spacing_mm=settings.spacing_mm,
        count=settings.max_clicks,
    )
    return clicks + _clicks((_moved(voxel, start) for voxel in around), BACKGROUND)


def _equal_distances(length_mm: float, settings: PromptSettings) -> NDArray[np.float64]:
    """Places along a path in mm: both ends and what fits between, or the middle alone."""
    intervals = int(min(length_mm / settings.spacing_mm + 1e-9, settings.max_clicks - 1))
    if intervals == 0:
        return np.array([length_mm / 2])
    return np.linspace(0.0, length_mm, intervals + 1)


def _beyond_faces(box: Box, centre: Index3, steps: Index3) -> list[Index3]:
    """The voxels that many steps before and behind the box on each axis, off its centre."""
    beyond: list[Index3] = []
    for axis, step in enumerate(steps):
        if step == 0:
            continue
        for end in (box.start[axis] - step, box.stop[axis] - 1 + step):
            i, j, k = (end if other == axis else x for other, x in enumerate(centre))
            beyond.append((i, j, k))
    return beyond


def _fill(vertices: NDArray[np.float64], shape: NDArray[np.int_]) -> NDArray[np.bool_]:
    """The pixels of a slice whose centres a contour encloses, or else one on the contour."""
    enclosed = np.zeros(shape, dtype=bool)
    enclosed[polygon(*vertices.T, shape=enclosed.shape)] = True
    if not enclosed.any():
        enclosed[_pixel_on_contour(vertices, enclosed.shape)] = True
    return enclosed


def _pixel_on_contour(
    vertices: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.integer], ...]:
    """The pixel at the vertex nearest to their mean, which may itself be far from a thin lasso."""
    to_mean = np.linalg.norm(vertices - vertices.mean(axis=0), axis=1)
    middle = np.rint(vertices[to_mean.argmin()])
    if (middle < 0).any() or (middle >= shape).any():
        raise ClickError(
            f"the lasso around {middle.tolist()} encloses no voxel of the slice of {shape} "
            "voxels; its vertices are zero-based voxels of the image file"
        )
    return tuple(middle.astype(int))


def _checked_path(points: ArrayLike, geometry: VolumeGeometry) -> NDArray[np.float64]:
    path = _as_points(points, 3, "a path")
    if len(path) < 1:
        raise ClickError("a path needs at least one point, got none")
    is_outside = (path < -0.5) | (path > np.array(geometry.shape) - 0.5)
    if is_outside.any():
        first = path[is_outside.any(axis=1)][0]
        raise ClickError(
            f"the path's point {first.tolist()} lies outside the image of {geometry.shape} "
            "voxels; its points are zero-based voxels of the image file"
        )
    return path


def _checked_contour(contour: ArrayLike) -> NDArray[np.float64]:
    vertices = _as_points(contour, 2, "a lasso")
    if len(vertices) < 3:
        raise ClickError(f"a lasso needs at least three vertices, got {len(vertices)}")
    return vertices


def _as_points(values: ArrayLike, dimensions: int, what: str) -> NDArray[np.float64]:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ClickError(
            f"{what} must be a list of points with {dimensions} numbers each: {error}"
        ) from error
    if points.size == 0:
        return points.reshape(0, dimensions)
    if points.ndim != 2 or points.shape[1] != dimensions:
        raise ClickError(
            f"{what} must have the shape (points, {dimensions}), got an array of {points.shape}"
        )
    if not np.isfinite(points).all():
        raise ClickError(f"{what} must have finite coordinates, got NaN or infinite ones")
    return points


def _check_slice(axis: int, position: int, geometry: VolumeGeometry) -> None:
    if axis not in (0, 1, 2):
        raise ClickError(f"a lasso lies across the array axis 0, 1 or 2, got {axis}")
    if not 0 <= position < geometry.shape[axis]:
        raise ClickError(
            f"the lasso's slice {position} lies outside the image, which has "
            f"{geometry.shape[axis]} slices along axis {axis}, counted from 0"
        )


def _check_mask(mask: NDArray[np.bool_], geometry: VolumeGeometry) -> None:
    if mask.dtype != np.bool_:
        raise ClickError(
            f"a prompt's mask must be boolean, got {mask.dtype}; compare it with one label first"
        )
    if mask.shape != geometry.shape:
        raise ClickError(
            f"a prompt's mask must have the image's shape {geometry.shape}, got {mask.shape}"
        )
    if not mask.any():
        raise ClickError("a prompt's mask must hold at least one voxel, got an empty one")


def _clicks(voxels: Iterable[Index3], label: str) -> tuple[Click, ...]:
    return tuple(Click(voxel, label) for voxel in dict.fromkeys(voxels))


def _moved(index: Index3, by: Sequence[int]) -> Index3:
    return (index[0] + by[0], index[1] + by[1], index[2] + by[2])
