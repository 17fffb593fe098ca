"""NIfTI-1 and NIfTI-2 by nibabel."""

from __future__ import annotations

import contextlib
import errno
import gzip
import math
import shutil
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from voxclick.errors import UnsupportedImageError
from voxclick.io.header import ImageHeader
from voxclick.memory_map import release, temporary_map
from voxclick.volume import Volume, VolumeGeometry

SUFFIXES = (".nii.gz", ".nii")

_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
"""What nibabel and gzip raise on files that are cut off or are something else."""

_SLAB_BYTES = 64 * 2**20
"""Read at once of a large file, as float32."""

_UNITS_NOT_MM = {1: "metres", 3: "micrometres"}
"""The codes of NIfTI's xyzt_units, lowest three bits, that contradict an affine in mm."""


def read_header(path: Path) -> ImageHeader:
    """Read the header alone.

    The affine is nibabel's: sform, else qform, else a guess from the voxel size, with a warning.

    Raises:
        UnsupportedImageError: not a NIfTI file, or a damaged one.
    """
    image = _open(path)
    header = image.header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        warnings.warn(
            f"{path}: the file does not say where its voxels lie in the patient (no sform, no "
            "qform); taken as stored right to left with its centre at the origin",
            stacklevel=4,
        )
    unit = _UNITS_NOT_MM.get(int(header["xyzt_units"]) & 0b111)
    if unit is not None:
        warnings.warn(
            f"{path}: the header gives lengths in {unit}; they are taken as mm, as most NIfTI "
            "readers do",
            stacklevel=4,
        )
    dtype = np.dtype(image.get_data_dtype())
    return ImageHeader(
        shape=tuple(int(n) for n in image.shape),
        affine=np.asarray(image.affine, dtype=np.float64),
        components=len(dtype.names or "1"),
        is_complex=dtype.kind == "c",
    )


def read_voxels(path: Path) -> NDArray[np.generic]:
    """Read the array, scaled by the header's slope and intercept; integers if there are none.

    Raises:
        UnsupportedImageError: the voxels are cut off or damaged.
    """
    image = _open(path)
    try:
        if path.name.lower().endswith(".gz"):
            # nibabel stops after the last voxel and so never reaches gzip's checksum
            content = gzip.decompress(path.read_bytes())
            size = len(content)
            image = type(image).from_bytes(content)
        else:
            size = path.stat().st_size
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    stored = cast(ArrayProxy, image.dataobj)
    _check_size(path, size, stored)
    return np.asanyarray(stored)


def read_mapped(path: Path) -> NDArray[np.float32]:
    """`read_voxels` as float32 for large arrays: a slab at a time, into a temporary file.

    Raises:
        UnsupportedImageError: the voxels are cut off or damaged.
    """
    with contextlib.ExitStack() as stack:
        if path.name.lower().endswith(".gz"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voxclick-")))
            unpacked = _decompressed(path, folder / "volume.nii")
        else:
            unpacked = path
        stored = cast(ArrayProxy, _open(unpacked).dataobj)
        _check_size(path, unpacked.stat().st_size, stored)
        i, j, k = stored.shape[:3]
        voxels = temporary_map((k, j, i), np.float32).T  # the file's own order
        step = max(1, _SLAB_BYTES // (4 * i * j))
        for start in range(0, k, step):
            with np.errstate(over="ignore"):
                slab = np.asanyarray(stored[:, :, start : start + step])
                voxels[..., start : start + step] = slab.reshape(i, j, -1)
            release(voxels)
        return voxels


def _decompressed(path: Path, target: Path) -> Path:
    try:
        with gzip.open(path) as compressed, target.open("wb") as file:
            shutil.copyfileobj(compressed, file, _SLAB_BYTES)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UnsupportedImageError(
                f"{path}: there is no room in {target.parent} to unpack it; make some, or let "
                "TMPDIR name another folder"
            ) from error
        raise _damaged(path, error) from error
    return target


def check_stores(geometry: VolumeGeometry, path: Path) -> None:
    """NIfTI stores any grid."""


def write(volume: Volume, path: Path) -> None:
    """Write voxels as they are, with sform, and with qform where it can say the same.

    A qform holds no shear: for a sheared affine it is left out, as readers would otherwise find
    two different places for the same voxel.
    """
    image = nib.Nifti1Image(volume.voxels, volume.affine, dtype=volume.voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    if not volume.geometry.matches(VolumeGeometry(volume.shape, image.get_qform())):
        image.set_qform(None, code="unknown")
    nib.save(image, path)


def _check_size(path: Path, size: int, stored: ArrayProxy) -> None:
    expected = stored.offset + math.prod(stored.shape) * stored.dtype.itemsize
    if size < expected:
        raise UnsupportedImageError(
            f"{path}: the file is cut off: its header promises {expected} bytes, there are {size}; "
            "copy or export it again"
        )


def _open(path: Path) -> nib.Nifti1Image:
    try:
        # a memory map would tie the voxels to a file that may change
        image = nib.load(path, mmap=False)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise UnsupportedImageError(
            f"{path}: this is {type(image).__name__}, not a NIfTI volume; export it as NIfTI"
        )
    return image


def _damaged(path: Path, error: Exception) -> UnsupportedImageError:
    if isinstance(error, OSError) and error.errno is not None:
        return UnsupportedImageError(f"{path}: cannot be read ({error.strerror})")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UnsupportedImageError(
        f"{path}: the file is damaged or is not NIfTI ({reason}); copy or export it again"
    )
