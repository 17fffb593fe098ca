"""The files of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxclick.errors import UsageError


@dataclass(frozen=True)
class RunFolder:
    """Attributes:
    path: the folder; made by the run.
    """

    path: Path

    @property
    def model(self) -> Path:
        """The best model so far."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that a resumed run needs."""
        return self.path / "last.ckpt"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def refuse_to_overwrite(self) -> None:
        """Raises:
        UsageError: the folder holds a run already.
        """
        if self.checkpoint.exists() or self.model.exists():
            raise UsageError(
                f"{self.path}: holds a run already; go on with it by --resume, or choose another "
                "--out"
            )
