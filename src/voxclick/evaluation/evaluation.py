"""A whole data set, evaluated: what `voxclick evaluate` does."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

import voxclick
from voxclick.clicks import Click, read_clicks, write_clicks
from voxclick.datasets import Case
from voxclick.errors import ClickError, UsageError
from voxclick.evaluation.baselines import BaselineName
from voxclick.evaluation.case_records import (
    CaseRecord,
    digest_of_inputs,
    read_record,
    record_case,
    record_failure,
    write_record,
)
from voxclick.evaluation.plots import plot_case, plot_curve
from voxclick.evaluation.report import read_run, write_report
from voxclick.evaluation.results import (
    baselines_table,
    scores_table,
    summarise,
    write_summary,
    write_table,
)
from voxclick.evaluation.runner import CaseEvaluation, Step, read_scan
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.evaluation.shards import Shard
from voxclick.files import replace_when_written
from voxclick.hardware import device_name, saying_when_memory_is_full
from voxclick.io import write_label_map
from voxclick.model_files import Model
from voxclick.session import InteractiveSession
from voxclick.sliding_window import CacheSettings, InferenceSettings
from voxclick.volume import LabelMap

SETTINGS_FILE = "evaluation.json"
"""What decides on the scores, as it was when the run began."""


class SavedMasks(str, Enum):
    """Which predictions of a case are written."""

    none = "none"
    last = "last"
    every = "every"


def _nobody(steps: int) -> None:
    """Told of steps by an evaluation that nobody watches."""


class _StepsLeft:
    """Tells of the steps of one case, in the end of all of them, however many were taken."""

    def __init__(self, steps: int, on_steps: Callable[[int], None]) -> None:
        self._left = steps
        self._on_steps = on_steps

    def done(self, *_: object) -> None:
        """One more."""
        self._left -= 1
        self._on_steps(1)

    def skip(self) -> None:
        """No more will come."""
        self._on_steps(self._left)
        self._left = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measures a model on cases, into a folder; goes on where an earlier run has stopped.

    Attributes:
        out: the folder.
        model: which is measured.
        inference: its way through volumes.
        settings: who clicks, and how.
        cache: how much of the windows' results is kept.
        baselines: what is shown beside it.
        clicks: folder with a click file per case, for the protocols that replay clicks.
        masks: which predictions are written.
        described: where model and data come from, in words, for the summary.
        on_steps: told how many steps more are done.
    """

    out: Path
    model: Model
    inference: InferenceSettings
    settings: EvaluationSettings
    cache: CacheSettings = field(default_factory=CacheSettings)
    baselines: tuple[BaselineName, ...] = ()
    clicks: Path | None = None
    masks: SavedMasks = SavedMasks.none
    described: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    on_steps: Callable[[int], None] = _nobody

    def open(self) -> None:
        """Make the folder, or go on with one that holds the same evaluation.

        Raises:
            UsageError: it holds another evaluation; scores and masks of two must not mix.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        identity = json.loads(json.dumps(self._identity()))
        path = self.out / SETTINGS_FILE
        if not path.exists():
            with replace_when_written(path) as temporary:
                temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in identity if identity[key] != earlier.get(key)]
        if differing:
            raise UsageError(
                f"--out {self.out}: holds an evaluation with another "
                f"{' and '.join(key.removesuffix('_fingerprint') for key in differing)}; "
                "name another folder, or remove that one"
            )

    def run(self, cases: Sequence[Case], shard: Shard) -> None:
        """Click this process's share of the cases through, save those that are done already.

        A case that fails is recorded with its error, and the others go on.

        Args:
            cases: of all processes.
            shard: which process this is.
        """
        for number, case in shard.share(list(enumerate(cases))):
            steps = _StepsLeft(self.settings.predictions, self.on_steps)
            known = read_record(case, self._inputs(case, number), self.out)
            if known is None or known.error is not None:
                write_record(self._evaluate_or_say_why_not(case, number, steps), self.out)
            steps.skip()

    def finish(self, cases: Sequence[Case], started: datetime) -> dict[str, Any]:
        """Put the records of all cases together: tables, summary, curve, report.

        Returns:
            The summary.
        """
        records, failed = self._records(cases)
        table, baselines = scores_table(records), baselines_table(records)
        summary = summarise(table, baselines, self.settings, failed)
        write_summary(summary | self._circumstances(started), self.out / "summary.json")
        for name in ("scores.csv", "baselines.csv", "curve.png", "report.html"):
            (self.out / name).unlink(missing_ok=True)  # of an earlier run with other cases
        if len(table):
            write_table(table, self.out / "scores.csv")
            if len(baselines):
                write_table(baselines, self.out / "baselines.csv")
            title = f"{self.settings.protocol.value}, cases: {summary['cases']}"
            plot_curve(table, self.out / "curve.png", title)
            write_report(read_run(self.out), self.out / "report.html")
        return summary

    def _records(self, cases: Sequence[Case]) -> tuple[list[CaseRecord], dict[str, str]]:
        """What is known of the cases, and why the others have no scores."""
        records: list[CaseRecord] = []
        failed: dict[str, str] = {}
        for number, case in enumerate(cases):
            record = read_record(case, self._inputs(case, number), self.out)
            if record is None:
                failed[case.name] = "its files changed, or its record was lost, during the run"
            elif record.error is not None:
                failed[case.name] = record.error
            else:
                records.append(record)
        return records, failed

    def _inputs(self, case: Case, number: int) -> str:
        """What the scores of a case come from; its place decides on the scribbles of autoPET V."""
        is_by_place = self.settings.protocol is Protocol.autopet5
        return digest_of_inputs(case, self._click_file(case), number if is_by_place else None)

    def _click_file(self, case: Case) -> Path | None:
        return None if self.clicks is None else self.clicks / f"{case.name}.json"

    def _evaluate_or_say_why_not(self, case: Case, number: int, steps: _StepsLeft) -> CaseRecord:
        inputs = self._inputs(case, number)  # before anything is read
        try:
            with saying_when_memory_is_full():
                return record_case(case, inputs, self._click_through(case, number, steps))
        except Exception as error:  # noqa: BLE001 - one bad case must not cost the others
            warnings.warn(f"{case.name}: has no scores ({error})", stacklevel=2)
            return record_failure(case, inputs, error)

    def _click_through(self, case: Case, number: int, steps: _StepsLeft) -> list[tuple[Step, ...]]:
        """The steps of every repeat; files of the first."""
        scan = read_scan(case, self.model.settings, number, self._recorded(case))
        session = InteractiveSession(self.model, scan.volumes, self.inference, self.cache)
        evaluation = CaseEvaluation(session, scan, self.settings, self.baselines)

        def keep(step: Step, prediction: LabelMap) -> None:
            if self.masks is SavedMasks.every:
                name = f"step-{step.number:02d}.nii.gz"
                write_label_map(prediction, self.out / "masks" / case.name / name)
            steps.done()

        first = evaluation.click_through(0, keep)
        others = [
            evaluation.click_through(repeat, steps.done).steps
            for repeat in range(1, self.settings.repeats)
        ]
        if self.masks is SavedMasks.last:
            write_label_map(first.last, self.out / "masks" / f"{case.name}.nii.gz")
        # as they were said, repeats included, so that the file replays step by step
        said = [click for step in first.steps for p in step.prompts for click in p.clicks]
        write_clicks(said, self.out / "clicks" / f"{case.name}.json", "points")
        pictures = self.out / "pictures"
        pictures.mkdir(exist_ok=True)
        plot_case(
            scan.uptake,
            scan.label,
            {"before corrections": first.first, f"after {self.settings.steps} steps": first.last},
            first.clicks,
            pictures / f"{case.name}.png",
        )
        return [first.steps, *others]

    def _recorded(self, case: Case) -> tuple[Click, ...] | None:
        path = self._click_file(case)
        if path is None:
            return None
        clicks = read_clicks(path)
        unknown = {click.label for click in clicks} - set(self.model.settings.labels)
        if unknown:
            raise ClickError(
                f"{path}: has clicks for {', '.join(sorted(unknown))}; the model knows "
                f"{', '.join(self.model.settings.labels)}"
            )
        steps = self.settings.steps
        if self.settings.protocol is Protocol.recorded and len(clicks) > steps:
            warnings.warn(
                f"{path}: has {len(clicks)} clicks, of which the first {steps} are replayed; "
                f"--steps {len(clicks)} takes them all",
                stacklevel=2,
            )
        return tuple(clicks)

    def _identity(self) -> dict[str, Any]:
        """The same for evaluations that leave the same."""
        return {
            **{key: value for key, value in self.described.items() if key != "model"},
            **self.settings.model_dump(mode="json"),
            "voxclick": voxclick.__version__,
            "model_fingerprint": self.model.fingerprint,
            "inference": self.inference.model_dump(mode="json"),
            "cache_dtype": self.cache.dtype,
            "baselines": [name.value for name in self.baselines],
            "clicks": None if self.clicks is None else str(self.clicks),
            "masks": self.masks.value,
        }

    def _circumstances(self, started: datetime) -> dict[str, Any]:
        finished = datetime.now(timezone.utc)
        return {
            **self.described,
            "clicks": None if self.clicks is None else str(self.clicks),
            "settings": self.settings.model_dump(mode="json"),
            "model_fingerprint": self.model.fingerprint,
            "inference": self.inference.model_dump(mode="json"),
            "cache": self.cache.model_dump(mode="json", exclude={"folder"}),
            "hardware": {
                "device": device_name(self.model.device),
                "threads": torch.get_num_threads(),
                "system": platform.platform(terse=True),
            },
            "versions": {
                "voxclick": voxclick.__version__,
                "torch": torch.__version__,
                "monai": monai.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds_total": round((finished - started).total_seconds(), 1),
        }
