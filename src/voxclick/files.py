"""Nothing is lost: files are written beside their place and moved there when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name; an older one is replaced only when all is written.

    Args:
        path: what the file shall be called in the end.

    Yields:
        A path in the same folder with the same suffix, to be written by the caller. It becomes
        ``path`` when the block ends, and is deleted when the block fails.
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
