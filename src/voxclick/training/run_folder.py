"""The files of a training run, and of a run for each fold of a cross-validation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from voxclick.errors import TrainingError, UsageError
from voxclick.training.checkpoint import SplitNames, load_checkpoint


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epochs_done: that its checkpoint holds.
        best_dice: of the model that was kept; None without validation cases.
        cases: that it learnt and validated on; None if its checkpoint does not say.
    """

    epochs_done: int
    best_dice: float | None
    cases: SplitNames | None


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

    @property
    def holds_run(self) -> bool:
        """Whether a run here has come so far that there is something to lose."""
        return self.checkpoint.exists() or self.model.exists()

    def fold(self, number: int) -> RunFolder:
        """Where this fold's run lies."""
        return RunFolder(self.path / f"fold-{number}")

    @property
    def folds(self) -> dict[int, RunFolder]:
        """Folders of folds, by their number, in its order."""
        numbers = [re.fullmatch(r"fold-(0|[1-9]\d*)", p.name) for p in self.path.glob("fold-*")]
        return {number: self.fold(number) for number in sorted(int(n[1]) for n in numbers if n)}

    def progress(self) -> Progress | None:
        """How far the run has come; None if it has no checkpoint yet.

        Raises:
            TrainingError: the checkpoint is damaged, or not one of ours.
        """
        if not self.checkpoint.exists():
            return None
        state = load_checkpoint(self.checkpoint, values_only=True)
        try:
            return Progress(
                state["epochs_done"], state["best_dice"], SplitNames.in_checkpoint(state)
            )
        except (KeyError, TypeError) as error:
            raise TrainingError(
                f"{self.checkpoint}: not a checkpoint of a run: expected epochs_done and best_dice"
            ) from error

    def refuse_to_overwrite(self) -> None:
        """Raises:
        UsageError: the folder holds a run already, or runs of folds.
        """
        if any(run.holds_run for run in (self, *self.folds.values())):
            raise UsageError(
                f"{self.path}: holds a run already; go on with it by --resume, or choose another "
                "--out"
            )
