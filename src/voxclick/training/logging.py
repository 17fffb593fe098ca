"""What a person sees of a run: a bar in the terminal, curves and slices in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from voxclick.training.validation import ValidationResult


class TrainingLog:
    """Bar and TensorBoard of one run; silent on every process but the first.

    Args:
        folder: for TensorBoard's event files.
        total_steps: optimizer steps of the whole run.
        active: false on the other processes of a distributed run.
    """

    def __init__(self, folder: Path, total_steps: int, active: bool) -> None:
        self._writer = SummaryWriter(str(folder)) if active else None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not active,
        )
        self._task = self._progress.add_task("training", total=total_steps, figures="")
        self._loss: float | None = None
        self._dice: Sequence[float] = ()

    def __enter__(self) -> TrainingLog:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """After an optimizer step; ``step`` counts from 1 over the whole run."""
        # the bar shows a running mean, single crops differ too much to read
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._update(step)
        if self._writer is not None:
            self._writer.add_scalar("loss/train", loss, step)
            self._writer.add_scalar("learning rate", learning_rate, step)

    def validation(self, step: int, result: ValidationResult) -> None:
        """After a validation."""
        if self._writer is None:
            return
        self._dice = result.dice
        self._update(step)
        # also where no bar is shown, as in a cluster's log file
        curve = " ".join(f"{dice:.3f}" for dice in result.dice)
        self._progress.console.print(f"step {step}: Dice after 0, 1, … clicks {curve}")
        for clicks, dice in enumerate(result.dice):
            self._writer.add_scalar(f"dice/after {clicks:02d} clicks", dice, step)
        self._writer.add_scalar("dice/mean over clicks", result.mean_dice, step)
        if result.example is not None:
            self._writer.add_figure("example", _draw_example(*result.example), step)

    def _update(self, step: int) -> None:
        figures = [] if self._loss is None else [f"loss {self._loss:.3f}"]
        if self._dice:
            figures.append(f"Dice {self._dice[0]:.3f} -> {self._dice[-1]:.3f}")
        self._progress.update(self._task, completed=step, figures="  ".join(figures))


def _draw_example(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> Figure:
    """The axial slice with most label: label green, prediction red."""
    k = int(label.sum(axis=(0, 1)).argmax())
    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(image[..., k].T, cmap="gray_r", origin="lower")
    for mask, colour in ((label, "tab:green"), (prediction, "tab:red")):
        if mask[..., k].any():
            axes.contour(mask[..., k].T, levels=[0.5], colors=colour, linewidths=1)
    axes.invert_xaxis()  # RAS+ voxels as radiologists see them: the patient's right at the left
    axes.set_axis_off()
    axes.set_title(f"slice {k}: label green, prediction red", fontsize=8)
    return figure
