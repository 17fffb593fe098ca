"""`last.ckpt`: all that a run needs to go on exactly where it stopped.

Random numbers need no state: every epoch draws from the seed and its own number.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from voxclick.errors import TrainingError
from voxclick.files import replace_when_written


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; an older file is replaced only when all is written."""
    with replace_when_written(path) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it.

    Raises:
        TrainingError: missing, damaged, or holding more than tensors and plain values.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: there is no checkpoint to resume from")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise TrainingError(
            f"{path}: not a checkpoint that can be resumed: {str(error).splitlines()[0]}"
        ) from error
