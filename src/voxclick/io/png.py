"""PNG pictures by Pillow: one slice of 1, 2, 4, 8 or 16 bits of grey.

A picture does not say where it lies in a patient. Voxel (i, j, 0) is the pixel in column i and row
j, counted from the upper left; a pixel is taken as 1 mm wide and high, the slice as 1 mm thick and
as an axial one that is shown as radiologists see it: i runs to the patient's left, j to the back.
ITK places pictures in the same way. Resolutions in the file are those of screens and printers and
mean nothing here, so that a picture and a mask of equal size always share a grid.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from voxclick.errors import UnsupportedImageError
from voxclick.geometry.affine import flip_ras_lps
from voxclick.io.header import ImageHeader
from voxclick.volume import Volume, VolumeGeometry

SUFFIXES = (".png",)

_AFFINE = flip_ras_lps(np.eye(4))

_START = struct.Struct(">8s4x4s8xBB")
"""Signature, then the chunk IHDR: its length, name, width and height, bits per channel, colour type
(PNG specification, sections 5.2 and 11.2.1)."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError)
"""What Pillow raises on files that are cut off or are something else."""

_LARGEST = np.iinfo(np.uint16).max


class _ColourType(IntEnum):
    """What a pixel holds, by the number in the file."""

    grey = 0
    rgb = 2
    palette = 3
    grey_and_alpha = 4
    rgb_and_alpha = 6


def read_header(path: Path) -> ImageHeader:
    """Read the header, and of a picture that is not stored as grey the pixels.

    Raises:
        UnsupportedImageError: not PNG, damaged, in colour, with a palette or transparency.
    """
    with _opened(path) as picture:
        width, height = picture.size
        frames = getattr(picture, "n_frames", 1)
        if picture.mode == "RGB":
            _grey_of_rgb(picture, path)
    return ImageHeader((width, height, 1, frames), _AFFINE, components=1, is_complex=False)


def read_voxels(path: Path) -> NDArray[np.generic]:
    """Read the pixels as stored, uint8 or uint16 of shape (column, row).

    Where red, green and blue are equal everywhere they are read as grey: many programs store every
    picture in colour.

    Raises:
        UnsupportedImageError: as for `read_header`.
    """
    with _opened(path) as picture:
        if picture.mode == "RGB":
            return _grey_of_rgb(picture, path).T
        bits, _ = _bits_and_colour(path)
        if bits == 16:
            return np.asarray(picture).astype(np.uint16).T
        # Pillow spreads fewer than 8 bits over 0 to 255; a mask's 1 must stay 1
        return (np.asarray(picture.convert("L")) // np.uint8(255 // (2**bits - 1))).T


def check_stores(geometry: VolumeGeometry, path: Path) -> None:
    """Raises:
    UnsupportedImageError: not one slice along k, or one that lies elsewhere than a picture.
    """
    i, j, k = geometry.shape
    if k != 1:
        raise UnsupportedImageError(
            f"{path}: a PNG holds one slice along the third axis, but the image has {i} x {j} x "
            f"{k} voxels; write .nii.gz instead"
        )
    # as two slices, so that their thickness counts, too
    if not VolumeGeometry((i, j, 2), geometry.affine).matches(VolumeGeometry((i, j, 2), _AFFINE)):
        raise UnsupportedImageError(
            f"{path}: a PNG cannot store where the slice lies in the patient, nor its spacing; "
            "write .nii.gz instead"
        )


def write(volume: Volume, path: Path) -> None:
    """Write whole numbers from 0 to 65535 as 8 or 16 bits of grey.

    Raises:
        UnsupportedImageError: other values, or a grid that `check_stores` refuses.
    """
    check_stores(volume.geometry, path)
    pixels = volume.voxels[..., 0].T
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= _LARGEST and np.array_equal(pixels, np.rint(pixels))):
        raise UnsupportedImageError(
            f"{path.name}: a PNG stores whole numbers from 0 to {_LARGEST}, but the image has "
            f"others ({low:g} to {high:g}); write .nii.gz instead"
        )
    dtype = np.uint8 if high < 256 else np.uint16
    Image.fromarray(np.ascontiguousarray(pixels, dtype=dtype)).save(path, format="PNG")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture in grey or RGB, whose pixels are decoded when they are asked for.

    Raises:
        UnsupportedImageError: not PNG, damaged, too large for Pillow, or of another colour type.
    """
    try:
        _refuse_what_is_not_grey(path)
        with Image.open(path, formats=["PNG"]) as picture:
            if "transparency" in picture.info:
                raise _transparent(path)
            yield picture
    except Image.DecompressionBombError as error:
        raise UnsupportedImageError(
            f"{path}: the picture has more pixels than Pillow opens; export it as .nii.gz"
        ) from error
    except _DAMAGE as error:
        raise UnsupportedImageError(
            f"{path}: the file is damaged, cut off or not .png; copy or export it again"
        ) from error


def _refuse_what_is_not_grey(path: Path) -> None:
    """By the header alone; RGB may still be grey."""
    bits, colour_type = _bits_and_colour(path)
    if colour_type is _ColourType.palette:
        raise UnsupportedImageError(
            f"{path}: the picture has a palette, which leaves open whether its colours or their "
            "numbers are meant; export it in grey, a mask with the index of its label as the value "
            "of each pixel"
        )
    if colour_type in (_ColourType.grey_and_alpha, _ColourType.rgb_and_alpha):
        raise _transparent(path)
    if colour_type is _ColourType.rgb and bits == 16:
        # Pillow drops their lower byte
        raise UnsupportedImageError(
            f"{path}: the picture has 16 bits each of red, green and blue; export it as 16-bit grey"
        )


def _bits_and_colour(path: Path) -> tuple[int, _ColourType]:
    """Bits per channel, and what the channels are.

    Raises:
        ValueError: not the start of a PNG file.
    """
    with path.open("rb") as file:
        start = file.read(_START.size)
    if len(start) < _START.size:
        raise ValueError("the file ends before its header does")
    signature, chunk, bits, colour_type = _START.unpack(start)
    if signature != _SIGNATURE or chunk != b"IHDR":
        raise ValueError("the file does not begin as a PNG does")
    return bits, _ColourType(colour_type)


def _grey_of_rgb(picture: Image.Image, path: Path) -> NDArray[np.integer]:
    """Pixels (row, column) of a picture of red, green and blue that are equal everywhere."""
    red, green, blue = np.moveaxis(np.asarray(picture), -1, 0)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise UnsupportedImageError(
            f"{path}: the picture is in colour, expected grey; export it in grey, a mask with the "
            "index of its label as the value of each pixel"
        )
    return np.ascontiguousarray(red)


def _transparent(path: Path) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"{path}: the picture has an alpha channel or a transparent colour; export it without "
        "transparency"
    )
