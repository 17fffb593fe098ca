"""`voxclick evaluate`: a model, a data set with labels, a simulated user."""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    DEFAULT_CACHE,
    BackendName,
    BackendOption,
    CacheDiskGibOption,
    CacheDtype,
    CacheDtypeOption,
    CacheGibOption,
    CacheGpuGibOption,
    CombinationName,
    DeviceOption,
    EnsembleOption,
    InferenceOverrides,
    ModelsOption,
    SeedOption,
    cache_settings,
    choose_model,
    label_names,
)
from voxclick.cli.progress import step_progress
from voxclick.config import problems
from voxclick.errors import EvaluationError, UsageError
from voxclick.evaluation.baselines import NEEDS_SUV, BaselineName
from voxclick.evaluation.evaluation import Evaluation, SavedMasks
from voxclick.evaluation.runner import uptake_channel
from voxclick.evaluation.settings import REPLAYING, EvaluationSettings, Protocol
from voxclick.evaluation.shards import joined_shard
from voxclick.runs import Split, choose_cases, folder_of_run, load_run, refuse_another_split


class ClickWeighting(str, Enum):
    """`voxclick.simulation.Weighting`, for the command line."""

    uniform = "uniform"
    border_distance = "border-distance"


class Stopping(str, Enum):
    """`voxclick.simulation.StoppingCriterion`, for the command line."""

    max_steps = "max-steps"
    max_steps_or_probability = "max-steps-or-probability"
    max_steps_or_dice = "max-steps-or-dice"
    max_steps_probability_dice = "max-steps-probability-dice"
    deepgrow_probability = "deepgrow-probability"
    uniform_steps = "uniform-steps"


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="a data set, in any layout of docs/reference/datasets.md")
    ],
    model: ModelsOption,
    out: Annotated[Path, typer.Option("--out", help="folder for scores, summary and report")],
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="who clicks, and how")
    ] = Protocol.largest_error,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=0, help="rounds of corrections: 10, or the challenge's"),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="times each case is clicked through")
    ] = 1,
    weighting: Annotated[
        ClickWeighting | None,
        typer.Option(
            "--weighting",
            help="of the voxels that `corrective`, `patch-corrective` and `deepgrow` draw from",
        ),
    ] = None,
    click_probability: Annotated[
        float | None,
        typer.Option("--click-probability", min=0, max=1, help="of each step of `deepgrow`"),
    ] = None,
    patch_size: Annotated[
        int | None, typer.Option("--patch-size", min=1, help="of `patch-corrective`, in voxels")
    ] = None,
    stopping: Annotated[
        Stopping | None, typer.Option("--stopping", help="when the simulated user stops early")
    ] = None,
    stop_probability: Annotated[
        float | None,
        typer.Option("--stop-probability", min=0, max=1, help="`probability` of --stopping"),
    ] = None,
    stop_dice_loss: Annotated[
        float | None,
        typer.Option("--stop-dice-loss", min=0, max=1, help="`dice_loss` of --stopping"),
    ] = None,
    clicks: Annotated[
        Path | None,
        typer.Option("--clicks", help="folder of CASE.json, for `recorded` and `autopet4`"),
    ] = None,
    baseline: Annotated[
        list[BaselineName] | None,
        typer.Option(
            "--baseline",
            help="a simple method to show beside the model; may be repeated; all that suit the "
            "image, if none is named",
        ),
    ] = None,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="the model alone, which is faster")
    ] = False,
    split: Annotated[Split, typer.Option("--split", help="which cases")] = Split.test,
    labels_said: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="the data set's, names by value with commas between, instead of what it says",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only so many cases")] = None,
    save_masks: Annotated[
        SavedMasks, typer.Option("--save-masks", help="the last mask of every case, or every one")
    ] = SavedMasks.none,
    ensemble: EnsembleOption = CombinationName.mean,
    overrides: InferenceOverrides = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    backend: BackendOption = BackendName.torch,
    cache_dtype: CacheDtypeOption = CacheDtype.float32,
    cache_gib: CacheGibOption = DEFAULT_CACHE.host_gib,
    cache_gpu_gib: CacheGpuGibOption = DEFAULT_CACHE.gpu_gib,
    cache_disk_gib: CacheDiskGibOption = DEFAULT_CACHE.disk_gib,
) -> None:
    """Measure MODEL on DATA, click by click, with a user who corrects it.

    Started again with the same --out, it goes on with the cases that are missing. Under torchrun,
    each process takes its share of the cases.
    """
    said = {
        "protocol": protocol,
        "steps": steps,
        "repeats": repeats,
        "weighting": None if weighting is None else weighting.value,
        "click_probability": click_probability,
        "patch_size": patch_size,
        "stopping": _stopping(stopping, steps, stop_probability, stop_dice_loss),
        "seed": seed,
    }
    settings = _settings({name: value for name, value in said.items() if value is not None})
    _check_clicks(clicks, protocol)
    labels = label_names(labels_said)
    started = datetime.now(timezone.utc)
    with joined_shard() as shard:
        chosen = choose_model(model, ensemble, shard.device(device), backend, overrides)
        held_out_by = load_run(model) if split is Split.validation else None
        cases = choose_cases(data, split, chosen.model.settings, held_out_by, labels)
        if held_out_by is not None:
            refuse_another_split(data, cases, folder_of_run(model))
        cases = cases[:limit]
        total = len(shard.share(cases)) * settings.predictions
        with step_progress("evaluating", total, hidden=not shard.is_first) as on_steps:
            evaluation = Evaluation(
                out=out,
                model=chosen.model,
                inference=chosen.inference,
                settings=settings,
                cache=cache_settings(cache_dtype, cache_gib, cache_gpu_gib, cache_disk_gib),
                baselines=_baselines(baseline, no_baselines, chosen.model.settings.channels),
                clicks=clicks,
                masks=save_masks,
                described={**chosen.described, "data": str(data.resolve())},
                on_steps=on_steps,
            )
            evaluation.open()
            evaluation.run(cases, shard)
        shard.wait_for_all()
        if not shard.is_first:
            return
        summary = evaluation.finish(cases, started)
    print_summary(summary, plain_console(), out)
    if summary["failed"]:
        raise EvaluationError(_failures(summary["failed"], len(cases)))


