"""PNG files: written chunk by chunk here, read by ITK as the oracle."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from voxclick.errors import UnsupportedImageError
from voxclick.io import read_geometry, read_label_map, read_volume, write_label_map, write_volume
from voxclick.volume import LabelMap, Volume

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
"""Of five rows and seven columns."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def png(path: Path, pixels: np.ndarray, **saved) -> Path:
    Image.fromarray(pixels).save(path, **saved)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(path: Path, width: int, rows: list[bytes], bits: int, colour_type: int) -> Path:
    """A PNG file of packed rows."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pixel_is_a_voxel_of_one_millimetre_where_itk_has_it(tmp_path, dtype):
    pixels = PIXELS.astype(dtype) * (1 if dtype == np.uint8 else 257)
    path = png(tmp_path / "picture.png", pixels)
    volume = read_volume(path)
    assert volume.shape == read_geometry(path).shape == (7, 5, 1)
    assert volume.voxels[6, 2, 0] == pixels[2, 6]
    image = sitk.ReadImage(str(path))
    assert np.array_equal(volume.voxels[..., 0].T, sitk.GetArrayFromImage(image))
    x, y = image.TransformIndexToPhysicalPoint((6, 2))
    assert volume.geometry.to_mm((6, 2, 0)) == (-x, -y, 0) == (-6, -2, 0)
    assert volume.spacing_mm == (1, 1, 1)


def test_the_resolution_of_a_printer_means_nothing(tmp_path):
    path = png(tmp_path / "picture.png", PIXELS, dpi=(300, 72))
    assert read_volume(path).spacing_mm == (1, 1, 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_stored_numbers_are_read(tmp_path, bits):
    largest = 2**bits - 1
    values = np.array([[0, 1, largest, 1], [1, largest, 0, 0], [1, 1, 1, largest - 1]])
    packed = [
        int("".join(format(value, f"0{bits}b") for value in row).ljust(8, "0"), 2) for row in values
    ]
    size = max(1, 4 * bits // 8)
    path = tmp_path / "label.png"
    raw_png(path, 4, [value.to_bytes(size, "big") for value in packed], bits, 0)
    assert np.array_equal(read_volume(path).voxels[..., 0], values.T)
    if bits == 2:
        label_map = read_label_map(path, ("background", "a", "b", "c"))
        assert label_map.voxels.dtype == np.uint8
        assert np.array_equal(label_map.voxels[..., 0], values.T)


def test_colours_that_are_all_grey_are_grey(tmp_path):
    path = png(tmp_path / "picture.png", np.repeat(PIXELS[..., None], 3, axis=-1))
    assert Image.open(path).mode == "RGB"
    assert np.array_equal(read_volume(path).voxels[..., 0], PIXELS.T)


def coloured(path: Path) -> None:
    pixels = np.repeat(PIXELS[..., None], 3, axis=-1)
    pixels[1, 2, 0] ^= 1
    png(path, pixels)


def with_palette(path: Path) -> None:
    picture = Image.fromarray(PIXELS).convert("P")
    picture.save(path)


def with_alpha(path: Path) -> None:
    Image.fromarray(PIXELS).convert("LA").save(path)


def with_colours_and_alpha(path: Path) -> None:
    Image.fromarray(PIXELS).convert("RGBA").save(path)


def with_a_transparent_grey(path: Path) -> None:
    png(path, PIXELS, transparency=7)


def with_deep_colours(path: Path) -> None:
    raw_png(path, 3, [bytes(18)] * 3, bits=16, colour_type=2)


def animated(path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS // 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def one_row(path: Path) -> None:
    png(path, PIXELS[:1])


def not_a_png(path: Path) -> None:
    Image.fromarray(PIXELS).save(path, format="TIFF")


def apple(path: Path) -> None:
    """iPhones' own variety begins with another chunk."""
    coloured(path)
    content = path.read_bytes()
    path.write_bytes(content[:8] + chunk(b"CgBI", bytes(4)) + content[8:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (coloured, "in colour, expected grey"),
        (with_palette, "has a palette"),
        (with_alpha, "alpha channel"),
        (with_colours_and_alpha, "alpha channel"),
        (with_a_transparent_grey, "transparent colour"),
        (with_deep_colours, "16 bits each of red, green and blue"),
        (animated, "2 frames"),
        (one_row, "7 x 1 x 1 voxels"),
        (not_a_png, "not .png"),
        (apple, "damaged"),
    ],
)
def test_pictures_that_are_not_grey_are_refused_by_their_geometry(tmp_path, make, message):
    path = tmp_path / "picture.png"
    make(path)
    for read in (read_geometry, read_volume, read_label_map):
        with pytest.raises(UnsupportedImageError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_picture_of_very_many_pixels_is_refused(tmp_path, monkeypatch):
    path = png(tmp_path / "picture.png", PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnsupportedImageError, match="more pixels than Pillow opens"):
        read_volume(path)


@pytest.mark.parametrize("colours", [1, 3])
def test_damage_is_found(tmp_path, colours):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(1).integers(0, 256, (9, 11)).astype(np.uint8)
    png(path, pixels if colours == 1 else np.repeat(pixels[..., None], 3, axis=-1))
    content = path.read_bytes()
    refused = 0
    cut = [content[:n] for n in range(0, len(content), 3)]
    flipped = [bytearray(content) for _ in range(0, 8 * len(content), 7)]
    for number, changed in enumerate(flipped):
        bit = 7 * number
        changed[bit // 8] ^= 1 << bit % 8
    for damaged in (*cut, *flipped):
        path.write_bytes(bytes(damaged))
        try:
            found = read_volume(path).voxels[..., 0].T
        except UnsupportedImageError:
            refused += 1
        else:
            assert np.array_equal(found, pixels)
    assert refused > 0.8 * (len(cut) + len(flipped))


def test_label_maps_are_grey_levels_that_others_read(tmp_path):
    indices = np.zeros((7, 5, 1), np.int64)
    indices[6, 2, 0] = 2
    path = tmp_path / "new" / "label.png"
    for largest, dtype in ((2, np.uint8), (300, np.uint16)):
        indices[0, 0, 0] = largest
        write_label_map(LabelMap(indices, LPS), path)
        stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert stored.dtype == dtype
        assert np.array_equal(stored, indices[..., 0].T)
    assert [file.name for file in path.parent.iterdir()] == ["label.png"]
    assert np.array_equal(read_volume(path).voxels, indices)
    assert read_geometry(path).matches(LabelMap(indices, LPS).geometry)


def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = png(tmp_path / "mask.png", PIXELS)
    before = path.read_bytes()

    def full_disk(picture, name, **_):
        name.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_label_map(LabelMap(np.zeros((7, 5, 1), np.uint8), LPS), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mask.png"]


@pytest.mark.parametrize(
    ("voxels", "affine", "message"),
    [
        (np.zeros((7, 5, 2)), LPS, "holds one slice along the third axis"),
        (np.zeros((7, 1, 5)), LPS, "holds one slice along the third axis"),
        (np.zeros((7, 5, 1)), np.eye(4), "cannot store where the slice lies"),
        (np.zeros((7, 5, 1)), np.diag([-0.5, -0.5, 1, 1]), "nor its spacing"),
        (np.zeros((7, 5, 1)), np.diag([-1.0, -1, 3, 1]), "nor its spacing"),
        (np.full((7, 5, 1), 0.5), LPS, r"others \(0.5 to 0.5\)"),
        (np.full((7, 5, 1), -1), LPS, r"others \(-1 to -1\)"),
        (np.full((7, 5, 1), 65536), LPS, "from 0 to 65535"),
        (np.full((7, 5, 1), np.nan), LPS, r"others \(nan to nan\)"),
    ],
)
def test_what_a_png_cannot_hold_is_not_written(tmp_path, voxels, affine, message):
    with pytest.raises(UnsupportedImageError, match=message):
        write_volume(Volume(voxels, affine), tmp_path / "image.png")
    assert list(tmp_path.iterdir()) == []
