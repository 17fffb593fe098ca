"""One volume through the network: ours against MONAI's sliding-window inferer, same process.

    python benchmarks/inference.py --device cpu --network dynunet-light --window 64

Prints and writes the median seconds of each and their ratio. The network has random weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.inferers import sliding_window_inference

from voxclick.geometry.box import Box
from voxclick.hardware import device_name
from voxclick.networks import NetworkSettings, build_network, lay_out_for, window_multiple
from voxclick.sliding_window import (
    CacheSettings,
    SlidingWindows,
    TensorSource,
    VolumeInference,
    WindowGrid,
)
from voxclick.sliding_window.network import faster_layout
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

    device = torch.device(options.device)
    torch.manual_seed(0)
    settings = NetworkSettings(name=options.network)
    network = build_network(settings, 3, 2).to(device).eval()
    # as a model file is loaded
    laid_out = lay_out_for(copy.deepcopy(network), device)
    volume = torch.rand((3, *options.volume))
    window = (options.window,) * 3
    shape: tuple[int, int, int] = tuple(options.volume)
    figures: dict[str, object] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": options.network,
        "window": window,
        "volume": list(options.volume),
    }

    for precision in dict.fromkeys(["float32", "auto"]):
        sliding = SlidingWindows(
            window=window, window_batch=options.window_batch, precision=precision
        )
        dtype = resolve_precision(precision, device)
        half = dtype != torch.float32
        layout = torch.contiguous_format
        if device.type == "cuda":
            layout = faster_layout(laid_out, device, dtype, (options.window_batch, 3, *window))

        def monai(dtype: torch.dtype = dtype, half: bool = half) -> torch.Tensor:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=dtype, enabled=half),
                # as in a session: float32 is not TensorFloat-32
                torch.backends.cudnn.flags(enabled=True, allow_tf32=half),
            ):
                return sliding_window_inference(
                    volume[None].to(device), window, options.window_batch, network, 0.25, "gaussian"
                )

        def voxclick(
            sliding: SlidingWindows = sliding, layout: torch.memory_format = layout
        ) -> torch.Tensor:
            # opened anew each time, so that nothing is remembered
            inference = VolumeInference(
                laid_out,
                sliding,
                window_multiple(settings),
                device,
                shape,
                2,
                CacheSettings(),
                layout=layout,
            )
            return inference.margins(TensorSource(volume), Box.of_shape(shape))

        ours, theirs = timed_in_turn(voxclick, monai, options.repeats, device)
        figures[precision] = {
            "dtype": str(dtype),
            "layout": str(layout),
            "windows": len(WindowGrid.cover(shape, window, sliding.overlap).boxes),
            "voxclick_seconds": spread(ours),
            "monai_seconds": spread(theirs),
            "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 3),
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            voxclick()
            figures[precision]["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    report(figures, options.out)


def timed_in_turn(
    first: Callable[[], object], second: Callable[[], object], repeats: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of both, run A B A B … after one warm-up each, so that drift hits both alike."""
    first(), second()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, taken in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return seconds


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
