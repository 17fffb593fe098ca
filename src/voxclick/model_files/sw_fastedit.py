"""Reads checkpoints of SW-FastEdit (Hadlich, Marinov et al., ISBI 2024).

Publicly, such a checkpoint is the interactive baseline of the autoPET IV challenge
(``151_best_0.8534.pt``). What the original's code says of it (github.com/Zrrr1997/SW-FastEdit; a
copy is in github.com/lab-midas/autoPETCTIV, ``Task1/interactive-baseline``):

- MONAI's ``CheckpointSaver`` writes a dict with the network's state under ``net``, beside it
  ``trainer`` (numbers), in older versions also ``opt`` and ``lr``. Where it is given the network
  alone, as for an evaluation or an ensemble, PyTorch-Ignite leaves the dict away and writes the
  bare state. ``module.`` before each name comes from a network saved inside ``DataParallel``.
- The network is MONAI's ``DynUNet`` with kernel 3, residual blocks, instance norm without weights
  and no deep supervision. Its input is the image, then one channel of clicks per label in the
  order of its labels ``{"tumor": 1, "background": 0}``: background **last**. Its output is
  background, then tumor. With ``--non_interactive`` the image is its whole input.
- A case is loaded, turned to RAS and resampled linearly to `AUTOPET_SPACING_MM`. Then its
  percentiles 0.05 and 99.95, or with ``--use_scale_intensity_ranged`` the values 0 and 43, become
  0 and 1, clipped. The public baseline takes the percentiles.
- Clicks are drawn on that grid by ``AddGuidanceSignal``, as disks of sigma 1. The challenge's
  container takes the numbers in a click file for voxels of that grid, which are the file's only
  where the file lies in RAS with that spacing. Here they are always the file's.
- ``SlidingWindowInferer`` runs windows of 128³ with an overlap of a quarter and Gaussian weights;
  what is smaller than a window is padded with zeros. ``Invertd`` resamples the logits linearly to
  the file's grid, where the larger one is the label.

Spacing, scaling, clicks and windows are not in the file: a caller has to know them.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from voxclick.clicks.click import BACKGROUND
from voxclick.errors import ModelFileError, UsageError
from voxclick.guidance import SwFastEditGuidance
from voxclick.model_files.dynunet_state import FIRST_WEIGHT, DynUNetState, listed, with_shape
from voxclick.model_files.model import ModelSettings
from voxclick.preprocessing import (
    IntensityScaling,
    PercentileScaling,
    PreprocessingSettings,
    RangeScaling,
)
from voxclick.sliding_window import SlidingWindows
from voxclick.types import Index3, Vector3

SwFastEditScaling: TypeAlias = Literal["percentile", "range"]
"""The original's two ways to scale intensity: by percentiles, or 0 to 43 (SUV)."""

SCALINGS: Mapping[SwFastEditScaling, IntensityScaling] = {
    "percentile": PercentileScaling(low=0.05, high=99.95),
    "range": RangeScaling(low=0.0, high=43.0),
}

AUTOPET_SPACING_MM: Vector3 = (2.03642011, 2.03642011, 3.0)
"""The grid of the original's networks for AutoPET, which is that data set's own."""

WINDOW: Index3 = (128, 128, 128)
OVERLAP = 0.25

_RESIDUAL_WEIGHT = "input_block.conv3.conv.weight"
"""Of the first block's residual connection, which the input runs into too."""

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What PyTorch's reader raises over bytes that nobody wrote on purpose."""


def import_sw_fastedit(
    path: str | Path,
    *,
    labels: Sequence[str] = ("tumor",),
    channels: Sequence[str] = ("PET",),
    scaling: SwFastEditScaling = "percentile",
    spacing_mm: Vector3 = AUTOPET_SPACING_MM,
    sigma: float = 1.0,
    window: Index3 = WINDOW,
    overlap: float = OVERLAP,
) -> tuple[ModelSettings, nn.Module]:
    """Read a checkpoint; `save_model` makes a model file of what this returns.

    The network's size is found from its weights, and its channels of clicks are put into our
    order. The rest is not in the file; the defaults are those of the public baseline.

    Args:
        path: written by ``torch.save`` of PyTorch 1.6 or later. Only tensors and plain values are
            unpickled.
        labels: of the outputs after the background, in their order.
        channels: of the image, in the order of the input. A network with just these inputs takes
            no clicks; one with one more per label, background included, does.
        scaling: the one of the training, for every image channel.
        spacing_mm: of the network's grid.
        sigma: of the disks, in voxels of that grid.
        window: voxels of a window along (i, j, k).
        overlap: fraction of the window that neighbours share.

    Returns:
        The settings, and the network on the CPU in evaluation mode.

    Raises:
        ModelFileError: missing, damaged, in need of unpickling, not such a DynUNet, or one for
            another number of labels or channels.
        UsageError: arguments that contradict each other or the network.
    """
    path = Path(path)
    found = DynUNetState.of(_network_state(_read(path), path), path)
    takes_clicks = _takes_clicks(found, labels, channels, path)
    try:
        settings = ModelSettings(
            labels=(BACKGROUND, *labels),
            channels=tuple(channels),
            preprocessing=PreprocessingSettings(
                spacing_mm=spacing_mm, intensity=(SCALINGS[scaling],) * len(channels)
            ),
            guidance=SwFastEditGuidance(sigma=sigma) if takes_clicks else None,
            network=found.network,
            inference=SlidingWindows(window=window, overlap=overlap, blending="gaussian"),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f"{key}: " for key in problem["loc"][:1])
        message = problem["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {place}{message}") from error
    network = settings.build_network()
    weights = _background_first(found, len(channels), path) if takes_clicks else found.weights
    # the names that repeat others are left out
    network.load_state_dict(weights, strict=False)
    return settings, network.eval()


