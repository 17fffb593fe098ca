"""MetaImage (MHA, MHD) and NRRD (also NHDR) by SimpleITK.

ITK counts positions in LPS and its arrays in (k, j, i); both are turned here and nowhere else.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxclick.errors import UnsupportedImageError
from voxclick.geometry.affine import flip_ras_lps, is_sheared, spacing_of
from voxclick.io.header import ImageHeader
from voxclick.volume import Volume, VolumeGeometry

_IMAGE_IO = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
}
"""Named, so that ITK does not go by a file's content and hand it to some other format's reader."""

SUFFIXES = tuple(_IMAGE_IO)

_DETACHED = (".mhd", ".nhdr")
"""Headers whose voxels are in another file."""

_NAMED_FILE = re.compile(
    rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.+?)\s*$", re.MULTILINE | re.IGNORECASE
)

_HEADER_BYTES = 65536
"""No header is longer, but for that of a list of thousands of slices."""

_PART_BYTES = 16 * 2**20
"""Of a compressed file that are looked at together."""

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


def read_header(path: Path) -> ImageHeader:
    """Read the header alone.

    Raises:
        UnsupportedImageError: not of the format its suffix names, or damaged.
    """
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path) from error
    rank = reader.GetDimension()
    # the third axis of a 2D image: one slice, 1 mm thick
    spacing, origin, direction = np.ones(3), np.zeros(3), np.eye(3)
    kept = min(rank, 3)
    spacing[:kept] = reader.GetSpacing()[:kept]
    origin[:kept] = reader.GetOrigin()[:kept]
    direction[:kept, :kept] = np.reshape(reader.GetDirection(), (rank, rank))[:kept, :kept]
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = direction * spacing
    affine_lps[:3, 3] = origin
    return ImageHeader(
        shape=tuple(int(n) for n in reader.GetSize()),
        affine=flip_ras_lps(affine_lps),
        components=int(reader.GetNumberOfComponents()),
        is_complex=reader.GetPixelID() in _COMPLEX,
    )


def files_of(path: Path) -> tuple[Path, ...]:
    """All files that an image is read from: a detached header, and the voxel file it names."""
    if path.suffix.lower() not in _DETACHED:
        return (path,)
    with path.open("rb") as file:
        named = _NAMED_FILE.search(file.read(_HEADER_BYTES))
    voxel_file = path.parent / os.fsdecode(named[1]) if named else path
    if named and voxel_file.is_file():
        return (path, voxel_file)
    # a list or a pattern of slices: they lie here
    return (path, *sorted(other for other in path.parent.iterdir() if other.is_file()))


def read_voxels(path: Path) -> NDArray[np.generic]:
    """Read the array, of shape (i, j, k, ...).

    Raises:
        UnsupportedImageError: the voxels are cut off or damaged.
    """
    try:
        voxels = sitk.GetArrayFromImage(_reader(path).Execute()).T
        if _IMAGE_IO[path.suffix.lower()] == "MetaImageIO":
            _check_compressed_metaimage(path)
    except (RuntimeError, OSError, zlib.error) as error:
        raise _damaged(path) from error
    return voxels


def _check_compressed_metaimage(path: Path) -> None:
    """Inflate the voxels once more: ITK ignores zlib's errors and checksum, and returns garbage.

    Raises:
        zlib.error: the compressed voxels are damaged.
    """
    with path.open("rb") as file:
        header, key, rest = file.read(_HEADER_BYTES).partition(b"ElementDataFile")
        if re.search(rb"^CompressedData\s*=\s*True", header, re.MULTILINE) is None:
            return
        value, end, _ = rest.partition(b"\n")
        voxel_file = path.parent / os.fsdecode(value.strip(b" =\r"))
        if voxel_file.name == "LOCAL":
            file.seek(len(header + key + value + end))
            _check_deflated(file)
            return
    if voxel_file.is_file():  # else a list of slices, which hardly anyone compresses
        with voxel_file.open("rb") as file:
            _check_deflated(file)


def _check_deflated(file: BinaryIO) -> None:
    """Raises:
    zlib.error: what follows in the file is damaged or cut off.
    """
    inflater = zlib.decompressobj()
    while not inflater.eof:
        part = inflater.unconsumed_tail or file.read(_PART_BYTES)
        if not part:
            raise zlib.error("the stream is cut off")
        inflater.decompress(part, _PART_BYTES)


def check_stores(geometry: VolumeGeometry, path: Path) -> None:
    """Raises:
    UnsupportedImageError: a sheared affine, which these formats' readers do not expect.
    """
    if is_sheared(geometry.affine):
        raise UnsupportedImageError(
            f"{path}: the image's axes are not at right angles, which only NIfTI can store; write "
            ".nii.gz instead"
        )


def write(volume: Volume, path: Path) -> None:
    """Write voxels as they are, compressed.

    Raises:
        UnsupportedImageError: a grid that `check_stores` refuses.
    """
    check_stores(volume.geometry, path)
    affine_lps = flip_ras_lps(volume.affine)
    spacing = spacing_of(volume.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.T))
    image.SetSpacing(spacing)
    image.SetOrigin(affine_lps[:3, 3].tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    # ITK writes something else, without a word, when a suffix is in capitals
    lower_case = path.with_suffix(path.suffix.lower())
    sitk.WriteImage(image, str(lower_case), useCompression=True)
    lower_case.replace(path)


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IMAGE_IO[path.suffix.lower()])
    reader.SetFileName(str(path))
    return reader


def _damaged(path: Path) -> UnsupportedImageError:
    # ITK's own reasons are long, and for a cut MHA wrong ("No such file"); they stay as the cause
    suffix = path.suffix.lower()
    or_else = ", or the voxel file it names is missing" if suffix in _DETACHED else ""
    return UnsupportedImageError(
        f"{path}: the file is damaged, cut off or not {suffix}{or_else}; copy or export it again"
    )
