"""The simulated user: clicks by a strategy until a criterion stops it."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict

from voxclick.simulation.stopping import MaxStepsOrProbability, Progress, StoppingCriterion
from voxclick.simulation.strategies import ClickStrategy, LargestError, SimulatedClick
from voxclick.types import Index3, LabelTensor, Vector3


class SimulationSettings(BaseModel):
    """Attributes:
    strategy: where the user clicks.
    stopping: when it stops.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: ClickStrategy = LargestError()
    stopping: StoppingCriterion = MaxStepsOrProbability()


class SimulatedUser:
    """A user who knows the truth of one case and clicks where the prediction is wrong.

    It knows tensors of label indices alone: the grid may be an image file's, or a training crop
    in the network's. Its clicks are voxels of the grid it is shown.

    Attributes:
        clicked: for every label, background first, the voxels clicked so far, oldest first.
        steps_done: rounds of clicks so far.
    """

    def __init__(
        self,
        strategy: ClickStrategy,
        stopping: StoppingCriterion,
        seed: int,
        label_count: int = 2,
    ) -> None:
        """
        Args:
            seed: the same seed gives the same clicks on the same volumes, on any device.
            label_count: labels of the model, background included.
        """
        self.clicked: list[list[Index3]] = [[] for _ in range(label_count)]
        self.steps_done = 0
        self._strategy = strategy
        self._stopping = stopping
        self._generator = torch.Generator().manual_seed(seed)
        self._has_stopped = False

    def next_clicks(
        self, label: LabelTensor, prediction: LabelTensor, spacing_mm: Vector3
    ) -> list[SimulatedClick] | None:
        """The clicks of the next step, which are remembered as done.

        Args:
            label: the truth, label indices of shape (i, j, k).
            prediction: the latest, same grid and device.
            spacing_mm: of that grid.

        Returns:
            An empty list when the user goes on but finds nothing to click in this step; None
            once it has stopped.
        """
        progress = Progress(self.steps_done, label, prediction, len(self.clicked))
        self._has_stopped = self._has_stopped or self._stopping.stops(progress, self._generator)
        if self._has_stopped:
            return None
        clicks = self._strategy(label, prediction, spacing_mm, self._generator, self.clicked)
        for click in clicks:
            self.clicked[click.label_index].append(click.index)
        self.steps_done += 1
        return clicks