def _read(path: Path) -> object:
    """The tensors and plain values in a file of ``torch.save``."""
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    _refuse_safetensors(path)
    if not _may_hold_tensors(path):
        raise _unreadable(path)
    try:
        # mapped, tensors that nobody asks for (the optimizer's) are not read; and what needs
        # PyTorch's older readers, which before 2.6 could be made to run code, is refused
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise _unreadable(path) from error
        raise ModelFileError(
            f"{path}: expected tensors and plain values, found a Python object ({named[1]}), and "
            "none is ever unpickled here; if you trust the file, save its weights alone, in "
            "Python: torch.save({'net': torch.load('old.pt', map_location='cpu', "
            "weights_only=False)['net']}, 'weights.pt')"
        ) from error
    except _DAMAGE as error:
        raise _unreadable(path) from error


def _may_hold_tensors(path: Path) -> bool:
    """Whether a file is an archive of ``torch.save``; TorchScript's hold code too."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {Path(name).name for name in archive.namelist()}
    # damaged names and sizes; zipfile calls features that it does not know not implemented
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return "data.pkl" in entries and "constants.pkl" not in entries


def _unreadable(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path}: expected a checkpoint of PyTorch 1.6 or later (.pt), found another kind of file "
        "or a damaged one; fetch it again"
    )


def _refuse_safetensors(path: Path) -> None:
    try:
        with safe_open(str(path), framework="pt"):
            pass
    except SafetensorError:
        return
    raise ModelFileError(
        f"{path}: expected a checkpoint of SW-FastEdit (.pt), found a safetensors file; a model "
        "file of voxclick needs no import"
    )


def _network_state(content: object, path: Path) -> dict[str, Tensor]:
    """The network's tensors by name, without what was put before all names."""
    if isinstance(content, Mapping):
        content = content.get("net", content)
    values = content if isinstance(content, Mapping) else {}
    state = {
        name: value
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    first = min((name for name in state if name.endswith(FIRST_WEIGHT)), key=len, default=None)
    if first is None:
        found = listed(with_shape(name, tensor) for name, tensor in state.items())
        entries = f"no tensors, but {listed(map(repr, values))}" if values else "something else"
        raise ModelFileError(
            f"{path}: expected the state of SW-FastEdit's DynUNet, which has a {FIRST_WEIGHT!r}, "
            f"by itself or under 'net'; found {found or entries}"
        )
    prefix = first.removesuffix(FIRST_WEIGHT)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _takes_clicks(
    found: DynUNetState, labels: Sequence[str], channels: Sequence[str], path: Path
) -> bool:
    outputs, images = found.out_channels, len(channels)
    if outputs != 1 + len(labels):
        raise ModelFileError(
            f"{path}: its network has {outputs} outputs, so expected the names of {outputs - 1} "
            f"label(s) beside the background, got {len(labels)} ({', '.join(labels)}); name them "
            "in the order of the outputs"
        )
    if found.in_channels not in (images, images + outputs):
        raise ModelFileError(
            f"{path}: with {images} image channels ({', '.join(channels)}), expected a network of "
            f"{images + outputs} inputs, or {images} if it takes no clicks, found "
            f"{found.in_channels}; name the image channels that it was trained with"
        )
    return found.in_channels > images


def _background_first(found: DynUNetState, images: int, path: Path) -> dict[str, Tensor]:
    """The weights for our order of the input: images, background, other labels."""
    weights = found.weights
    if _RESIDUAL_WEIGHT not in weights and "bottleneck.conv3.conv.weight" in weights:
        raise ModelFileError(
            f"{path}: its first block adds the input to its result as it is, having as many "
            f"filters as inputs ({found.in_channels}), so the channels of clicks cannot be put "
            "into another order; expected other numbers, as the sizes of SW-FastEdit have"
        )
    last = found.in_channels - 1
    order = [*range(images), last, *range(images, last)]
    reordered = {
        name: weights[name][:, order]
        for name in (FIRST_WEIGHT, _RESIDUAL_WEIGHT)
        if name in weights
    }
    return weights | reordered
