"""A batch of windows through the network: eagerly, against what could be faster.

    python benchmarks/network_variants.py --device cpu --network dynunet-light --window 64

Eagerly, sessions run it: on a CPU as `eager` does, on a GPU as `eager` or `channels last, as in
sessions`, whichever a trial finds faster. Beside it `torch.compile`, a CUDA graph and other layouts
in memory, all on the same input in one process, in turn. Prints and writes for each its seconds,
how long the first call waits (compiling), after how many calls that is paid back, how far its
logits are from eager's, and the memory it takes. What the device does not have is skipped, with the
reason. The network has random weights.

On a CPU that other work shares, seconds of the processor say more than those of the clock, with
`--threads 1`: several threads would count what they wait for each other.

What `torch.compile` keeps on disk lies in a fresh folder, so that every run compiles from nothing;
with TORCHINDUCTOR_CACHE_DIR a second run shows what it finds of the first. Compiled variants of
one run find each other's kernels, too: `--only` one of them shows how long it waits by itself.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, get_args

import torch
from backends import cpu_name
from inference import report, spread
from torch import Tensor, nn

from voxclick.bench.memory import peak_bytes, reset_peak
from voxclick.hardware import device_name
from voxclick.networks import NetworkSettings, build_network, lay_out_for
from voxclick.sliding_window.precision import Precision, resolve_precision

Way: TypeAlias = Callable[[], Tensor]
"""The batch of windows through one variant: float32 logits, complete when it returns."""

_CPU, _CUDA = frozenset({"cpu"}), frozenset({"cuda"})
_LAST = torch.channels_last_3d
_WARM_UP_CALLS = 3
"""Before a CUDA graph is captured: cuDNN chooses its kernels, the allocator takes its memory."""


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of the processor: this process and the compilers it ran."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Work:
    """What all variants have in common.

    Attributes:
        network: as MONAI builds it, on a CPU; a variant works on a copy.
        windows: (batch, channel, i, j, k), on the device.
        dtype: of the convolutions.
    """

    network: nn.Module
    windows: Tensor
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.windows.device

    def laid_out(self) -> nn.Module:
        """As a model file is loaded."""
        return lay_out_for(copy.deepcopy(self.network), self.device)

    def plain(self) -> nn.Module:
        """As MONAI builds it: channels first, PyTorch's instance norm."""
        return copy.deepcopy(self.network).to(self.device)

    def channels_last(self) -> nn.Module:
        """As it is laid out on a CPU, its weights channels last, too."""
        return lay_out_for(copy.deepcopy(self.network), torch.device("cpu")).to(self.device)


@dataclass(frozen=True)
class Variant:
    """Attributes:
    build: makes the way through the network; compiling is left to the first call.
    devices: that have it.
    why_not: what is said on the others.
    """

    build: Callable[[Work], Way]
    devices: frozenset[str] = _CPU | _CUDA
    why_not: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="dynunet-light")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--precision", nargs="+", choices=get_args(Precision), default=["float32", "auto"]
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="beside eager")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    wanted = {
        name: variant
        for name, variant in VARIANTS.items()
        if name in ("eager", *(options.only or VARIANTS))
    }
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    # as sessions ask for: the same kernels every time
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    figures: dict[str, object] = {
        "device": cpu_name() if device.type == "cpu" else device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": options.network,
        "window": options.window,
        "batch": options.batch,
    }
    with tempfile.TemporaryDirectory(prefix="voxclick-compiled-") as fresh:
        folder = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", fresh))
        figures["compiled_before"] = folder.is_dir() and any(folder.iterdir())
        dtypes = dict.fromkeys(resolve_precision(name, device) for name in options.precision)
        for dtype in dtypes:
            work = random_work(options.network, options.window, options.batch, dtype, device)
            figures[str(dtype).removeprefix("torch.")] = measure(work, wanted, options.repeats)
            # after each, so that an interrupted run leaves what it knows
            report(figures, options.out)


