"""Reading and writing volumes and label maps by suffix, with the checks that all formats share."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from voxclick.errors import GeometryError, UnsupportedImageError
from voxclick.geometry.flat import flat_axis
from voxclick.io import itk, nifti, png
from voxclick.io.header import ImageHeader
from voxclick.memory_map import is_large, slabs
from voxclick.volume import LabelMap, Volume, VolumeGeometry

_FORMATS: tuple[ModuleType, ...] = (nifti, itk, png)

IMAGE_SUFFIXES: tuple[str, ...] = (*nifti.SUFFIXES, *itk.SUFFIXES, *png.SUFFIXES)
"""Suffixes of the files that can be read and written, in lower case."""

MIN_VOXELS_PER_AXIS = 3
"""Below this an image is neither a volume nor, with a single slice along one axis, a picture."""

LABEL_ROUNDING = 1e-3
"""How far a label stored as a float may lie from its integer: what a stored slope loses."""


def read_volume(path: str | Path) -> Volume:
    """Read one scalar image: a volume, or a single slice as a volume of one voxel across it.

    Voxels come as float32 in the file's own array order, scaled as its header says; those of a
    large NIfTI image (`voxclick.memory_map.LARGE_BYTES`) in a temporary file. Single NaN or
    infinite voxels are filled with the smallest finite value, with a warning.

    Raises:
        UnsupportedImageError: missing, damaged, of an unknown suffix, or not one scalar image
            of at least three voxels along each axis, save the one across a single slice.
    """
    path = Path(path)
    geometry = read_geometry(path)
    is_slice = flat_axis(geometry.shape) is not None
    if is_large(geometry.shape) and not is_slice and _format_of(path) is nifti:
        voxels = nifti.read_mapped(path)
    else:
        with np.errstate(over="ignore"):
            voxels = _format_of(path).read_voxels(path).astype(np.float32, copy=False)
    voxels = _filled(voxels.reshape(geometry.shape), path)
    return Volume(voxels, geometry.affine, path=path)


ANY_LABELS = tuple(str(value) for value in range(2**16))
"""For `read_label_map`, where what the values are called is not known yet."""


def read_label_map(
    path: str | Path, labels: tuple[str, ...] = ("background", "foreground")
) -> LabelMap:
    """Read one label map; integers stored as floats are accepted.

    Args:
        path: the file.
        labels: names by index, ``labels[0]`` is the background.

    Raises:
        UnsupportedImageError: as for `read_volume`, or values that are not indices of `labels`.
    """
    path = Path(path)
    geometry = read_geometry(path)
    stored = _format_of(path).read_voxels(path).reshape(geometry.shape)
    voxels = stored if np.issubdtype(stored.dtype, np.integer) else np.rint(stored)
    if not np.isfinite(voxels).all() or np.abs(voxels - stored).max() > LABEL_ROUNDING:
        raise UnsupportedImageError(
            f"{path}: a label map must hold whole numbers, but this one holds fractions or NaN; "
            "is it an image, or a map of probabilities?"
        )
    if voxels.min() < 0 or voxels.max() >= len(labels):
        found = [int(value) for value in np.unique(voxels)]
        shown = ", ".join(str(v) for v in found if not 0 <= v < len(labels))
        raise UnsupportedImageError(
            f"{path}: the label map holds values that no label was declared for: "
            f"{shown[:80]}; declared are {', '.join(f'{i} {n}' for i, n in enumerate(labels))}"
        )
    indices = voxels.astype(np.min_scalar_type(len(labels) - 1), copy=False)
    return LabelMap(indices, geometry.affine, path=path, labels=labels)


def read_geometry(path: str | Path) -> VolumeGeometry:
    """Read where an image lies, from its header alone.

    Raises:
        UnsupportedImageError: as for `read_volume`, as far as the header shows it.
    """
    path = Path(path)
    if path.is_dir():
        raise UnsupportedImageError(f"{path}: this is a folder; name one of the files in it")
    if not path.is_file():
        raise UnsupportedImageError(f"{path}: there is no such file")
    return _checked_geometry(_format_of(path).read_header(path), path)


def files_of(path: str | Path) -> tuple[Path, ...]:
    """All files that an image is read from, the named one first."""
    path = Path(path)
    return itk.files_of(path) if _format_of(path) is itk else (path,)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write an image in the format of the suffix, on the volume's own grid.

    Floats become float32; integers the smallest type that holds them. An older file of that name
    is replaced only when all is written; missing folders are made.

    Raises:
        UnsupportedImageError: unknown suffix, or a grid (`check_stores`) or values that the format
            cannot store.
    """
    path = Path(path)
    file_format = _format_of(path)
    stored = replace(volume, voxels=_storable(volume.voxels))
    check_stores(volume.geometry, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        file_format.write(stored, Path(folder, path.name))
        # an MHD or NHDR header names its voxel file, so that one must be there first
        for written in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            written.replace(path.parent / written.name)


def write_label_map(label_map: LabelMap, path: str | Path) -> None:
    """Write a label map as `write_volume` does; as uint8 when its values fit."""
    write_volume(label_map, path)


def check_stores(geometry: VolumeGeometry, path: str | Path) -> None:
    """Refuse to write where the format of the suffix cannot say where the voxels lie.

    Raises:
        UnsupportedImageError: unknown suffix; MHA or NRRD for axes that are not at right angles;
            PNG for more than one slice, or one that has a spacing or place of its own.
    """
    path = Path(path)
    _format_of(path).check_stores(geometry, path)


def _format_of(path: Path) -> ModuleType:
    name = path.name.lower()
    for file_format in _FORMATS:
        if name.endswith(file_format.SUFFIXES):
            return file_format
    raise UnsupportedImageError(
        f"{path}: unknown image format; expected one of {', '.join(IMAGE_SUFFIXES)}"
    )


def _checked_geometry(header: ImageHeader, path: Path) -> VolumeGeometry:
    if header.is_complex:
        raise UnsupportedImageError(
            f"{path}: the voxels are complex numbers; export the magnitude as a real image"
        )
    if header.components > 1:
        raise UnsupportedImageError(
            f"{path}: every voxel holds {header.components} values (colour or vector); export one "
            "of them as a scalar image"
        )
    if 0 in header.shape:
        raise UnsupportedImageError(f"{path}: the image is empty, its shape is {header.shape}")
    frames = int(np.prod(header.shape[3:]))
    if frames > 1:
        raise UnsupportedImageError(
            f"{path}: the image has {frames} frames (shape {header.shape}), expected a single one; "
            "export the frame that you want to segment"
        )
    i, j, k = (*header.shape, 1, 1, 1)[:3]
    thin = [n for n in (i, j, k) if n < MIN_VOXELS_PER_AXIS]
    if thin not in ([], [1]):
        raise UnsupportedImageError(
            f"{path}: the image has {i} x {j} x {k} voxels, expected at least "
            f"{MIN_VOXELS_PER_AXIS} along each axis, or one along a single one; export the whole "
            "stack of slices, or one slice"
        )
    try:
        return VolumeGeometry((i, j, k), header.affine)
    except GeometryError as error:
        raise UnsupportedImageError(
            f"{path}: the header does not place the voxels in the patient: {error}; correct its "
            "affine or export the image again"
        ) from error


def _filled(voxels: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    finite = sum(int(np.isfinite(part).sum()) for part in slabs(voxels))
    if finite == voxels.size:
        return voxels
    if finite == 0:
        raise UnsupportedImageError(
            f"{path}: not one voxel is a finite number; export the image again"
        )
    smallest = min(np.where(np.isfinite(part), part, np.inf).min() for part in slabs(voxels))
    warnings.warn(
        f"{path}: {voxels.size - finite} voxels are NaN or infinite; filled with the smallest "
        f"value of the image, {smallest:g}",
        stacklevel=3,
    )
    filled = voxels if voxels.flags.writeable else voxels.copy()
    for part in slabs(filled):
        part[~np.isfinite(part)] = smallest
    return filled


def _storable(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    """float32, or the smallest integer type: all formats here have these, none has bool."""
    if not np.issubdtype(voxels.dtype, np.integer):
        return voxels.astype(np.uint8 if voxels.dtype == np.bool_ else np.float32)
    dtypes = (np.min_scalar_type(voxels.min()), np.min_scalar_type(voxels.max()))
    return voxels.astype(np.result_type(*dtypes), copy=False)
