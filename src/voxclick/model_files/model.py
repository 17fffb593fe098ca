"""A model: a network with its weights and everything that its use needs, in one file.

The file is safetensors: weights as tensors, `ModelSettings` as JSON in the header's metadata under
the key ``voxclick``. Reading it runs no code from the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from voxclick.clicks.click import BACKGROUND
from voxclick.errors import ModelFileError, UsageError
from voxclick.files import write_tensors
from voxclick.guidance import GuidanceSettings
from voxclick.networks import (
    NetworkSettings,
    OpenVinoNetwork,
    build_network,
    lay_out_for,
    window_multiple,
)
from voxclick.preprocessing import PreprocessingSettings
from voxclick.sliding_window import (
    CacheSettings,
    InferenceSettings,
    SlidingWindows,
    VolumeInference,
    WindowGrid,
)
from voxclick.sliding_window.network import faster_layout
from voxclick.sliding_window.precision import resolve_precision
from voxclick.types import Index3

METADATA_KEY = "voxclick"
FORMAT_VERSION: Literal[1] = 1

_TRIED_VOXELS = 128
"""Along an axis, of the input that layouts are tried with: a whole scan in one pass takes long."""

Backend: TypeAlias = Literal["torch", "openvino"]
"""What computes the network: PyTorch, or OpenVINO, which is faster on many CPUs and an extra."""


class ModelSettings(BaseModel):
    """What must be known beside the weights.

    Attributes:
        labels: names by index, ``labels[0]`` is ``"background"``.
        channels: names of the image channels, in the order of the input.
        preprocessing: from the image file to the network's grid.
        guidance: how clicks become channels; None for a network without clicks.
        network: which network.
        inference: how volumes go through it, unless the caller wants otherwise.
        air_below: in the network's input, an image that is nowhere as bright as this shows only
            air; None if nobody knows.
        format_version: of this metadata.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...]
    channels: tuple[str, ...]
    preprocessing: PreprocessingSettings
    guidance: GuidanceSettings | None
    network: NetworkSettings
    inference: InferenceSettings
    air_below: float | None = None
    format_version: Literal[1] = FORMAT_VERSION

    @model_validator(mode="after")
    def _consistent(self) -> ModelSettings:
        if len(self.labels) < 2 or self.labels[0] != BACKGROUND:
            raise ValueError(
                f"labels must be 'background' and at least one more, got {self.labels}"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must differ from each other, got {self.labels}")
        if len(self.preprocessing.intensity) != len(self.channels):
            raise ValueError(
                f"preprocessing.intensity must have one entry per channel: "
                f"{len(self.channels)} channels ({', '.join(self.channels)}), "
                f"{len(self.preprocessing.intensity)} entries"
            )
        if isinstance(self.inference, SlidingWindows):
            multiple = window_multiple(self.network)
            if any(w % m for w, m in zip(self.inference.window, multiple, strict=True)):
                raise ValueError(
                    f"the network {self.network.name!r} needs windows that are multiples of "
                    f"{multiple}, got {self.inference.window}"
                )
        return self

    @property
    def in_channels(self) -> int:
        """Input channels of the network: the image's, then one per label when there are clicks."""
        return len(self.channels) + (len(self.labels) if self.guidance is not None else 0)

    def build_network(self) -> nn.Module:
        """The network with fresh weights."""
        return build_network(self.network, self.in_channels, len(self.labels))


@dataclass(frozen=True, eq=False)
class Model:
    """A network on a device, with its settings.

    Attributes:
        settings: all that was stored with the weights.
        network: in evaluation mode, on `device`.
        device: where the network is.
    """

    settings: ModelSettings
    network: nn.Module
    device: torch.device

    @property
    def backend(self) -> Backend:
        """What computes the network."""
        return "openvino" if isinstance(self.network, OpenVinoNetwork) else "torch"

    @property
    def window_multiple(self) -> Index3:
        """Windows must have a multiple of this many voxels along (i, j, k)."""
        return window_multiple(self.settings.network)

    @cached_property
    def fingerprint(self) -> str:
        """The same for models that answer alike: a digest of settings and weights."""
        digest = hashlib.blake2b(self.settings.model_dump_json().encode(), digest_size=16)
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def check_inference(self, settings: InferenceSettings) -> None:
        """Refuse a way for volumes that the network cannot go.

        Raises:
            UsageError: windows of a size that it does not take.
        """
        if not isinstance(settings, SlidingWindows):
            return
        multiple = self.window_multiple
        if any(w % m for w, m in zip(settings.window, multiple, strict=True)):
            raise UsageError(
                f"the model needs windows that are multiples of {multiple} voxels, got "
                f"{settings.window}; choose others with inference.window"
            )

    def inference(
        self,
        shape: Index3,
        settings: InferenceSettings | None = None,
        cache: CacheSettings | None = None,
    ) -> VolumeInference:
        """The way of one volume through the network, as stored or as `settings` say.

        On a GPU the network is tried in two layouts of memory before it first goes a way.

        Args:
            shape: voxels of the volume, in the network's grid.
            settings: None for those of the model file.
            cache: how much of the windows' results is kept.
        """
        settings = settings or self.settings.inference
        if isinstance(settings, SlidingWindows) and self.backend == "openvino":
            # it runs windows one by one anyway: filling a batch up would be for nothing
            settings = settings.model_copy(update={"window_batch": 1})
        return VolumeInference(
            self.network,
            settings,
            self.window_multiple,
            self.device,
            shape,
            len(self.settings.labels),
            cache or CacheSettings(),
            self.backend,
            self._layout(settings, shape),
        )

    def _layout(self, settings: InferenceSettings, shape: Index3) -> torch.memory_format:
        """How the network's input is to lie in memory."""
        if self.device.type != "cuda":
            return torch.contiguous_format
        if isinstance(settings, SlidingWindows):
            batch, window = settings.window_batch, settings.window
        else:
            grid = WindowGrid.at_centre(shape, settings.centre_crop, self.window_multiple)
            batch, window = 1, grid.window
        multiples = zip(window, self.window_multiple, strict=True)
        tried = (-(-min(size, _TRIED_VOXELS) // m) * m for size, m in multiples)
        dtype = resolve_precision(settings.precision, self.device)
        in_shape = (batch, self.settings.in_channels, *tried)
        return faster_layout(self.network, self.device, dtype, in_shape)


def resolve_device(device: str | torch.device) -> torch.device:
    """``auto`` becomes the first CUDA device if there is one, else the CPU.

    Raises:
        UsageError: neither the CPU nor a CUDA device, or one that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if resolved.type not in ("cpu", "cuda"):
        raise UsageError(f"the device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device {device!r}: PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices; use --device cpu, or install a CUDA build of PyTorch"
        )
    return resolved


def save_model(path: str | Path, settings: ModelSettings, network: nn.Module) -> None:
    """Write a model file; an older one of that name is replaced only when all is written."""
    write_tensors(Path(path), _weights(network), {METADATA_KEY: settings.model_dump_json()})


def load_model(
    path: str | Path, device: str | torch.device = "auto", backend: Backend = "torch"
) -> Model:
    """Read a model file.

    Args:
        path: a ``.safetensors`` file that `save_model` or ``voxclick train`` wrote.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; with OpenVINO ``auto`` or ``cpu``.
        backend: what computes the network.

    Raises:
        ModelFileError: missing, damaged, not ours, or its weights do not fit its network.
        UsageError: a device that is not there or not the backend's, an unknown backend, or one
            that is not installed.
    """
    path = Path(path)
    target = _device_of(backend, device)
    network, settings = _read_network(path)
    if backend == "openvino":
        return Model(settings, OpenVinoNetwork(network), target)
    return Model(settings, lay_out_for(network, target), target)


def _device_of(backend: Backend, device: str | torch.device) -> torch.device:
    if backend not in get_args(Backend):
        raise UsageError(
            f"there is no backend {backend!r}; expected one of {', '.join(get_args(Backend))}"
        )
    if backend == "torch":
        return resolve_device(device)
    target = resolve_device("cpu" if device == "auto" else device)
    if target.type != "cpu":
        raise UsageError(
            f"the backend openvino runs on the CPU, got the device {str(device)!r}; "
            "use the device cpu, or the backend torch"
        )
    return target


def _read_network(path: Path) -> tuple[nn.Module, ModelSettings]:
    """The network with its weights, in evaluation mode on the CPU."""
    settings = read_model_settings(path)
    try:
        network = settings.build_network()
    except (UsageError, TypeError) as error:  # a builder of one's own takes other options
        raise ModelFileError(f"{path}: {error}") from error
    try:
        missing, unexpected = _load_weights(network, path)
    except (SafetensorError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the weights do not fit: {_first_line(error)}") from error
    if missing or unexpected:
        raise ModelFileError(
            f"{path}: the weights do not fit the network {settings.network.name!r}: "
            f"{_names(missing)} missing, {_names(unexpected)} too many"
        )
    return network.eval(), settings


def read_model_settings(path: str | Path) -> ModelSettings:
    """The settings in a model file, without its weights.

    Raises:
        ModelFileError: missing, damaged, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ModelFileError(
            f"{path}: not a safetensors file ({_first_line(error)}); a model file is what "
            "'voxclick train' leaves as model.safetensors"
        ) from error
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file without voxclick's metadata; it holds weights, but not "
            "what their use needs (labels, spacing, scaling)"
        )
    try:
        return ModelSettings.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: its metadata is damaged or of a newer voxclick, which would be needed: "
            f"{'.'.join(map(str, error.errors()[0]['loc']))}: "
            f"{_first_line(error.errors()[0]['msg'])}"
        ) from error
    except UsageError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor once, under the first of its names: DynUNet gives most of them several.

    safetensors has `save_model` and `load_model` for that, but the one fails where channels come
    last, and the other does not see batch norm's counters.
    """
    weights: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in network.state_dict().items():
        weights.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))
    return dict(weights.values())


def _load_weights(network: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Load what `_weights` stored; returns the names that are missing, and those too many."""
    stored = load_file(path)
    missing, unexpected = network.load_state_dict(stored, strict=False)
    places = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    loaded = {places[name] for name in stored if name in places}
    return [name for name in missing if places[name] not in loaded], list(unexpected)


def _first_line(error: object) -> str:
    return str(error).splitlines()[0]


def _names(keys: Sequence[str]) -> str:
    keys = sorted(keys)
    return "none" if not keys else ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
