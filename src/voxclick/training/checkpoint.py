"""`last.ckpt`: all that a run needs to go on exactly where it stopped.

Random numbers need no state: every epoch draws from the seed and its own number.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from voxclick.datasets import Case
from voxclick.errors import TrainingError
from voxclick.files import replace_when_written


class SplitNames(NamedTuple):
    """Names of the cases that a run learns, and of those that it validates on.

    A split is drawn from all cases: one that comes or goes moves others to the other side.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]

    @classmethod
    def of(cls, training: Sequence[Case], validation: Sequence[Case]) -> SplitNames:
        return cls(tuple(c.name for c in training), tuple(c.name for c in validation))

    @classmethod
    def in_checkpoint(cls, state: Mapping[str, Any]) -> SplitNames | None:
        """What a checkpoint says; None where it is of before checkpoints said so.

        Raises:
            TypeError: it says something else.
        """
        cases = state.get("cases")
        return None if cases is None else cls(**cases)

    def difference(self, other: SplitNames) -> str:
        """What is to be told of two splits that are not the same: who came, went or moved."""
        moved = set(self.training) ^ set(other.training)
        moved |= set(self.validation) ^ set(other.validation)
        names = sorted(moved)
        return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; an older file is replaced only when all is written."""
    with replace_when_written(path) as temporary:
        torch.save(dict(state), temporary)


def load_checkpoint(path: Path, *, values_only: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it.

    Args:
        path: what `save_checkpoint` wrote.
        values_only: the plain values alone are wanted: tensors stay on disk, and are not to be
            used, as the file may be replaced.

    Raises:
        TrainingError: missing, damaged, or holding more than tensors and plain values.
    """
    if not path.is_file():
        raise TrainingError(
            f"{path}: there is no checkpoint to resume from; to train anew, "
            "move what else lies in this folder away"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=values_only)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise TrainingError(
            f"{path}: not a checkpoint that can be resumed: {str(error).splitlines()[0]}"
        ) from error
