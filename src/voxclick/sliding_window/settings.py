"""How volumes go through a network, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from voxclick.sliding_window.precision import Precision


class SlidingWindows(BaseModel):
    """Overlapping windows, blended.

    Attributes:
        window: voxels of a window along (i, j, k), in the network's grid.
        overlap: fraction of the window that neighbours share.
        blending: ``gaussian`` weights a window's centre more than its border (sigma an eighth of
            the window, MONAI's importance map); ``constant`` is a plain mean.
        window_batch: windows that run through the network at once. Always as many: a batch that
            a click does not fill is filled up, as results must not depend on their company.
        stitching: where windows are blended; ``cpu`` spares a small GPU's memory.
        precision: dtype of the network's convolutions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sliding-windows"] = "sliding-windows"
    window: tuple[PositiveInt, PositiveInt, PositiveInt] = (128, 128, 128)
    overlap: float = Field(default=0.25, ge=0, lt=1)
    blending: Literal["gaussian", "constant"] = "gaussian"
    window_batch: int = Field(default=1, ge=1)
    stitching: Literal["device", "cpu"] = "device"
    precision: Precision = "auto"


class OnePass(BaseModel):
    """The volume, or a box around its centre, in a single pass.

    Attributes:
        centre_crop: voxels of the centre box that the network sees, rounded up to what it can
            take; what lies outside becomes background. None for the whole volume.
        precision: dtype of the network's convolutions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["one-pass"] = "one-pass"
    centre_crop: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    precision: Precision = "auto"


InferenceSettings: TypeAlias = Annotated[SlidingWindows | OnePass, Field(discriminator="kind")]


class CacheSettings(BaseModel):
    """How much of a volume's window results is kept, and where.

    A click runs the windows whose results are not kept. What does not fit is computed again when
    it is needed, with a warning.

    Attributes:
        dtype: of the results; ``float16`` takes half the room and rounds them.
        gpu_gib: on the GPU that the network runs on; the fastest place.
        host_gib: in main memory.
        disk_gib: in files, for volumes that are larger than memory.
        folder: for those files; None for the system's folder of temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["float32", "float16"] = "float32"
    gpu_gib: float = Field(default=1.0, ge=0)
    host_gib: float = Field(default=1.0, ge=0)
    disk_gib: float = Field(default=0.0, ge=0)
    folder: Path | None = None
