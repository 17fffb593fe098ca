"""Crops learnt per second: the original's click loop against the pool, same process.

    python benchmarks/training_step.py --device cpu --network dynunet-light --crop 64 --batch 2

Both learn the same random crops with up to 10 `largest-error` clicks; the fresh loop makes a
forward pass per click and learns once per crop, the pool learns after every click.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch
from inference import report, spread
from torch import Tensor

from voxclick.guidance import DiskGuidance
from voxclick.networks import NetworkSettings, build_network, lay_out_for
from voxclick.simulation import MaxStepsOrProbability, SimulationSettings
from voxclick.sliding_window.precision import resolve_precision
from voxclick.training.clicking import BatchSource, FreshBatches, PooledBatches, SampleClicker
from voxclick.training.losses import SegmentationLoss
from voxclick.training.samples import Sample
from voxclick.training.settings import LossSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="dynunet-light")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    device = torch.device(options.device)
    torch.manual_seed(0)
    network = build_network(NetworkSettings(name=options.network), 3, 2)
    network = lay_out_for(network, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss = SegmentationLoss(LossSettings())
    dtype = resolve_precision("auto", device)

    def logits(network_input: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return network(network_input)

    @torch.no_grad()
    def predict(network_input: Tensor) -> Tensor:
        return logits(network_input).argmax(dim=1).to(torch.uint8)

    def learn(batches: BatchSource) -> float:
        start = time.perf_counter()
        for _ in range(options.steps):
            batch = batches.next_batch()
            output = logits(torch.stack([sample.network_input for sample in batch]))
            optimizer.zero_grad()
            loss(output, torch.stack([sample.label for sample in batch])).backward()
            optimizer.step()
            batches.learnt(batch, output.argmax(dim=1).to(torch.uint8))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / options.steps

    samples = clicked_samples(options.crop, device)
    fresh = FreshBatches(samples, options.batch, predict)
    pool = PooledBatches(samples, options.batch, 8 * options.batch, seed=0)
    learn(fresh), learn(pool)
    seconds: dict[str, list[float]] = {"fresh": [], "pool": []}
    for _ in range(options.repeats):
        seconds["fresh"].append(learn(fresh))
        seconds["pool"].append(learn(pool))
    ratio = sum(seconds["pool"]) / sum(seconds["fresh"])
    report(
        {
            "device": str(device),
            "network": options.network,
            "crop": options.crop,
            "batch": options.batch,
            "threads": torch.get_num_threads(),
            "dtype": str(dtype),
            "seconds_per_step": {name: spread(taken) for name, taken in seconds.items()},
            "pool_over_fresh": round(ratio, 3),
        },
        options.out,
    )


def clicked_samples(crop: int, device: torch.device):
    """Endless random crops with a box of tissue, clicked with probability 0.8 again and again."""
    simulation = SimulationSettings(stopping=MaxStepsOrProbability(probability=0.8))
    clicker = SampleClicker(DiskGuidance(), simulation, 2, device)
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand((1, crop, crop, crop), generator=generator)
        label = torch.zeros((crop, crop, crop), dtype=torch.uint8)
        label[crop // 4 : crop // 2, crop // 4 : crop // 2, crop // 4 : crop // 2] = 1
        yield clicker(Sample(image + label, label, (1.0, 1.0, 1.0), seed, str(seed)))


if __name__ == "__main__":
    main()