def _settings(said: dict[str, Any]) -> EvaluationSettings:
    try:
        return EvaluationSettings.model_validate(said)
    except ValidationError as error:
        raise UsageError(problems(error, said)) from error


def _stopping(
    name: Stopping | None, steps: int | None, probability: float | None, dice_loss: float | None
) -> dict[str, Any] | None:
    """Settings of a stopping criterion; whether they belong to it, the criterion says."""
    said = {"max_steps": steps, "probability": probability, "dice_loss": dice_loss}
    given = {key: value for key, value in said.items() if value is not None}
    if name is None:
        if probability is not None or dice_loss is not None:
            raise UsageError("--stop-probability and --stop-dice-loss belong to --stopping")
        return None
    return {"name": name.value, **given}


def _check_clicks(clicks: Path | None, protocol: Protocol) -> None:
    if clicks is not None and protocol not in REPLAYING:
        names = " and ".join(sorted(p.value for p in REPLAYING))
        raise UsageError(f"--clicks belongs to the protocols {names}, not to {protocol.value}")
    if clicks is None and protocol is Protocol.recorded:
        raise UsageError("--protocol recorded needs --clicks FOLDER with a CASE.json of each case")
    if clicks is not None and not clicks.is_dir():
        raise UsageError(f"--clicks {clicks}: there is no such folder")


def _baselines(
    named: list[BaselineName] | None, none: bool, channels: tuple[str, ...]
) -> tuple[BaselineName, ...]:
    """Those that are named; else those that suit the image, which is uptake only in PET."""
    if none and named:
        raise UsageError("--no-baselines and --baseline say opposite things; leave one away")
    if none:
        return ()
    if named:
        return tuple(dict.fromkeys(named))
    is_suv = uptake_channel(channels) is not None
    return tuple(name for name in BaselineName if is_suv or name not in NEEDS_SUV)


def print_summary(summary: dict[str, Any], console: Console, out: Path) -> None:
    """Scores per step as a table, lesion-free cases in one of their own."""
    lesion_free = summary.get("lesion_free", {"cases": 0})
    with_lesions = summary["cases"] - lesion_free["cases"]
    if with_lesions:
        columns = ("dice", "nsd", "fpv_ml", "fnv_ml")
        titles = ("mean Dice", "spread", "surface Dice", "FPV ml", "FNV ml")
        table = Table("step", *titles, title=f"{with_lesions} with lesions")
        rows = zip(summary["dice_std"], *(summary[name] for name in columns), strict=True)
        for step, (spread, dice, nsd, fpv, fnv) in enumerate(rows):
            shown = f"± {spread:.4f}" if with_lesions > 1 else "–"
            volumes = (f"{fpv:.2f}", f"{fnv:.2f}")
            table.add_row(str(step), f"{dice:.4f}", shown, f"{nsd:.4f}", *volumes)
        console.print(table)
    if lesion_free["cases"]:
        table = Table("step", "mean Dice", "FPV ml", title=f"{lesion_free['cases']} lesion-free")
        rows = zip(lesion_free["dice"], lesion_free["fpv_ml"], strict=True)
        for step, (dice, fpv) in enumerate(rows):
            table.add_row(str(step), f"{dice:.4f}", f"{fpv:.2f}")
        console.print(table)
    if summary["cases"]:
        console.print(
            f"cases: {summary['cases']}; {summary['seconds_per_step']:.2f} s and "
            f"{summary['windows_per_step']} windows a step -> {out / 'report.html'}"
        )


def _failures(failed: dict[str, str], cases: int) -> str:
    listed = "\n  ".join(f"{case}: {error}" for case, error in failed.items())
    return (
        f"{len(failed)} of {cases} cases have no scores; the same command tries them again:\n  "
        f"{listed}"
    )
