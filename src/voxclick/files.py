"""Nothing is lost: files are written beside their place and moved there when they are whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name; an older one is replaced only when all is written.

    Args:
        path: what the file shall be called in the end; missing folders are made.

    Yields:
        A path in the same folder with the same suffix, to be written by the caller. It becomes
        ``path`` when the block ends, and is deleted when the block fails.
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    # of its own, as several processes and threads may write the same file
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}.tmp{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; an older one of that name is replaced only when all is written."""
    with replace_when_written(path) as temporary:
        temporary.touch()  # safetensors keeps its own files to their owner
        mode = temporary.stat().st_mode
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, dict(metadata))
        temporary.chmod(mode)
