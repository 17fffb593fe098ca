"""A case's files as volumes on one grid."""

from __future__ import annotations

from voxclick.datasets.case import Case
from voxclick.errors import DatasetError
from voxclick.io import read_geometry, read_label_map, read_volume
from voxclick.resampling import resample_image, resample_label_map
from voxclick.volume import LabelMap, Volume


def read_case_images(case: Case) -> tuple[Volume, ...]:
    """Read the images of a case.

    Returns:
        One volume per channel; on the grid of `Case.grid` (interpolated linearly, the image's
        smallest value outside its field of view), or as the files are where there is none.

    Raises:
        UnsupportedImageError: a file cannot be read.
        GeometryError: an image lies nowhere near the grid.
    """
    if case.grid is None:
        return tuple(read_volume(path) for path in case.images)
    grid = read_geometry(case.grid)
    volumes: list[Volume] = []
    for path in case.images:
        volume = read_volume(path)
        if not volume.geometry.matches(grid):
            volume = resample_image(volume, grid)
        volumes.append(volume)
    return tuple(volumes)


def read_case_label(case: Case, labels: tuple[str, ...]) -> LabelMap:
    """Read the label of a case, on the grid of `Case.grid` (the nearest voxel's) if it has one.

    Args:
        labels: names by index, background first.

    Raises:
        DatasetError: the case has no label.
        UnsupportedImageError: the file cannot be read, or holds other values.
        GeometryError: the label lies nowhere near the grid.
    """
    if case.label is None:
        raise DatasetError(f"{case.name}: has no label")
    label = read_label_map(case.label, labels)
    if case.grid is None:
        return label
    grid = read_geometry(case.grid)
    return label if label.geometry.matches(grid) else resample_label_map(label, grid)
