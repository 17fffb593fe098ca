"""What a phantom can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from voxclick.types import Vector3


class PhantomSettings(BaseModel):
    """Attributes:
    region: from the thighs to the top of the head, or from the pelvis to the shoulders.
    spacing_mm: along x, y, z; None draws 3.6 to 5 in plane and 3 to 5 between slices.
    lesions: fewest and most; what is drawn may be less where no room is left.
    lesion_free_fraction: share of the phantoms without any lesion (0 if `lesions` asks for some).
    lesion_volume_ml: smallest and largest.
    lesion_suv: smallest and largest uptake of the living part, before its texture and the
        scanner's blur; the dead middle of a large lesion has less.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: Literal["whole-body", "torso"] = "whole-body"
    spacing_mm: Vector3 | None = None
    lesions: tuple[int, int] = (0, 20)
    lesion_free_fraction: float = Field(default=0.15, ge=0, le=1)
    lesion_volume_ml: tuple[float, float] = (0.2, 150.0)
    lesion_suv: tuple[float, float] = (2.0, 25.0)
