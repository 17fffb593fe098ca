"""Image files in and out; a file's own conventions (LPS, axis order, scaling) end here."""

from voxclick.io.images import (
    ANY_LABELS,
    IMAGE_SUFFIXES,
    check_stores,
    files_of,
    read_geometry,
    read_label_map,
    read_volume,
    write_label_map,
    write_volume,
)

__all__ = [
    "ANY_LABELS",
    "IMAGE_SUFFIXES",
    "check_stores",
    "files_of",
    "read_geometry",
    "read_label_map",
    "read_volume",
    "write_label_map",
    "write_volume",
]
