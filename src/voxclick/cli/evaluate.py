"""`voxclick evaluate`: a model, a data set with labels, a simulated user."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    BackendName,
    BackendOption,
    DeviceOption,
    InferenceOverrides,
    SeedOption,
)
from voxclick.cli.progress import case_progress
from voxclick.config import override_inference
from voxclick.datasets import DEFAULT_LABELS, Case, check_cases, read_dataset
from voxclick.errors import DatasetError, UsageError
from voxclick.evaluation.plots import plot_curve
from voxclick.evaluation.results import (
    StepScore,
    scores_table,
    summarise,
    write_summary,
    write_table,
)
from voxclick.evaluation.runner import evaluate_case
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.io import write_label_map
from voxclick.model_files import ModelSettings, load_model


class Split(str, Enum):
    """Which cases of the data set."""

    test = "test"
    train = "train"
    all = "all"


class ClickWeighting(str, Enum):
    """`voxclick.simulation.Weighting`, for the command line."""

    uniform = "uniform"
    border_distance = "border-distance"


def evaluate(
    data: Annotated[Path, typer.Argument(help="an nnU-Net folder, dataset.json or list file")],
    model: Annotated[Path, typer.Option("--model", help="a model.safetensors")],
    out: Annotated[Path, typer.Option("--out", help="folder for scores, summary and curve")],
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="how the simulated user clicks")
    ] = Protocol.largest_error,
    steps: Annotated[int, typer.Option("--steps", min=0, help="rounds of clicks")] = 10,
    weighting: Annotated[
        ClickWeighting,
        typer.Option("--weighting", help="of the voxels that `corrective` draws from"),
    ] = ClickWeighting.uniform,
    split: Annotated[Split, typer.Option("--split", help="which cases")] = Split.test,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only so many cases")] = None,
    save_masks: Annotated[
        bool, typer.Option("--save-masks", help="write the last mask of every case")
    ] = False,
    overrides: InferenceOverrides = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    backend: BackendOption = BackendName.torch,
) -> None:
    """Measure Dice per click of MODEL on DATA with a simulated user."""
    if weighting is not ClickWeighting.uniform and protocol is not Protocol.corrective:
        raise UsageError(f"--weighting {weighting.value} belongs to --protocol corrective")
    settings = EvaluationSettings(
        protocol=protocol, steps=steps, weighting=weighting.value, seed=seed
    )
    loaded = load_model(model, device, backend.value)
    inference = override_inference(loaded.settings, overrides)
    cases = choose_cases(data, split, loaded.settings)[:limit]
    check_cases(cases, loaded.settings.labels, loaded.settings.channels)
    of_run = {
        "protocol": protocol.value,
        "model": str(model),
        "data": str(data),
        "backend": backend.value,
        "inference": inference.model_dump(mode="json"),
    }
    _refuse_another_evaluation(out / "summary.json", of_run)
    out.mkdir(parents=True, exist_ok=True)

    scores: list[StepScore] = []
    with case_progress("evaluating", len(cases) * (steps + 1)) as on_step:
        for case in cases:
            evaluated = evaluate_case(case, loaded, settings, inference, on_step)
            scores += evaluated.scores
            # after every case, so that an interrupted run leaves what it knows
            write_table(scores_table(scores), out / "scores.csv")
            if save_masks:
                masks = out / "masks"
                masks.mkdir(exist_ok=True)
                write_label_map(evaluated.last, masks / f"{case.name}.nii.gz")
    table = scores_table(scores)
    summary = summarise(table, settings) | of_run
    write_summary(summary, out / "summary.json")
    plot_curve(table, out / "curve.png", f"{protocol.value}, cases: {len(cases)}")
    print_summary(summary, plain_console())


def _refuse_another_evaluation(summary: Path, of_run: dict[str, object]) -> None:
    """The same evaluation may run again over its own files; masks of others must not mix in."""
    if not summary.exists():
        return
    earlier = json.loads(summary.read_text(encoding="utf-8"))
    differing = [key for key, value in of_run.items() if earlier.get(key) != value]
    if differing:
        raise UsageError(
            f"--out {summary.parent}: holds an evaluation with another {' and '.join(differing)}; "
            "name another folder, or remove that one"
        )


def choose_cases(data: Path, split: Split, settings: ModelSettings) -> tuple[Case, ...]:
    """The labelled cases of one split.

    Raises:
        DatasetError: there are none, or the data set declares other labels or channels than the
            model's; names in another order are other ones.
    """
    dataset = read_dataset(data)
    refuse_other_names(data, "labels", dataset.labels, settings.labels)
    refuse_other_names(data, "channels", dataset.channels, settings.channels)
    cases = {
        Split.test: dataset.test,
        Split.train: dataset.train,
        Split.all: (*dataset.train, *dataset.test),
    }[split]
    labelled = tuple(case for case in cases if case.label is not None)
    if not labelled:
        raise DatasetError(
            f"{data}: the split {split.value!r} holds no labelled case ({len(cases)} cases in "
            "all); choose another with --split"
        )
    return labelled


def refuse_other_names(
    data: Path, kind: str, declared: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Refuse a data set that declares other labels, or other channels, than the model's.

    Raises:
        DatasetError: with both; names in another order are other ones.
    """
    if declared != expected and _is_declared(declared):
        raise DatasetError(
            f"{data}: its {kind} are {', '.join(declared)}, but the model expects "
            f"{', '.join(expected)}, in this order; correct what the data set says of itself, "
            "or take another model"
        )


def _is_declared(names: tuple[str, ...]) -> bool:
    """Whether a data set says so itself: what it does not say has names of ours."""
    numbered = tuple(f"channel {index}" for index in range(len(names)))
    return len(names) > 1 and names not in (DEFAULT_LABELS, numbered)


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Mean Dice per step as a table, lesion-free cases in one of their own."""
    lesion_free = summary.get("lesion_free", {"cases": 0})
    with_lesions = {**summary, "cases": summary["cases"] - lesion_free["cases"]}
    for part, title in ((with_lesions, "with lesions"), (lesion_free, "lesion-free")):
        if not part["cases"]:
            continue
        table = Table("step", "mean Dice", "spread over cases", title=f"{part['cases']} {title}")
        for step, (mean, spread) in enumerate(zip(part["dice"], part["dice_std"], strict=True)):
            table.add_row(str(step), f"{mean:.4f}", f"± {spread:.4f}" if part["cases"] > 1 else "–")
        console.print(table)
    console.print(
        f"cases: {summary['cases']}; {summary['seconds_per_step']:.2f} s and "
        f"{summary['windows_per_step']} windows a step"
    )
