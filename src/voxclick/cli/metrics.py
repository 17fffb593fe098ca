"""`voxclick metrics`: masks that were made elsewhere, and the clicks of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voxclick.cli.console import plain_console
from voxclick.cli.options import (
    BackendName,
    BackendOption,
    ChosenModel,
    CombinationName,
    DeviceOption,
    InferenceOverrides,
    SeedOption,
    choose_model,
    label_names,
)
from voxclick.cli.progress import case_progress, step_progress
from voxclick.clicks.logs import ClickLog
from voxclick.datasets import DEFAULT_LABELS, Case
from voxclick.errors import EvaluationError, UsageError
from voxclick.evaluation.masks import (
    MaskPair,
    Mismatch,
    ScoredMask,
    label_files,
    masks_table,
    match_masks,
    score_masks,
    summarise_masks,
)
from voxclick.evaluation.people import (
    Effort,
    ReplayedLog,
    UserStudy,
    annotation_name,
    logs_table,
    measure_efforts,
    people_table,
    read_click_logs,
    summarise_people,
)
from voxclick.evaluation.people_figures import plot_people
from voxclick.evaluation.report.words import METRIC_WORDS
from voxclick.evaluation.results import write_summary, write_table
from voxclick.model_files import Model
from voxclick.runs import Split, choose_cases

_LEFT_BY_A_RUN = (
    "scores.csv",
    "summary.json",
    "logs.csv",
    "people.json",
    "people.csv",
    "people.png",
)


def metrics(
    out: Annotated[Path, typer.Option("--out", help="folder for scores and summary")],
    labels: Annotated[
        Path | None, typer.Argument(help="the truth: a folder of label maps, or one file")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Argument(help="masks of the same names, or one file")
    ] = None,
    labels_said: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="names by value, commas between; background,tumor, or the model's, without it",
        ),
    ] = None,
    click_logs: Annotated[
        Path | None,
        typer.Option("--click-logs", help="folder of people's logs, CASE.json or CASE_NAME.json"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", help="a model.safetensors, or the folder of a run, that replays the logs"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="the data set, with labels, that --model replays them on"),
    ] = None,
    overrides: InferenceOverrides = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    backend: BackendOption = BackendName.torch,
) -> None:
    """Score PREDICTIONS, made elsewhere, against LABELS; measure what people clicked.

    Masks and labels are matched by name. With --click-logs the work of people is measured, and
    with --model and --images set beside a simulated user's on the same cases.
    """
    _check_belonging(labels, predictions, click_logs, model, images, overrides)
    named = label_names(labels_said)
    replay = None
    if model is not None and images is not None:
        chosen = choose_model([model], CombinationName.mean, device, backend, overrides)
        replay = _Replay(chosen, _cases(images, chosen.model, named), seed)
    model_labels = None if replay is None else replay.chosen.model.settings.labels
    names = named or model_labels or DEFAULT_LABELS
    truth = label_files(labels) if labels is not None else {}
    if replay is not None:
        truth = replay.labels
    problems: list[Mismatch] = []
    logs, unread = ((), ()) if click_logs is None else read_click_logs(click_logs, truth)
    pairs: Sequence[MaskPair] = ()
    if labels is not None and predictions is not None:
        annotations = {annotation_name(log): log.case for log in logs}
        pairs, unmatched = match_masks(labels, predictions, annotations)
        problems += unmatched
    out.mkdir(parents=True, exist_ok=True)
    for name in _LEFT_BY_A_RUN:  # what this one does not leave must not stand beside it
        (out / name).unlink(missing_ok=True)
    scored: Sequence[ScoredMask] = ()
    if labels is not None:
        with case_progress("scoring", len(pairs)) as on_mask:
            scored, unscored = score_masks(pairs, names, on_mask)
        problems += unscored
        described = {"labels": str(labels), "predictions": str(predictions)}
        _leave_scores(scored, problems, described, out)
    if click_logs is not None:
        efforts, unmeasured = measure_efforts(logs, truth, names)
        replayed, failed = ((), ()) if replay is None else replay.run(efforts)
        left_out = [*unread, *unmeasured, *failed]
        problems += left_out
        described = {"click_logs": str(click_logs)}
        if replay is not None:
            described |= {"images": str(images), **replay.described}
        _leave_people(efforts, scored, replayed, left_out, described, out)
    if problems:
        raise EvaluationError(_listed(problems))


@dataclass(frozen=True, eq=False)
class _Replay:
    """What replays logs: a model on labelled cases."""

    chosen: ChosenModel
    cases: Mapping[str, Case]
    seed: int

    @property
    def labels(self) -> dict[str, Path]:
        return {name: case.label for name, case in self.cases.items() if case.label is not None}

    @property
    def described(self) -> dict[str, Any]:
        return {
            **self.chosen.described,
            "model_fingerprint": self.chosen.model.fingerprint,
            "inference": self.chosen.inference.model_dump(mode="json"),
            "seed": self.seed,
        }

    def run(
        self, efforts: Sequence[tuple[ClickLog, Effort]]
    ) -> tuple[list[ReplayedLog], list[Mismatch]]:
        of_case = {
            name: list(logs)
            for name, logs in groupby((log for log, _ in efforts), key=lambda log: log.case)
        }
        total = sum(UserStudy.steps_of(logs) for logs in of_case.values())
        replayed: list[ReplayedLog] = []
        failed: list[Mismatch] = []
        with step_progress("replaying", total) as on_steps:
            study = UserStudy(self.chosen.model, self.chosen.inference, self.seed, on_steps)
            for name, logs in of_case.items():
                of_logs, problems = study.replay(self.cases[name], logs)
                replayed += of_logs
                failed += problems
        return replayed, failed


def _check_belonging(
    labels: Path | None,
    predictions: Path | None,
    click_logs: Path | None,
    model: Path | None,
    images: Path | None,
    overrides: list[str] | None,
) -> None:
    """Refuse arguments that say nothing without others."""
    if labels is not None and predictions is None:
        raise UsageError("PREDICTIONS is missing: LABELS are what PREDICTIONS are scored against")
    if (model is None) != (images is None):
        missing = "--images" if images is None else "--model"
        raise UsageError(f"{missing} is missing: --model replays click logs on --images")
    if model is not None and click_logs is None:
        raise UsageError("--click-logs is missing: --model and --images replay click logs")
    if model is None and overrides:
        raise UsageError("--model is missing: --set changes the way through a model")
    if labels is None and model is None:
        raise UsageError(
            "expected LABELS and PREDICTIONS, or --click-logs with --model and --images, or both"
        )


def _cases(images: Path, model: Model, labels: tuple[str, ...] | None) -> dict[str, Case]:
    if model.settings.guidance is None:
        raise UsageError("--model: was trained without clicks, so it cannot replay any")
    cases = choose_cases(images, Split.all, model.settings, labels=labels)
    return {case.name: case for case in cases}


def _leave_scores(
    scored: Sequence[ScoredMask],
    mismatches: Sequence[Mismatch],
    described: Mapping[str, Any],
    out: Path,
) -> None:
    table = masks_table(scored)
    summary = {**described, **summarise_masks(table, mismatches)}
    write_summary(summary, out / "summary.json")
    if len(table):
        write_table(table, out / "scores.csv")
        print_masks(summary, plain_console(), out)


def _leave_people(
    efforts: Sequence[tuple[ClickLog, Effort]],
    scored: Sequence[ScoredMask],
    replayed: Sequence[ReplayedLog],
    mismatches: Sequence[Mismatch],
    described: Mapping[str, Any],
    out: Path,
) -> None:
    if not efforts:
        return
    logs = logs_table(efforts, {mask.name: mask.scores for mask in scored})
    write_table(logs, out / "logs.csv")
    table = people_table(replayed) if replayed else None
    summary = {**described, **summarise_people(logs, table, mismatches)}
    write_summary(summary, out / "people.json")
    if table is not None:
        write_table(table, out / "people.csv")
        plot_people(table, out / "people.png")
    print_people(summary, plain_console(), out)


def print_masks(summary: Mapping[str, Any], console: Console, out: Path) -> None:
    """Scores as a table, those of lesion-free cases in one of their own."""
    lesion_free = summary.get("lesion_free", {"masks": 0})
    with_lesions = summary["masks"] - lesion_free["masks"]
    for group, count, kind in (
        (summary, with_lesions, "with lesions"),
        (lesion_free, lesion_free["masks"], "lesion-free"),
    ):
        if not count:
            continue
        table = Table("score", "mean", "spread", "median", title=f"{count} {kind}")
        for metric, words in METRIC_WORDS.items():
            if metric in group:
                spread = group[metric]
                table.add_row(
                    words.title, *(_shown(spread[key]) for key in ("mean", "std", "median"))
                )
        console.print(table)
    console.print(f"masks: {summary['masks']} -> {out / 'scores.csv'}")


def print_people(summary: Mapping[str, Any], console: Console, out: Path) -> None:
    """The work of people, and Dice per click beside the simulated user's."""
    users = [user for user in ("person", "simulated") if user in summary]
    table = Table("mean of a log", *users, title=f"logs: {summary['logs']}")
    for name, title in {
        "clicks": "clicks",
        "taken_back": "of them taken back",
        "clicks_per_lesion": "clicks per lesion",
        "seconds_per_click": "seconds per click",
        "seconds": "seconds in all",
    }.items():
        table.add_row(title, *(_shown(summary[user].get(name), 2) for user in users))
    console.print(table)
    if len(users) == 2 and summary["person"]["dice"]:
        table = Table("click", "Dice, person", "Dice, simulated", "difference")
        rows = (
            summary["person"]["dice"],
            summary["simulated"]["dice"],
            summary["difference"]["dice"],
        )
        for click, values in enumerate(zip(*rows, strict=True)):
            table.add_row(str(click), *map(_shown, values))
        console.print(table)
        console.print("the simulated user's seconds are those of computing alone")
    console.print(f"logs: {summary['logs']} -> {out / 'logs.csv'}")


def _shown(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _listed(problems: Sequence[Mismatch]) -> str:
    listed = "\n  ".join(f"{problem.name}: {problem.problem}" for problem in problems)
    return f"mismatches: {len(problems)}; the rest is scored:\n  {listed}"
