"""What an evaluation can be told."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from voxclick.simulation import (
    ClickStrategy,
    Corrective,
    DeepGrow,
    LargestError,
    MaxSteps,
    NonCorrective,
    PatchCorrective,
    StoppingCriterion,
    Weighting,
)


class Protocol(str, Enum):
    """Who clicks, and how."""

    largest_error = "largest-error"
    """One click a step, in the middle of the largest error."""

    corrective = "corrective"
    """A click a step for every label that misses voxels, background included, at random."""

    non_corrective = "non-corrective"
    """A click a step for every label, anywhere in it, whatever the prediction."""

    patch_corrective = "patch-corrective"
    """`corrective`, for each label inside the patch where it is worst."""

    deepgrow = "deepgrow"
    """`corrective`, each step only with some probability."""

    cvpr2025 = "cvpr2025"
    """A box, then five clicks: the CVPR 2025 challenge of interactive 3D segmentation."""

    autopet4 = "autopet4"
    """Ten pairs of clicks that do not look at the prediction: autoPET IV."""

    autopet5 = "autopet5"
    """Five scribbles that correct: autoPET V."""

    recorded = "recorded"
    """Clicks that somebody has given before, one a step, in their order."""


CHALLENGE_STEPS = {Protocol.cvpr2025: 5, Protocol.autopet4: 10, Protocol.autopet5: 5}
"""Challenges fix how often the user may correct, and their scores are made for that."""

REPLAYING = frozenset({Protocol.recorded, Protocol.autopet4})
"""Protocols that take clicks from files."""

_AT_RANDOM = frozenset(
    {Protocol.corrective, Protocol.non_corrective, Protocol.patch_corrective, Protocol.deepgrow}
)
_SIMULATED = _AT_RANDOM | {Protocol.largest_error}
_BELONGS_TO = {
    "weighting": frozenset({Protocol.corrective, Protocol.patch_corrective, Protocol.deepgrow}),
    "click_probability": frozenset({Protocol.deepgrow}),
    "patch_size": frozenset({Protocol.patch_corrective}),
    "stopping": _SIMULATED,
    "repeats": _SIMULATED,
    "seed": _SIMULATED,
}


class EvaluationSettings(BaseModel):
    """Attributes:
    protocol: who clicks, and how.
    steps: predictions after the first; what the challenge says in its own protocols.
    weighting: how likely a voxel of a missed region is clicked.
    click_probability: of clicking at all in a step of `deepgrow`.
    patch_size: voxels of a patch of `patch-corrective` along each axis.
    stopping: when a simulated user stops before the last step; None for never.
    seed: draws among equally good clicks, and all that is drawn at random.
    repeats: how often every case is clicked through, with the seeds seed, seed + 1, …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Protocol.largest_error
    steps: int = Field(default=10, ge=0)
    weighting: Weighting = "uniform"
    click_probability: float = Field(default=0.4, ge=0, le=1)
    patch_size: int = Field(default=128, ge=1)
    stopping: StoppingCriterion | None = None
    seed: int = Field(default=0, ge=0)
    repeats: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _steps_of_challenge(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is None:
            protocol = Protocol(values.get("protocol", Protocol.largest_error))
            return values | {"steps": CHALLENGE_STEPS.get(protocol, 10)}
        return values

    @model_validator(mode="after")
    def _fits_protocol(self) -> EvaluationSettings:
        defaults = type(self).model_fields
        for name, protocols in _BELONGS_TO.items():
            is_said = getattr(self, name) != defaults[name].default
            if is_said and self.protocol not in protocols:
                belonging = ", ".join(p.value for p in Protocol if p in protocols)
                raise ValueError(
                    f"{name} belongs to the protocols {belonging}, not to {self.protocol.value}"
                )
        fixed = CHALLENGE_STEPS.get(self.protocol, self.steps)
        if self.steps != fixed:
            raise ValueError(
                f"the protocol {self.protocol.value} has {fixed} steps, got {self.steps}"
            )
        return self

    @property
    def predictions(self) -> int:
        """Of a case, in all repeats."""
        return self.repeats * (self.steps + 1)

    @property
    def strategy(self) -> ClickStrategy:
        """Where a simulated user clicks.

        Raises:
            KeyError: in a protocol without a click strategy.
        """
        strategies: dict[Protocol, ClickStrategy] = {
            Protocol.largest_error: LargestError(),
            Protocol.corrective: Corrective(weighting=self.weighting),
            Protocol.non_corrective: NonCorrective(),
            Protocol.patch_corrective: PatchCorrective(
                patch_size=self.patch_size, weighting=self.weighting
            ),
            Protocol.deepgrow: DeepGrow(
                probability=self.click_probability, weighting=self.weighting
            ),
        }
        return strategies[self.protocol]

    @property
    def criterion(self) -> StoppingCriterion:
        """When a simulated user stops."""
        return self.stopping or MaxSteps(max_steps=self.steps)
