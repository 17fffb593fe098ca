"""One window through the network: PyTorch against OpenVINO on this CPU, same process.

    python benchmarks/backends.py --network dynunet-light --window 64

Prints and writes the median seconds of each, how long the first window waits, and how far the
logits are from PyTorch's in float32. The network has random weights.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path

import torch
from inference import report, seconds_in_turn, seconds_of, spread
from torch import Tensor, nn

from voxclick.allocator import reuse_freed_memory
from voxclick.hardware import device_name
from voxclick.networks import NetworkSettings, OpenVinoNetwork, build_network, lay_out_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="dynunet-light")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    reuse_freed_memory()  # as the command line does
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    network = build_network(NetworkSettings(name=options.network), 3, 2).eval()
    windows = torch.rand((1, 3, *(options.window,) * 3))
    backends = {
        "torch": lay_out_for(copy.deepcopy(network), cpu),
        "openvino": OpenVinoNetwork(network),
    }
    ways = {
        f"{name} {dtype}".replace("torch.", ""): partial(run, backend, windows, dtype)
        for name, backend in backends.items()
        for dtype in (torch.float32, torch.bfloat16)
    }
    waits = {name: seconds_of(way, cpu) for name, way in ways.items()}
    seconds = seconds_in_turn(ways, options.repeats, cpu)
    exact = ways["torch float32"]()
    figures = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network": options.network,
        "window": options.window,
        **{
            name: {
                "first_window_seconds": round(waits[name], 2),
                "seconds": spread(seconds[name]),
                "largest_difference": float((way() - exact).abs().max()),
                "labels_changed": float((way().argmax(1) != exact.argmax(1)).float().mean()),
            }
            for name, way in ways.items()
        },
    }
    report(figures, options.out)


@torch.inference_mode()
def run(network: nn.Module, windows: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return network(windows).float()


def cpu_name() -> str:
    """With those of its instructions that the backends may use."""
    capabilities = torch.cpu.get_capabilities()
    wanted = ("amx_bf16", "avx2", "avx512_bf16", "avx512_f", "avx512_vnni", "avx_vnni")
    flags = [name for name in wanted if capabilities.get(name)]
    return f"{device_name(torch.device('cpu'))} ({', '.join(flags)})"


if __name__ == "__main__":
    main()
