"""Whole runs of the challenges' protocols, computed again from the masks that they left.

What the user said in every step and what the challenge makes of the scores follow from the
definitions alone, plainly written down in `challenge_definitions`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

from challenge_definitions import (
    autopet4_clicks,
    autopet5_stroke,
    drawn_as_published,
    largest_error,
)
from voxclick import read_label_map, read_volume
from voxclick.cli.main import main
from voxclick.simulation.challenges.autopet5 import Strategy


class Run:
    """What a run has left of its cases."""

    def __init__(self, folder: Path, data: Path, protocol: str, model: Path) -> None:
        arguments = ["--protocol", protocol, "--split", "all", "--save-masks", "every"]
        arguments += ["--model", str(model), "--no-baselines", "--out", str(folder)]
        assert main(["evaluate", str(data), *arguments]) == 0
        self._folder, self._data = folder, data
        self.names = pd.read_csv(folder / "scores.csv").case.unique().tolist()
        self.challenge = json.loads((folder / "summary.json").read_text())["challenge"]

    def _file(self, kind: str, name: str) -> Path:
        (path,) = self._data.glob(f"{kind}T[rs]/{name}*.nii.gz")
        return path

    def label(self, name: str):
        return read_label_map(self._file("labels", name))

    def pet(self, name: str) -> np.ndarray:
        return read_volume(self._file("images", name)).voxels

    def masks(self, name: str) -> list[np.ndarray]:
        paths = sorted((self._folder / "masks" / name).iterdir())
        return [read_label_map(path).voxels > 0 for path in paths]

    def prompts(self, name: str) -> list[list[dict]]:
        return json.loads((self._folder / "cases" / f"{name}.json").read_text())["prompts"][0]


@pytest.fixture
def run(request, tmp_path, trained_run, phantom_folder) -> Run:
    return Run(tmp_path, phantom_folder, request.param, trained_run / "model.safetensors")


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def surface_dice(mask: np.ndarray, truth: np.ndarray, spacing_mm) -> float:
    distances = compute_surface_distances(truth, mask, spacing_mm)
    return compute_surface_dice_at_tolerance(distances, 2)


def area(values: list[float]) -> float:
    return sum((a + b) / 2 for a, b in itertools.pairwise(values))


def untouched_ml(parts: np.ndarray, by: np.ndarray, spacing_mm) -> float:
    numbered, count = ndimage.label(parts, ndimage.generate_binary_structure(3, 2))
    alone = [numbered == n for n in range(1, count + 1) if not (by & (numbered == n)).any()]
    return sum(part.sum() for part in alone) * np.prod(spacing_mm) / 1000


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def detection(mask: np.ndarray, truth: np.ndarray) -> float:
    eighteen = ndimage.generate_binary_structure(3, 2)
    (found, predicted), (lesions, labelled) = (ndimage.label(m, eighteen) for m in (mask, truth))
    matches = [
        (a, b)
        for a in range(1, labelled + 1)
        for b in np.unique(found[lesions == a])
        if b
        and ((lesions == a) & (found == b)).sum() / ((lesions == a) | (found == b)).sum() >= 0.1
    ]
    hits = len({a for a, _ in matches})
    excess = predicted - len({b for _, b in matches})
    return 2 * hits / (2 * hits + excess + labelled - hits)


@pytest.mark.parametrize("run", ["cvpr2025"], indirect=True)
def test_cvpr2025(run):
    sums = {"dsc_auc": [], "nsd_auc": [], "dsc_final": [], "nsd_final": []}
    for name in run.names:
        label = run.label(name)
        truth, masks = label.voxels > 0, run.masks(name)
        (box,), *said = run.prompts(name)
        slices = np.flatnonzero(truth.any(axis=(0, 1)))
        assert (box["voxels"][0][2], box["voxels"][1][2]) == (slices[0], slices[-1])
        middle = np.argwhere(truth[:, :, slices[len(slices) // 2]])
        assert [v[:2] for v in box["voxels"]] == [middle.min(0).tolist(), middle.max(0).tolist()]
        for before, prompts in zip(masks, said, strict=False):
            error = largest_error(truth, before)
            padded = np.pad(error, 1)
            depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1, 1:-1]
            (prompt,) = prompts
            assert tuple(prompt["voxels"][0]) == drawn_as_published(depth)
            is_tumor = truth[tuple(prompt["voxels"][0])]
            assert prompt["label"] == ("tumor" if is_tumor else "background")
        dsc = [dice(mask, truth) for mask in masks]
        nsd = [surface_dice(mask, truth, label.spacing_mm) for mask in masks]
        nsd = [surface if overlap > 0.2 else 0 for overlap, surface in zip(dsc, nsd, strict=True)]
        for values, key in ((dsc, "dsc"), (nsd, "nsd")):
            sums[f"{key}_auc"].append(area(values[1:]))
            sums[f"{key}_final"].append(values[-1])
    assert run.challenge == {
        key: pytest.approx(np.mean(values), abs=1e-4) for key, values in sums.items()
    }


@pytest.mark.parametrize("run", ["autopet4"], indirect=True)
def test_autopet4(run):
    sums: dict[str, list[float]] = {}
    for name in run.names:
        label = run.label(name)
        truth, masks = label.voxels > 0, run.masks(name)
        expected = autopet4_clicks(truth, run.pet(name), 10, 42)
        _, *said = run.prompts(name)
        for step, prompts in enumerate(said):
            assert [tuple(prompt["voxels"][0]) for prompt in prompts] == [
                expected.tumor[step],
                expected.background[step],
            ]
        spacing_mm = label.spacing_mm
        curves = {
            "dsc": [dice(mask, truth) for mask in masks],
            "fpv": [untouched_ml(mask, truth, spacing_mm) for mask in masks],
            "fnv": [untouched_ml(truth, mask, spacing_mm) for mask in masks],
        }
        for key, values in curves.items():
            last = f"{key}_last" if key == "dsc" else f"{key}_last_ml"
            sums.setdefault(f"{key}_auc", []).append(area(values))
            sums.setdefault(last, []).append(values[-1])
    assert run.challenge == {
        key: pytest.approx(np.mean(values), abs=1e-3) for key, values in sums.items()
    }


@pytest.mark.parametrize("run", ["autopet5"], indirect=True)
def test_autopet5(run):
    sums: dict[str, list[float]] = {}
    for number, name in enumerate(run.names):
        truth, masks = run.label(name).voxels > 0, run.masks(name)
        strategy = list(Strategy)[number % 3]
        _, *said = run.prompts(name)
        for before, prompts in zip(masks, said, strict=False):
            missed = autopet5_stroke(truth & ~before, strategy, 42)
            excess = autopet5_stroke(before & ~truth, strategy, 42)
            (prompt,) = prompts
            is_foreground = len(excess) <= len(missed)
            assert prompt["label"] == ("tumor" if is_foreground else "background")
            stroke = missed if is_foreground else excess
            assert tuple(map(tuple, prompt["voxels"])) == stroke
        for key, score in (("dice", dice), ("dmm", detection)):
            values = [score(mask, truth) for mask in masks]
            sums.setdefault(f"{key}_auc", []).append(area(values))
            sums.setdefault(f"{key}_final", []).append(values[-1])
    assert run.challenge == {
        key: pytest.approx(np.mean(values), abs=1e-4) for key, values in sums.items()
    }
