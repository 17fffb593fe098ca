"""`voxclick train`: a data set becomes a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxclick.cli.console import plain_console
from voxclick.cli.options import DeviceOption
from voxclick.config import RunConfig, load_config, save_config
from voxclick.datasets import (
    Case,
    Dataset,
    check_cases,
    first_by_name,
    k_folds,
    read_dataset,
    train_validation_split,
)
from voxclick.errors import UsageError
from voxclick.training.loop import Trainer
from voxclick.training.run_folder import RunFolder


def train(
    data: Annotated[Path, typer.Argument(help="an nnU-Net folder, dataset.json or list file")],
    out: Annotated[Path, typer.Option("--out", help="folder of the run")],
    config: Annotated[Path | None, typer.Option("--config", help="settings in YAML")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, e.g. training.epochs=50; may be repeated"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="only so many training cases")
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
    OUT/tensorboard/.
    """
    folder = RunFolder(out)
    if resume:
        if config is not None or overrides or limit is not None or seed is not None:
            raise UsageError(
                "--resume goes on with the run's own config.yaml; leave --config, --set, --limit "
                "and --seed away, or start a new run in another folder"
            )
        if not folder.config.exists():
            raise UsageError(
                f"--resume: there is no run in {out}; leave --resume away to start one"
            )
        run = load_config(folder.config)
    else:
        folder.refuse_to_overwrite()
        options = {"data.limit": limit, "seed": seed}
        given = [f"{key}={value}" for key, value in options.items() if value is not None]
        run = load_config(config, [*(overrides or []), *given])

    dataset = read_dataset(data, run.data.labels)
    settings = run.model_settings(dataset)
    training, validation = split(dataset, run)
    check_cases((*training, *validation), settings.labels, settings.channels)
    trainer = Trainer(
        run.training,
        settings,
        folder,
        seed=run.seed,
        cache=run.data.cache,
        device=device,
        devices=devices,
        nodes=nodes,
    )
    if trainer.is_first_process:
        out.mkdir(parents=True, exist_ok=True)
        save_config(run, folder.config)
    result = trainer.fit(training, validation, resume=resume)
    if trainer.is_first_process:
        best = "" if result.best_dice is None else f", mean Dice {result.best_dice:.4f}"
        plain_console().print(
            f"{len(training)} cases, {run.training.epochs} epochs{best} -> {folder.model}"
        )


def split(dataset: Dataset, run: RunConfig) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Training and validation cases of a run."""
    cases = tuple(case for case in dataset.train if case.label is not None)
    if run.data.limit is not None:
        cases = first_by_name(cases, run.data.limit)
    if run.data.folds is not None:
        return k_folds(cases, run.data.folds, run.seed)[run.data.fold]
    return train_validation_split(cases, run.data.validation_fraction, run.seed)
