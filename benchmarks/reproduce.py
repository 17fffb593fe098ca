"""The paper's experiments on data of your own: trainings, scores, tables, plots.

    python benchmarks/reproduce.py pet-sts --config configs/pet-sts-cpu.yaml --out reproduced

Every training and every evaluation is a `voxclick` command of its own, printed before it runs. What
is finished is passed over: run it again after an interruption. docs/reproduce.md says
what is compared with what.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BASE = "disk-2"
"""The training that everything but its guidance and its clicks is varied on."""

TRAININGS: dict[str, list[str]] = {
    "disk-2": ["guidance={kind: disk, sigma: 2}"],
    "no-clicks": ["guidance=null", "training.simulation=null"],
    "disk-1": ["guidance={kind: disk, sigma: 1}"],
    "disk-3": ["guidance={kind: disk, sigma: 3}"],
    "gaussian-1": ["guidance={kind: gaussian, sigma: 1}"],
    "gaussian-2": ["guidance={kind: gaussian, sigma: 2}"],
    "gaussian-3": ["guidance={kind: gaussian, sigma: 3}"],
    "trained-corrective": ["training.simulation.strategy={name: corrective}"],
    "trained-non-corrective": ["training.simulation.strategy={name: non-corrective}"],
}
"""What each training changes in the recipe."""


@dataclass(frozen=True)
class Row:
    """One curve: a training, and how it is evaluated.

    Attributes:
        title: in tables and plots.
        training: a name of `TRAININGS`.
        options: of `voxclick evaluate`.
    """

    title: str
    training: str = BASE
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        words = [self.training, *self.options]
        return "_".join("".join(c if c.isalnum() else "-" for c in word) for word in words)


def experiments(crop: str) -> dict[str, list[Row]]:
    """The comparisons, each a table and a plot."""
    one_pass = ("--set", "inference.kind=one-pass")
    return {
        "clicks": [
            Row("trained and used without clicks", "no-clicks"),
            Row("trained with clicks"),
        ],
        "windows": [
            Row("sliding windows"),
            Row("one pass over the whole volume", options=one_pass),
            Row(
                f"one pass over a centre crop of {crop}",
                options=(*one_pass, "--set", f"inference.centre_crop={crop}"),
            ),
        ],
        "guidance": [
            Row(f"{kind}s, sigma {sigma}", f"{kind}-{sigma}")
            for kind in ("disk", "gaussian")
            for sigma in (1, 2, 3)
        ],
        "users": [
            *(
                Row(name, options=("--protocol", name))
                for name in ("largest-error", "corrective", "non-corrective", "deepgrow")
            ),
            Row(
                "patch-corrective, patches of 24",
                options=("--protocol", "patch-corrective", "--patch-size", "24"),
            ),
        ],
        "trained-with": [
            Row(f"trained with {name}", training, ("--protocol", "corrective"))
            for name, training in (
                ("largest-error", BASE),
                ("corrective", "trained-corrective"),
                ("non-corrective", "trained-non-corrective"),
            )
        ],
    }


def main() -> None:
    arguments = _parse()
    out: Path = arguments.out
    chosen = experiments(arguments.centre_crop)
    if arguments.only:
        chosen = {name: chosen[name] for name in arguments.only}
    for name in dict.fromkeys(row.training for rows in chosen.values() for row in rows):
        _train(name, arguments)
    for name, rows in chosen.items():
        curves = {row.title: _evaluate(row, arguments) for row in rows}
        (out / f"{name}.md").write_text(_table(curves), encoding="utf-8")
        _plot(curves, out / f"{name}.png")
        print(f"{name}\n\n{_table(curves)}")
    (out / "curves.json").write_text(json.dumps(_all_curves(chosen, out), indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a data set with test cases")
    parser.add_argument("--config", type=Path, help="the recipe that is varied")
    parser.add_argument("--model", type=Path, help="evaluate this one in place of a training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(experiments("")), help="comparisons")
    parser.add_argument("--centre-crop", default="[48,48,48]", help="of the one pass over a crop")
    parser.add_argument("--set", action="append", default=[], help="further changes to the recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="of the click sequences")
    arguments = parser.parse_args()
    if (arguments.config is None) == (arguments.model is None):
        parser.error("say --config to train, or --model to evaluate one that is there")
    return arguments


def _train(name: str, arguments: argparse.Namespace) -> None:
    run = arguments.out / "runs" / name
    done = run / "done"
    if arguments.model is not None or done.exists():
        return
    command = ["train", str(arguments.data), "--out", str(run), "--device", arguments.device]
    if (run / "last.ckpt").exists():
        _run(*command, "--resume")
    else:
        changes = [*arguments.set, *TRAININGS[name]]
        options = [word for change in changes for word in ("--set", change)]
        _run(*command, "--config", str(arguments.config), *options)
    done.touch()


def _evaluate(row: Row, arguments: argparse.Namespace) -> pd.DataFrame:
    """Mean, lowest and spread of Dice by step."""
    folder = arguments.out / "scores" / row.folder
    model = arguments.model or arguments.out / "runs" / row.training / "model.safetensors"
    _run(  # which passes over what is there, and refuses what is of another model
        *("evaluate", str(arguments.data), "--model", str(model), "--out", str(folder)),
        *("--no-baselines", "--device", arguments.device, *row.options),
        *("--repeats", str(arguments.repeats)),
    )
    scores = pd.read_csv(folder / "scores.csv")
    scores = scores[~scores["empty_label"].astype(bool)]
    by_step = scores.groupby("step")["dice"]
    return pd.DataFrame({"mean": by_step.mean(), "lowest": by_step.min(), "std": by_step.std()})


def _run(*words: str) -> None:
    command = [sys.executable, "-m", "voxclick", *words]
    print("$ voxclick", shlex.join(words), flush=True)
    subprocess.run(command, check=True)


def _table(curves: dict[str, pd.DataFrame]) -> str:
    steps = max((curve.index for curve in curves.values()), key=len)
    lines = [
        "| mean Dice after so many steps | " + " | ".join(map(str, steps)) + " | worst at last |",
        "|---" * (len(steps) + 2) + "|",
    ]
    for title, curve in curves.items():
        means = (f"{curve['mean'].get(step, np.nan):.3f}" for step in steps)
        lines.append(f"| {title} | {' | '.join(means)} | {curve['lowest'].iloc[-1]:.3f} |")
    return "\n".join(lines) + "\n"


def _plot(curves: dict[str, pd.DataFrame], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (title, curve), (marker, dash) in zip(curves.items(), _styles(), strict=False):
        axes.plot(curve.index, curve["mean"], marker=marker, linestyle=dash, label=title)
    axes.set_xlabel("steps of clicks")
    axes.set_ylabel("mean Dice")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _styles() -> Iterator[tuple[str, str]]:
    """Told apart without colour, too."""
    for dash in ("-", "--", ":"):
        for marker in ("o", "s", "^"):
            yield marker, dash


def _all_curves(chosen: dict[str, list[Row]], out: Path) -> dict[str, dict[str, list[float]]]:
    curves: dict[str, dict[str, list[float]]] = {}
    for name, rows in chosen.items():
        curves[name] = {}
        for row in rows:
            summary = json.loads((out / "scores" / row.folder / "summary.json").read_text())
            curves[name][row.title] = [round(value, 4) for value in summary["dice"]]
    return curves


if __name__ == "__main__":
    main()