def random_work(
    network: str, window: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Work:
    torch.manual_seed(0)
    built = build_network(NetworkSettings(name=network), 3, 2).eval()
    return Work(built, torch.rand((batch, 3, *(window,) * 3)).to(device), dtype)


def measure(work: Work, variants: dict[str, Variant], repeats: int) -> dict[str, object]:
    """The figures of variants by name, eager among them, or why there are none."""
    torch.compiler.reset()
    eager(work)()  # what only the first call of a process waits for
    found: dict[str, dict[str, object]] = {}
    ways: dict[str, Way] = {}
    waits: dict[str, Took] = {}
    for name, variant in variants.items():
        if work.device.type not in variant.devices:
            found[name] = {"skipped": variant.why_not}
            continue
        print(f"… {name}", flush=True)
        try:
            ways[name], waits[name], found[name] = started(variant, work)
        except RuntimeError as error:
            # no compiler, or no memory: the others are still worth their time
            found[name] = {"failed": f"{type(error).__name__}: {str(error).strip()[:500]}"}
    exact = ways["eager"]()
    took = in_turn(ways, repeats)
    for name, way in ways.items():
        found[name] = {
            **compared(took[name], waits[name], took["eager"], waits["eager"]),
            **differences(way, exact),
            **found[name],
        }
    return dict(found)


def in_turn(ways: dict[str, Way], repeats: int) -> dict[str, list[Took]]:
    """What each takes, run A B C D A B … after a warm-up, so that drift hits all alike."""
    took: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            took[name].append(taken_by(way))
    return took


def taken_by(work: Callable[[], object]) -> Took:
    start, cpu_start = time.perf_counter(), cpu_clock()
    work()
    return Took(time.perf_counter() - start, cpu_clock() - cpu_start)


def cpu_clock() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def compared(
    took: list[Took], wait: Took, usual: list[Took], usual_wait: Took
) -> dict[str, object]:
    """A variant's times, and eager's over them."""
    figures: dict[str, object] = {}
    for kind in ("wall", "cpu"):
        mine, eagers = ([getattr(t, kind) for t in each] for each in (took, usual))
        saved = statistics.median(eagers) - statistics.median(mine)
        waited = getattr(wait, kind) - getattr(usual_wait, kind)
        figures[f"{kind}_seconds"] = spread(mine)
        figures[f"{kind}_times_as_fast"] = round(
            statistics.median(eagers) / statistics.median(mine), 3
        )
        figures[f"{kind}_first_call_seconds"] = round(getattr(wait, kind), 2)
        figures[f"{kind}_calls_to_pay_back"] = calls_to_pay_back(waited, saved)
    return figures


def started(variant: Variant, work: Work) -> tuple[Way, Took, dict[str, object]]:
    """Build a variant and call it twice.

    Returns:
        The variant, what its first answer took, and its peaks of memory beyond what was held
        before it was built: with the first call, which compiles, and in the second.
    """
    reset_peak(work.device)
    before = peak_bytes(work.device)
    ways: list[Way] = []

    def first() -> None:
        ways.append(variant.build(work))
        ways[0]()

    wait = taken_by(first)
    compiling = peak_bytes(work.device)
    reset_peak(work.device)
    ways[0]()
    running = peak_bytes(work.device)
    return (
        ways[0],
        wait,
        {
            "first_peak_bytes": beyond(compiling, before),
            "peak_bytes": beyond(running, before),
        },
    )


def beyond(peak: int | None, before: int | None) -> int | None:
    return None if peak is None or before is None else peak - before


def calls_to_pay_back(waited: float, saved: float) -> int | None:
    """How many calls save what the first one waited longer than eager's; None if none can."""
    return max(0, round(waited / saved)) if saved > 0 else None


def differences(way: Way, exact: Tensor) -> dict[str, object]:
    logits, again = way(), way()
    return {
        "largest_difference": float((logits - exact).abs().max()),
        "labels_changed": float((logits.argmax(1) != exact.argmax(1)).float().mean()),
        "same_bits_again": torch.equal(logits, again),
    }


@torch.inference_mode()
def run(network: Callable[[Tensor], Tensor], windows: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(windows.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = network(windows).float()
    if windows.device.type == "cuda":
        torch.cuda.synchronize(windows.device)
    return logits


def eager(work: Work) -> Way:
    return partial(run, work.laid_out(), work.windows, work.dtype)


def channels_last(work: Work) -> Way:
    windows = work.windows.contiguous(memory_format=_LAST)
    return partial(run, work.channels_last(), windows, work.dtype)


def channels_last_input(work: Work) -> Way:
    windows = work.windows.contiguous(memory_format=_LAST)
    return partial(run, work.laid_out(), windows, work.dtype)


def channels_last_with_usual_norms(work: Work) -> Way:
    # the overload is missing from PyTorch's annotations
    network = work.plain().to(memory_format=_LAST)  # pyright: ignore[reportCallIssue]
    return partial(run, network, work.windows.contiguous(memory_format=_LAST), work.dtype)


def kernels_by_trial(work: Work) -> Way:
    return partial(run, with_cudnn(work.laid_out(), deterministic=True), work.windows, work.dtype)


def channels_last_kernels_by_trial(work: Work) -> Way:
    network = with_cudnn(work.channels_last(), deterministic=True)
    return partial(run, network, work.windows.contiguous(memory_format=_LAST), work.dtype)


def any_kernels_by_trial(work: Work) -> Way:
    return partial(run, with_cudnn(work.laid_out(), deterministic=False), work.windows, work.dtype)


def with_cudnn(network: nn.Module, *, deterministic: bool) -> Callable[[Tensor], Tensor]:
    """cuDNN tries its kernels on the first call and takes the fastest from then on."""

    def call(windows: Tensor) -> Tensor:
        flags = torch.backends.cudnn.flags
        with flags(enabled=True, benchmark=True, deterministic=deterministic):
            return network(windows)

    return call


def compiled(work: Work) -> Way:
    return partial(run, torch.compile(work.laid_out()), work.windows, work.dtype)


def compiled_frozen(work: Work) -> Way:
    network = torch.compile(work.laid_out(), options={"freezing": True})
    return partial(run, network, work.windows, work.dtype)


def compiled_plain(work: Work) -> Way:
    return partial(run, torch.compile(work.plain()), work.windows, work.dtype)


def compiled_channels_last(work: Work) -> Way:
    windows = work.windows.contiguous(memory_format=_LAST)
    return partial(run, torch.compile(work.channels_last()), windows, work.dtype)


def compiled_with_graphs(work: Work) -> Way:
    network = torch.compile(work.laid_out(), mode="reduce-overhead")

    def step(windows: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        # the next call writes where this one's answer lies
        return network(windows).clone()

    return partial(run, step, work.windows, work.dtype)


def graph(work: Work) -> Way:
    """Capture the network once; from then on its kernels start without Python."""
    network, given = work.laid_out(), torch.empty_like(work.windows)
    call = partial(run_uncounted, network, given, work.dtype)
    stream = torch.cuda.Stream(work.device)
    stream.wait_stream(torch.cuda.current_stream(work.device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_CALLS):
            call()
    torch.cuda.current_stream(work.device).wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        answer = call()

    def replay(windows: Tensor) -> Tensor:
        given.copy_(windows)
        captured.replay()
        return answer.clone()

    return partial(run, replay, work.windows, torch.float32)


@torch.inference_mode()
def run_uncounted(network: nn.Module, windows: Tensor, dtype: torch.dtype) -> Tensor:
    """As `run`, without waiting for the device, which a capture cannot do."""
    half = dtype != torch.float32
    with torch.autocast(windows.device.type, dtype=dtype, enabled=half, cache_enabled=False):
        return network(windows).float()


_IS_EAGER = "eager is laid out so on this device"
_NEEDS_CUDNN = "cuDNN needs a CUDA device"
_NEEDS_CUDA = "CUDA graphs need a CUDA device"
VARIANTS = {
    "eager": Variant(eager),
    "channels last, as in sessions": Variant(channels_last_input, _CUDA, _IS_EAGER),
    "channels_last_3d": Variant(channels_last, _CUDA, _IS_EAGER),
    "channels_last_3d, usual norms": Variant(channels_last_with_usual_norms),
    "kernels by trial": Variant(kernels_by_trial, _CUDA, _NEEDS_CUDNN),
    "kernels by trial, channels_last_3d": Variant(
        channels_last_kernels_by_trial, _CUDA, _NEEDS_CUDNN
    ),
    "kernels by trial, also those that round differently each time": Variant(
        any_kernels_by_trial, _CUDA, _NEEDS_CUDNN
    ),
    "compile": Variant(compiled),
    "compile, weights frozen": Variant(compiled_frozen),
    "compile, channels first": Variant(
        compiled_plain, _CPU, "what is compiled is laid out so on this device"
    ),
    "compile, channels_last_3d": Variant(
        compiled_channels_last, _CUDA, "what is compiled is laid out so on this device"
    ),
    "compile, reduce-overhead": Variant(
        compiled_with_graphs, _CUDA, f"without CUDA graphs it is what `compile` is; {_NEEDS_CUDA}"
    ),
    "CUDA graph": Variant(graph, _CUDA, _NEEDS_CUDA),
}
"""By the name they have in the figures; eager first, as the others are held against it."""


if __name__ == "__main__":
    main()
