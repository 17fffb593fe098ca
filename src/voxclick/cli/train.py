"""`voxclick train`: a data set becomes a model file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import DeviceOption
from voxclick.config import load_config, save_config
from voxclick.datasets import (
    check_cases,
)
from voxclick.errors import UsageError
from voxclick.runs import (
    PlannedRun,
    new_runs,
    read_run_dataset,
    runs_to_resume,
    split_of_run,
)
from voxclick.training.loop import Trainer
from voxclick.training.run_folder import RunFolder


def train(
    data: Annotated[
        Path, typer.Argument(help="a data set, in any layout of docs/reference/datasets.md")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder of the run")],
    config: Annotated[Path | None, typer.Option("--config", help="settings in YAML")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, e.g. training.epochs=50; may be repeated"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="only so many training cases")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            help="cross-validation: train all of so many folds, into OUT/fold-0, OUT/fold-1, …",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="a model.safetensors to train further; what --config leaves open is as it says",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in --out, exactly")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="in place of the configuration's")
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="processes on this machine, a GPU each")
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="machines")] = 1,
) -> None:
    """Train a click-driven network on DATA.

    Leaves OUT/model.safetensors (the best), OUT/last.ckpt (to resume), OUT/config.yaml and
    OUT/tensorboard/; with --folds, the same of each fold in a folder of its own.
    """
    folder = RunFolder(out)
    if resume:
        if config is not None or overrides or any(x is not None for x in (limit, weights, seed)):
            raise UsageError(
                "--resume goes on with the run's own config.yaml; leave --config, --set, --limit, "
                "--weights and --seed away, or start a new run in another folder"
            )
        runs = runs_to_resume(folder, folds)
    else:
        folder.refuse_to_overwrite()
        # quoted, as YAML would read more than a path in some
        path = None if weights is None else json.dumps(str(weights), ensure_ascii=False)
        options = {"data.limit": limit, "weights": path, "seed": seed}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        runs = new_runs(load_config(config, [*(overrides or []), *given]), folder, folds)

    # a single run is opened though it is finished, for what it says at its end
    left = [run for run in runs if len(runs) == 1 or not run.is_finished]
    speaks = True
    for run in left:
        speaks = _train_run(data, run, device, devices, nodes, another_follows=run is not left[-1])
    if len(runs) > 1 and speaks:
        _print_folds(runs, out)


def _train_run(
    data: Path, run: PlannedRun, device: str, devices: int, nodes: int, *, another_follows: bool
) -> bool:
    """Train one network; returns whether this process is the one that speaks."""
    config, folder = run.config, run.folder
    dataset = read_run_dataset(data, config)
    settings = config.model_settings(dataset)
    training, validation = split_of_run(dataset, config)
    check_cases((*training, *validation), settings.labels, settings.channels)
    trainer = Trainer(
        config.training,
        settings,
        folder,
        seed=config.seed,
        weights=None if run.resume else config.weights,
        cache=config.data.cache,
        device=device,
        devices=devices,
        nodes=nodes,
    )
    if trainer.is_first_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(config, folder.config)
    result = trainer.fit(training, validation, resume=run.resume, another_follows=another_follows)
    if trainer.is_first_process:
        best = "" if result.best_dice is None else f", mean Dice {result.best_dice:.4f}"
        plain_console().print(
            f"{len(training)} cases, {config.training.epochs} epochs{best} -> {folder.model}"
        )
    return trainer.is_first_process


def _print_folds(runs: Sequence[PlannedRun], out: Path) -> None:
    """The mean of the folds' validations: every case is in the one that did not learn it."""
    best = [progress.best_dice for run in runs if (progress := run.folder.progress()) is not None]
    known = [dice for dice in best if dice is not None]
    mean = f", mean Dice {sum(known) / len(known):.4f}" if known else ""
    plain_console().print(f"{len(runs)} folds{mean} -> {out}")
