"""What an evaluation can be told."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

from voxclick.simulation import ClickStrategy, Corrective, LargestError, Weighting


class Protocol(str, Enum):
    """How the simulated user clicks."""

    largest_error = "largest-error"
    """One click a step, in the middle of the largest error."""

    corrective = "corrective"
    """A click a step for every label that misses voxels, background included, at random."""


class EvaluationSettings(BaseModel):
    """Attributes:
    protocol: how the simulated user clicks.
    steps: predictions after the one without clicks.
    weighting: of `corrective`: how likely a voxel of the missed region is clicked.
    seed: draws among equally good clicks, and all of `corrective`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Protocol.largest_error
    steps: int = Field(default=10, ge=0)
    weighting: Weighting = "uniform"
    seed: int = Field(default=0, ge=0)

    @property
    def strategy(self) -> ClickStrategy:
        """Where the simulated user clicks."""
        if self.protocol is Protocol.largest_error:
            return LargestError()
        return Corrective(weighting=self.weighting)
