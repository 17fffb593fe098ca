"""One volume through the network: ours against MONAI's sliding-window inferer, same process.

    python benchmarks/inference.py --device cpu --network dynunet-light --window 64

In float32 and in the device's own precision; on a CPU by OpenVINO too, where it is installed.
Prints and writes the seconds of each, and how many times as long MONAI takes in the same precision
and in float32. The network has random weights.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from monai.inferers import sliding_window_inference

from voxclick.allocator import reuse_freed_memory
from voxclick.bench.click import untrained_model
from voxclick.geometry.box import Box
from voxclick.hardware import device_name
from voxclick.model_files import Model
from voxclick.networks import OpenVinoNetwork, lay_out_for
from voxclick.sliding_window import SlidingWindows, TensorSource
from voxclick.sliding_window.precision import resolve_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="dynunet-light")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--window-batch", type=int, default=1)
    parser.add_argument("--volume", type=int, nargs=3, default=(128, 128, 192))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    reuse_freed_memory()  # as the command line does
    device = torch.device(options.device)
    model = untrained_model(options.network, options.window, device)
    volume = torch.rand((model.settings.in_channels, *options.volume))
    ways: dict[str, Callable[[], torch.Tensor]] = {}
    for precision in dict.fromkeys([torch.float32, resolve_precision("auto", device)]):
        name = str(precision).removeprefix("torch.")
        sliding = SlidingWindows(
            window=(options.window,) * 3, window_batch=options.window_batch, precision=name
        )
        ways[f"monai {name}"] = partial(run_monai, model, volume, sliding)
        for ours in as_loaded(model):
            ways[f"voxclick {ours.backend} {name}"] = partial(run_ours, ours, volume, sliding)
    seconds = seconds_in_turn(ways, options.repeats, device)
    monai_float32 = statistics.median(seconds["monai float32"])
    figures: dict[str, object] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": options.network,
        "window": options.window,
        "volume": list(options.volume),
    }
    for name, way in ways.items():
        median = statistics.median(seconds[name])
        monai = statistics.median(seconds[f"monai {name.split()[-1]}"])
        figures[name] = {
            "seconds": spread(seconds[name]),
            "monai_takes_times": round(monai / median, 3),
            "monai_float32_takes_times": round(monai_float32 / median, 3),
            "peak_gpu_gib": peak_gpu_gib(way, device),
        }
    report(figures, options.out)


def as_loaded(model: Model) -> list[Model]:
    """The model as a file of it would be loaded: one for each backend that the device has."""
    network = lay_out_for(copy.deepcopy(model.network), model.device)
    loaded = [Model(model.settings, network, model.device)]
    if model.device.type == "cpu" and importlib.util.find_spec("openvino"):
        loaded.append(
            Model(model.settings, OpenVinoNetwork(copy.deepcopy(model.network)), model.device)
        )
    return loaded


@torch.inference_mode()
def run_monai(model: Model, volume: torch.Tensor, sliding: SlidingWindows) -> torch.Tensor:
    device = model.device
    dtype = resolve_precision(sliding.precision, device)
    half = dtype != torch.float32
    with (
        torch.autocast(device.type, dtype=dtype, enabled=half),
        # as in a session: float32 is not TensorFloat-32
        torch.backends.cudnn.flags(enabled=True, allow_tf32=half),
    ):
        return sliding_window_inference(
            volume[None].to(device),
            sliding.window,
            sliding.window_batch,
            model.network,
            sliding.overlap,
            sliding.blending,
        )


def run_ours(model: Model, volume: torch.Tensor, sliding: SlidingWindows) -> torch.Tensor:
    """Opened anew each time, so that nothing is remembered."""
    _, i, j, k = volume.shape
    inference = model.inference((i, j, k), sliding)
    return inference.margins(TensorSource(volume), Box.of_shape((i, j, k)))


def peak_gpu_gib(way: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    way()
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def seconds_in_turn(
    ways: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each, run A B C A B C … after one warm-up each, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, device))
    return {name: taken[1:] for name, taken in seconds.items()}


def seconds_of(way: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "min": round(min(seconds), 4),
        "median": round(statistics.median(seconds), 4),
        "max": round(max(seconds), 4),
    }


def report(figures: dict[str, object], out: Path | None) -> None:
    text = json.dumps(figures, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
