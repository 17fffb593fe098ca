"""Scoring a whole-body case: all scores of 11 steps, beside MONAI's surface Dice of one step.

    python benchmarks/metrics.py

The label has lesions of 0.2 to 150 ml from head to feet, so that the box around all of them is
nearly the whole volume; a prediction has each of them moved and resized, one missed and one more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from inference import report, spread
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray

from voxclick.evaluation.metrics import LabelScorer
from voxclick.types import Index3, Vector3

TOLERANCE_MM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", type=int, nargs=3, default=(400, 400, 326))
    parser.add_argument("--spacing-mm", type=float, nargs=3, default=(2.04, 2.04, 3.0))
    parser.add_argument("--lesions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--order", choices=["C", "F"], default="F", help="F: as NIfTI files are")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    volume: Index3 = tuple(options.volume)
    spacing_mm: Vector3 = tuple(options.spacing_mm)
    generator = np.random.default_rng(0)
    centres, radii_mm = draw_lesions(options.lesions, volume, spacing_mm, generator)
    label = paint_balls(centres, radii_mm, volume, spacing_mm, options.order)
    predictions = [
        paint_balls(
            *perturbed(centres, radii_mm, volume, generator), volume, spacing_mm, options.order
        )
        for _ in range(options.steps)
    ]
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        scorer = LabelScorer(label, spacing_mm)
        scores = [scorer.score(prediction) for prediction in predictions]
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    monai = monai_surface_dice(predictions[0], label, spacing_mm)
    monai_seconds = time.perf_counter() - start
    report(
        {
            "numpy": np.__version__,
            "torch_threads": torch.get_num_threads(),
            "volume": list(volume),
            "order": options.order,
            "lesions": scorer.lesion_count,
            "label_voxels": int(label.sum()),
            "box_share": round(box_share(label), 3),
            "steps": options.steps,
            "seconds_for_all_steps": spread(seconds),
            "monai_nsd_seconds_for_one_step": round(monai_seconds, 3),
            "nsd": [round(scores[0].nsd, 5), round(monai, 5)],
            "dice": round(scores[0].dice, 5),
            "dmm": round(scores[0].dmm, 5),
        },
        options.out,
    )


def draw_lesions(
    count: int, volume: Index3, spacing_mm: Vector3, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres in voxels and radii of balls of 0.2 to 150 ml, inside the volume."""
    radii_mm = (np.geomspace(200, 150_000, count) * 3 / 4 / np.pi) ** (1 / 3)
    margins = radii_mm[:, None] * 1.3 / np.array(spacing_mm) + 4
    centres = generator.uniform(margins, np.array(volume) - margins)
    # the two smallest in opposite corners
    centres[0], centres[1] = margins[0], np.array(volume) - margins[1]
    return centres, radii_mm


def perturbed(
    centres: NDArray[np.float64],
    radii_mm: NDArray[np.float64],
    volume: Index3,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lesions as a network might find them: one is missed, one is elsewhere."""
    moved = centres + generator.normal(0, 0.7, centres.shape)
    resized = radii_mm * generator.uniform(0.8, 1.2, radii_mm.shape)
    missed, wrong = generator.choice(np.arange(2, len(radii_mm)), 2, replace=False)
    moved[wrong] = np.array(volume) / 2
    return np.delete(moved, missed, axis=0), np.delete(resized, missed)


def paint_balls(
    centres: NDArray[np.float64],
    radii_mm: NDArray[np.float64],
    volume: Index3,
    spacing_mm: Vector3,
    order: str,
) -> NDArray[np.bool_]:
    mask = np.zeros(volume, dtype=bool, order=order)
    for centre, radius_mm in zip(centres, radii_mm, strict=True):
        reach = radius_mm / np.array(spacing_mm) + 1
        start = np.maximum(np.floor(centre - reach).astype(int), 0)
        stop = np.minimum(np.ceil(centre + reach).astype(int) + 1, volume)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        axes = np.ogrid[box]
        squared_mm = sum(
            ((axis - at) * step) ** 2
            for axis, at, step in zip(axes, centre, spacing_mm, strict=True)
        )
        mask[box] |= squared_mm <= radius_mm**2
    return mask


def box_share(mask: NDArray[np.bool_]) -> float:
    """How much of the volume the mask's bounding box takes."""
    share = 1.0
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(n for n in range(3) if n != axis)))
        share *= (occupied[-1] - occupied[0] + 1) / mask.shape[axis]
    return share


def monai_surface_dice(
    prediction: NDArray[np.bool_], label: NDArray[np.bool_], spacing_mm: Vector3
) -> float:
    masks = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (prediction, label)]
    return compute_surface_dice(
        *masks,
        class_thresholds=[TOLERANCE_MM],
        include_background=True,
        spacing=spacing_mm,
        use_subvoxels=True,
    ).item()


if __name__ == "__main__":
    main()
