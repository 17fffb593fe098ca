"""Sessions on disk: one safetensors file, which holds no code and no model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from voxclick.clicks import Click, ClickHistory
from voxclick.errors import SessionFileError
from voxclick.files import write_tensors
from voxclick.sliding_window import InferenceSettings, WindowGrid
from voxclick.types import Index3

METADATA_KEY = "voxclick-session"
_IMAGE, _MASK, _LOCAL_MASK, _WINDOW = "image", "mask", "local-mask", "window/"

_SavedClicks = tuple[tuple[Index3, str], ...]


class SessionHeader(BaseModel):
    """What a saved session says of itself.

    Attributes:
        model: fingerprint of the model it was made with.
        computed_by: all that rounds the windows' results; see `VolumeInference.computed_by`.
        shape: of the image file.
        affine: of the image file, row by row.
        inference: way through the network.
        radius_mm: of local corrections.
        started_from_mask: whether what stands away from the clicks came from outside; else it is
            the model's own.
        skip_air: whether windows of air are passed over.
        clicks: as they are.
        earlier: states that undoing leads back to.
        later: states that redoing leads to.
        shown: the clicks that the mask was made with; None if there is no mask yet.
        format_version: of this file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    computed_by: str
    shape: Index3
    affine: tuple[tuple[float, float, float, float], ...]
    inference: InferenceSettings
    radius_mm: float | None
    started_from_mask: bool
    skip_air: bool
    clicks: _SavedClicks
    earlier: tuple[_SavedClicks, ...]
    later: tuple[_SavedClicks, ...]
    shown: _SavedClicks | None
    format_version: Literal[1] = 1

    @property
    def history(self) -> ClickHistory:
        return ClickHistory(
            clicks_of(self.clicks),
            tuple(map(clicks_of, self.earlier)),
            tuple(map(clicks_of, self.later)),
        )


@dataclass(frozen=True, eq=False)
class SavedSession:
    """Attributes:
    header: all but the arrays.
    image: float32 (channel, i, j, k), prepared for the network.
    mask: uint8 label indices of the image file; None if there is none yet.
    local_mask: what stands away from the clicks, with local corrections.
    results: margins of windows with the shown clicks, by the windows' numbers.
    """

    header: SessionHeader
    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None = None
    local_mask: NDArray[np.uint8] | None = None
    results: dict[int, Tensor] = field(default_factory=dict)

    def fits(self, channels: int, margins: int, grid: WindowGrid) -> bool:
        """Whether the arrays have the shapes that a network and the windows of its image say.

        Args:
            channels: of the image.
            margins: channels of a result.
            grid: windows of the image.
        """
        return self.image.shape == (channels, *grid.shape) and all(
            number < len(grid.boxes) and result.shape == (margins, *grid.window)
            for number, result in self.results.items()
        )


def saved_clicks(clicks: tuple[Click, ...]) -> _SavedClicks:
    return tuple((click.index, click.label) for click in clicks)


def clicks_of(saved: _SavedClicks) -> tuple[Click, ...]:
    return tuple(Click(index, label) for index, label in saved)


def write_session(session: SavedSession, path: Path) -> None:
    """Write a session file; an older one of that name is replaced only when all is written."""
    tensors = {_IMAGE: torch.from_numpy(session.image)}
    for name, array in ((_MASK, session.mask), (_LOCAL_MASK, session.local_mask)):
        if array is not None:
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
    for number, margins in session.results.items():
        tensors[f"{_WINDOW}{number}"] = margins.cpu()
    write_tensors(path, tensors, {METADATA_KEY: session.header.model_dump_json()})


def read_session(path: Path) -> SavedSession:
    """Read a session file.

    Raises:
        SessionFileError: missing, damaged, or something else.
    """
    if not path.is_file():
        raise SessionFileError(f"{path}: there is no such session file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise SessionFileError(
                    f"{path}: a safetensors file, but not a saved session; expected what "
                    "InteractiveSession.save wrote"
                )
            header = SessionHeader.model_validate_json(metadata[METADATA_KEY])
        tensors = load_file(path)
    except (SafetensorError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise SessionFileError(
            f"{path}: not a session file, or a damaged one ({reason})"
        ) from error
    wrong = _missing_or_wrong(tensors, header)
    if wrong:
        raise SessionFileError(
            f"{path}: a damaged session file (missing, or not what its header says: "
            f"{', '.join(sorted(wrong))})"
        )
    return SavedSession(
        header,
        tensors[_IMAGE].numpy(),
        tensors[_MASK].numpy() if _MASK in tensors else None,
        tensors[_LOCAL_MASK].numpy() if _LOCAL_MASK in tensors else None,
        {
            int(name.removeprefix(_WINDOW)): tensor
            for name, tensor in tensors.items()
            if name.startswith(_WINDOW)
        },
    )


def _missing_or_wrong(tensors: dict[str, Tensor], header: SessionHeader) -> set[str]:
    """Names of tensors that are too few, too many or of another kind than the header says."""
    masks: set[str] = set()
    if header.shown is not None:
        masks = {_MASK} if header.radius_mm is None else {_MASK, _LOCAL_MASK}
    others = {name for name in tensors if not re.fullmatch(rf"{_WINDOW}\d+", name)}
    wrong = others ^ {_IMAGE, *masks}
    for name in others - wrong:
        dtype = torch.float32 if name == _IMAGE else torch.uint8
        if tensors[name].dtype != dtype or (name in masks and tensors[name].shape != header.shape):
            wrong.add(name)
    return wrong
