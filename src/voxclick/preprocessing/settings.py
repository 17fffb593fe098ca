"""How an image is prepared: what is stored with the weights."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

_PositiveMm: TypeAlias = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PercentileScaling(_Settings):
    """Percentiles `low` and `high` of the image to 0 and 1, clipped."""

    kind: Literal["percentile"] = "percentile"
    low: float = Field(default=0.05, ge=0, le=100)
    high: float = Field(default=99.95, ge=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> PercentileScaling:
        _refuse_empty_range(self.low, self.high)
        return self


class RangeScaling(_Settings):
    """The values `low` and `high` to 0 and 1, clipped unless told otherwise."""

    kind: Literal["range"] = "range"
    low: float
    high: float
    clip: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> RangeScaling:
        _refuse_empty_range(self.low, self.high)
        return self


class LogScaling(_Settings):
    """log(1 + max(x, 0)) / log(1 + high), not clipped: for SUV, whose hot end is long and thin."""

    kind: Literal["log"] = "log"
    high: float = Field(gt=0)


IntensityScaling: TypeAlias = Annotated[
    PercentileScaling | RangeScaling | LogScaling, Field(discriminator="kind")
]


class PreprocessingSettings(_Settings):
    """What is stored with the weights.

    Attributes:
        spacing_mm: of the network's grid along x, y and z; None keeps the image's own. Of a single
            slice the first two are those in its plane, and its thickness stays.
        intensity: one scaling per image channel.
    """

    spacing_mm: tuple[_PositiveMm, _PositiveMm, _PositiveMm] | None = None
    intensity: tuple[IntensityScaling, ...] = Field(min_length=1)


def _refuse_empty_range(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
