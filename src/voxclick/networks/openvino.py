"""A network run by OpenVINO instead of PyTorch, which is faster on many CPUs.

OpenVINO is the extra ``openvino``; nothing here is imported from it before a network asks for it.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from voxclick.errors import UsageError
from voxclick.networks.channels_last import in_plain_layout
from voxclick.types import Index3

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, Model

KEPT = 2
"""So many compiled forms are kept, the last ones used. Each holds the weights in OpenVINO's own
layout and room for a window's activations, which may be gigabytes; one model needs one form, two
when sessions differ in window or precision."""

_PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


class OpenVinoNetwork(nn.Module):
    """A `torch.nn.Module` for inference alone, on the CPU.

    It computes in float32, under ``torch.autocast`` in autocast's dtype: the same rule as for a
    network of PyTorch. A CPU without that dtype computes in the next one that it has.

    The first window of a shape and dtype waits until the network is converted for it: a second or
    two, and if TorchScript cannot read the network's code as long again as PyTorch takes for a
    window in float32. Windows of a batch run one after the other: batches gain nothing on a few
    cores, and so a window's logits do not depend on its neighbours, to the last bit.

    It may be called from several threads, and uses as many as ``torch.get_num_threads()`` says
    when a shape first comes.

    Args:
        network: on the CPU; maps (batch, channel, i, j, k) to logits (batch, label, i, j, k). It
            is put into evaluation mode, shares its weights and must not be changed afterwards.

    Raises:
        UsageError: OpenVINO is not installed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _import_openvino()
        self.network = in_plain_layout(network)
        self.eval()
        self._lock = threading.Lock()
        self._compiled = lru_cache(maxsize=KEPT)(self._compile)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of windows.

        Args:
            windows: (batch, channel, i, j, k) on the CPU.

        Returns:
            float32 logits (batch, label, i, j, k).

        Raises:
            UsageError: the network has an operation that OpenVINO does not know.
        """
        dtype = _autocast_dtype()
        _, channels, i, j, k = windows.shape
        with self._lock:  # a compiled form serves one caller at a time
            compiled = self._compiled(channels, (i, j, k), dtype)
            logits = [
                compiled(window.numpy(), share_outputs=False)[0]
                for window in windows.detach().float().contiguous().split(1)
            ]
        return torch.cat([torch.from_numpy(array) for array in logits])

    def train(self, mode: bool = True) -> OpenVinoNetwork:
        """Stays in evaluation mode.

        Raises:
            UsageError: asked for training mode.
        """
        if mode:
            raise UsageError(
                "a network run by OpenVINO cannot be trained; load the model with the backend torch"
            )
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """That of the network inside, so that a model file can be written from either."""
        return self.network.state_dict(*args, **kwargs)

    def _compile(self, channels: int, window: Index3, dtype: torch.dtype) -> CompiledModel:
        with _CREATING_CORE:
            core = _core()
        return core.compile_model(
            _convert(self.network, (1, channels, *window)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[dtype],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # pinned threads of two processes would wait for the same cores, the first ones
                "ENABLE_CPU_PINNING": False,
            },
        )


def _import_openvino() -> ModuleType:
    # Without this OpenVINO reports to its maker, over the internet, that it is imported and what
    # it converts; nobody asked the owner of the scans
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        import openvino
        import openvino.frontend
    except ImportError as error:
        raise UsageError(
            f"the backend openvino is not installed ({error}); "
            "run: pip install 'voxclick[openvino]'"
        ) from error
    return openvino


_CREATING_CORE = threading.Lock()


@lru_cache(maxsize=1)
def _core() -> Core:
    """One for the whole process, kept to its end.

    Each gives its thread a stack for signal handlers and takes it away when it is deleted. Two that
    are not deleted in reverse order leave the thread with a stack that is gone: the next signal
    that Python handles (Ctrl-C, the end of a child process) then kills the program.
    """
    return _import_openvino().Core()


def _autocast_dtype() -> torch.dtype:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return torch.float32


def _convert(network: nn.Module, shape: tuple[int, ...]) -> Model:
    openvino = _import_openvino()
    example = torch.zeros(shape)
    # autocast would write its casts into the graph; the precision is OpenVINO's to choose
    with torch.autocast("cpu", enabled=False), _unchanged_logging():
        scripted = _torchscript(network, example)
        try:
            return openvino.convert_model(scripted, example_input=example, input=[list(shape)])
        except openvino.frontend.OpConversionFailure as error:
            summary = str(error).rpartition("Summary:")[2]
            reasons = ", ".join(part.strip() for part in summary.split("-- ") if part.strip())
            raise UsageError(
                f"OpenVINO cannot run this network ({reasons}); use the backend torch"
            ) from error


@contextmanager
def _unchanged_logging() -> Iterator[None]:
    """Where it fails, convert_model leaves the whole program's log at errors only."""
    root = logging.getLogger()
    level, handlers, filters = root.level, list(root.handlers), list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


@torch.no_grad()
def _torchscript(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    # convert_model would trace by itself, but run the network two times more to check; and what
    # it makes of torch.export's graph is slower, as instance norms are taken to pieces there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing fixes shapes
        try:
            # reads the code; tracing runs it, and takes PyTorch's time and memory for a window
            scripted = torch.jit.script(network)
            return torch.jit.freeze(scripted, optimize_numerics=False)  # OpenVINO folds better
        except Exception:  # noqa: BLE001  Python that TorchScript does not know fails in many ways
            return torch.jit.trace(network, example, check_trace=False)  # pyright: ignore[reportReturnType]
