"""People's clicks: how much work they were, and what a simulated user would have done with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxclick.clicks.logs import ClickLog, read_click_log
from voxclick.datasets import Case
from voxclick.errors import ClickError, UnsupportedImageError, UsageError, VoxclickError
from voxclick.evaluation.annotators import LabelledScan
from voxclick.evaluation.masks import Mismatch, read_mask
from voxclick.evaluation.metrics import Lesions, is_failure, number_of_clicks
from voxclick.evaluation.results import QUALITIES, each_rounded, rounded
from voxclick.evaluation.runner import CaseEvaluation, Step, read_scan
from voxclick.evaluation.scoring import OF_LESION_FREE, CaseScores
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.hardware import saying_when_memory_is_full
from voxclick.model_files import Model
from voxclick.session import InteractiveSession
from voxclick.sliding_window import InferenceSettings
from voxclick.volume import LabelMap

UNNAMED = "unnamed"
"""Who clicked, where neither the log nor its file's name says so."""

CURVE_METRICS = ("dice", "nsd", "fpv_ml", "fnv_ml")
"""Scores that every mask has, so that those of a mask that stands can stand, too."""

_LOG = ["case", "annotator"]


class User(str, Enum):
    """Who clicked in a row of `people.csv`."""

    person = "person"
    simulated = "simulated"


@dataclass(frozen=True)
class Effort:
    """How much work somebody had with one case.

    Attributes:
        clicks: given, those taken back included.
        taken_back: how many of them.
        lesions: 18-connected components of all foreground labels of the truth.
        clicks_per_lesion: NaN without lesions.
        seconds_per_click: median time from one click to the next, for the first from the opening
            of the image; NaN without clicks.
        seconds: from the opening to the last click, or to when the last one was taken back; 0
            without clicks.
    """

    clicks: int
    taken_back: int
    lesions: int
    clicks_per_lesion: float
    seconds_per_click: float
    seconds: float

    @staticmethod
    def of(log: ClickLog, lesions: int) -> Effort:
        """The work that a log tells of."""
        given = [timed.seconds for timed in log.clicks]
        removed = [timed.removed for timed in log.clicks if timed.removed is not None]
        return Effort(
            clicks=len(given),
            taken_back=len(removed),
            lesions=lesions,
            clicks_per_lesion=len(given) / lesions if lesions else math.nan,
            seconds_per_click=float(np.median(np.diff([0.0, *given]))) if given else math.nan,
            seconds=max([0.0, *given, *removed]),
        )


@dataclass(frozen=True, eq=False)
class ReplayedLog:
    """A person's clicks and a simulated user's, on one case.

    Attributes:
        log: of the person.
        person: step by step, from step 0; a step for each click that was never taken back.
        simulated: as many steps.
    """

    log: ClickLog
    person: tuple[Step, ...]
    simulated: tuple[Step, ...]


def read_click_logs(
    folder: Path, cases: Collection[str]
) -> tuple[tuple[ClickLog, ...], tuple[Mismatch, ...]]:
    """Read the click logs of a folder, ``CASE.json`` or ``CASE_ANNOTATOR.json``.

    The case that a log names itself decides. Where a log does not say who clicked, its file's
    name does, or nobody (`UNNAMED`).

    Args:
        folder: with one JSON file a log.
        cases: that a log may be of.

    Returns:
        The logs by case and annotator, and why others are left out: they cannot be read, are of
        no known case, or of a case and annotator that another one is of.

    Raises:
        UsageError: there is no such folder, or no log in it.
    """
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise UsageError(f"--click-logs {folder}: there is no such folder, or no .json file in it")
    logs: dict[tuple[str, str], ClickLog] = {}
    mismatches: list[Mismatch] = []
    for path in paths:
        try:
            log = _with_names(read_click_log(path), path, cases)
            known = logs.setdefault((log.case, log.annotator or UNNAMED), log)
        except ClickError as error:
            mismatches.append(Mismatch(path.stem, str(error)))
            continue
        if known is not log:
            mismatches.append(
                Mismatch(
                    path.stem,
                    f"{path}: is a second log of {log.case} by {log.annotator}; say with "
                    "'annotator' who clicked",
                )
            )
    return tuple(logs[key] for key in sorted(logs)), tuple(mismatches)


def annotation_name(log: ClickLog) -> str:
    """The name of what somebody made of a case: ``CASE_ANNOTATOR``."""
    return f"{log.case}_{log.annotator}"


def measure_efforts(
    logs: Sequence[ClickLog], labels: Mapping[str, Path], names: tuple[str, ...]
) -> tuple[tuple[tuple[ClickLog, Effort], ...], tuple[Mismatch, ...]]:
    """How much work each log tells of.

    Args:
        logs: by case.
        labels: files by case.
        names: of the labels, by value.

    Returns:
        The logs with their efforts, and why others have none: their label cannot be read.
    """
    efforts: list[tuple[ClickLog, Effort]] = []
    mismatches: list[Mismatch] = []
    for case, grouped in groupby(logs, key=lambda log: log.case):
        of_case = list(grouped)
        try:
            lesions = _count_lesions(read_mask(labels[case], names))
        except UnsupportedImageError as error:
            mismatches += [Mismatch(annotation_name(log), str(error)) for log in of_case]
        else:
            efforts += [(log, Effort.of(log, lesions)) for log in of_case]
    return tuple(efforts), tuple(mismatches)


@dataclass(frozen=True, eq=False)
class UserStudy:
    """Replays people's clicks and lets a simulated user click the same cases.

    Attributes:
        model: that both correct.
        inference: its way through volumes.
        seed: decides where the simulated user sees equally good voxels.
        on_steps: told how many steps more are done.
    """

    model: Model
    inference: InferenceSettings
    seed: int
    on_steps: Callable[[int], None]

    @staticmethod
    def steps_of(logs: Sequence[ClickLog]) -> int:
        """Predictions that the logs of one case take, the simulated user's included."""
        counts = [_steps(log) for log in logs]
        return sum(counts) + max(counts, default=0)

    def replay(
        self, case: Case, logs: Sequence[ClickLog]
    ) -> tuple[tuple[ReplayedLog, ...], tuple[Mismatch, ...]]:
        """Click one case through: once for each log, and once as the simulated user.

        Clicks that were taken back are not replayed. The simulated user clicks in the middle of
        the largest error (protocol ``largest-error``), as often as the person did.

        Args:
            case: with a label.
            logs: of this case.

        Returns:
            What was replayed, and why the other logs were not.
        """
        try:
            with saying_when_memory_is_full():
                return self._replay_all(case, logs)
        except (VoxclickError, OSError) as error:
            return (), tuple(Mismatch(annotation_name(log), str(error)) for log in logs)

    def _replay_all(
        self, case: Case, logs: Sequence[ClickLog]
    ) -> tuple[tuple[ReplayedLog, ...], tuple[Mismatch, ...]]:
        scan = read_scan(case, self.model.settings)
        fitting, mismatches = _fitting(logs, scan.label)
        session = InteractiveSession(self.model, scan.volumes, self.inference)
        most = max((len(log.standing) for log in fitting), default=0)
        # first, for what it is told is new to the session, so that its seconds are real
        simulated = self._click(session, scan, Protocol.largest_error, most) if fitting else ()
        replayed = tuple(
            ReplayedLog(log, self._replay(session, scan, log), simulated[: _steps(log)])
            for log in fitting
        )
        return replayed, mismatches

    def _replay(
        self, session: InteractiveSession, scan: LabelledScan, log: ClickLog
    ) -> tuple[Step, ...]:
        recorded = tuple(timed.click for timed in log.standing)
        told = replace(scan, recorded=recorded)
        return self._click(session, told, Protocol.recorded, len(recorded))

    def _click(
        self, session: InteractiveSession, scan: LabelledScan, protocol: Protocol, steps: int
    ) -> tuple[Step, ...]:
        settings = EvaluationSettings(protocol=protocol, steps=steps, seed=self.seed)
        evaluation = CaseEvaluation(session, scan, settings)
        return evaluation.click_through(on_step=lambda *_: self.on_steps(1)).steps


def logs_table(
    efforts: Sequence[tuple[ClickLog, Effort]], final_masks: Mapping[str, CaseScores]
) -> pd.DataFrame:
    """One row per log: the columns of `Effort`, and the scores of the person's final mask.

    Args:
        efforts: the logs, and how much work they were.
        final_masks: scores by the name of a mask: the log's `annotation_name`, or its case where
            it is the case's only log. May be empty; then there are no scores.
    """
    cases = [log.case for log, _ in efforts]
    rows: list[dict[str, object]] = []
    for log, effort in efforts:
        row = {"case": log.case, "annotator": log.annotator, **asdict(effort)}
        scores = final_masks.get(annotation_name(log))
        if scores is None and cases.count(log.case) == 1:
            scores = final_masks.get(log.case)
        rows.append(row if scores is None else row | scores.row())
    return pd.DataFrame(rows)


def people_table(replayed: Sequence[ReplayedLog]) -> pd.DataFrame:
    """One row per log, user and step.

    Columns: ``case``, ``annotator`` (of a simulated user's row, whom it stands beside), ``user``,
    ``step``, those of `CaseScores.row`, ``clicks`` (given until then, those taken back included)
    and ``seconds`` until then: a person's from the opening of the image, the simulated user's of
    predictions alone, this step's included.
    """
    rows = (row for one in replayed for row in (*_rows_of_person(one), *_rows_of_simulated(one)))
    return pd.DataFrame(list(rows))


def summarise_people(
    logs: pd.DataFrame, table: pd.DataFrame | None, mismatches: Sequence[Mismatch] = ()
) -> dict[str, Any]:
    """What people did, and beside it what the simulated user did; lesion-free cases apart.

    Somebody who has stopped keeps the last mask: every log counts in the mean of every step.

    Args:
        logs: from `logs_table`.
        table: from `people_table`; None without a model.
        mismatches: logs that are left out, and why.

    Returns:
        What docs/how-to/metrics.md says of `people.json`.
    """
    with_lesions, lesion_free = logs.loc[logs.lesions > 0], logs.loc[logs.lesions == 0]
    summary: dict[str, Any] = {
        "logs": len(logs),
        "cases": int(logs.case.nunique()),
        "annotators": sorted(logs.annotator.unique()),
        "mismatches": [asdict(mismatch) for mismatch in mismatches],
        "person": _efforts(with_lesions),
    }
    if len(lesion_free):
        summary["lesion_free"] = {"logs": len(lesion_free), "person": _efforts(lesion_free)}
    if table is None:
        return summary
    of_user = {user: table.loc[table.user == user.value] for user in User}
    found = {user: rows.loc[~rows.empty_label] for user, rows in of_user.items()}
    summary["simulated"] = _simulated_efforts(found[User.simulated], with_lesions)
    for user, rows in found.items():
        summary[user.value] |= _per_step(rows, CURVE_METRICS)
        summary[user.value]["number_of_clicks"] = _numbers_of_clicks(rows)
    summary["difference"] = _differences(found[User.person], found[User.simulated])
    if len(lesion_free):
        summary["lesion_free"]["simulated"] = {}
        for user, rows in of_user.items():
            nothing_there = rows.loc[rows.empty_label]
            summary["lesion_free"][user.value] |= _per_step(nothing_there, OF_LESION_FREE)
    return summary


def curves_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A score, one row per log, one column per step; who has stopped keeps the last mask.

    Args:
        rows: one user's rows of a `people_table`.
        metric: one of `CURVE_METRICS`.
    """
    return rows.pivot(index=_LOG, columns="step", values=metric).ffill(axis=1)


def _count_lesions(label: LabelMap) -> int:
    return sum(Lesions.of(label.mask(name)).count for name in label.labels[1:])


def _with_names(log: ClickLog, path: Path, cases: Collection[str]) -> ClickLog:
    """The log, with a case that is known and with an annotator.

    Raises:
        ClickError: of no known case.
    """
    case = log.case
    if case not in cases and case == path.stem:  # it names no case itself
        prefixes = [name for name in cases if case.startswith(f"{name}_")]
        case = max(prefixes, key=len, default=case)
    if case not in cases:
        raise ClickError(
            f"{path}: is a log of {case!r}, of which there is no label; name the case in the "
            "log's 'case'"
        )
    of_file = path.stem.removeprefix(f"{case}_")
    annotator = log.annotator or (UNNAMED if of_file == path.stem else of_file)
    return replace(log, case=case, annotator=annotator)


def _fitting(
    logs: Sequence[ClickLog], label: LabelMap
) -> tuple[list[ClickLog], tuple[Mismatch, ...]]:
    """Those whose clicks lie in the image and have labels of the model."""
    fitting: list[ClickLog] = []
    mismatches: list[Mismatch] = []
    for log in logs:
        try:
            for timed in log.standing:
                timed.click.check(label.geometry, label.labels)
        except ClickError as error:
            mismatches.append(Mismatch(annotation_name(log), str(error)))
        else:
            fitting.append(log)
    return fitting, tuple(mismatches)


def _steps(log: ClickLog) -> int:
    return len(log.standing) + 1


def _rows_of_person(replayed: ReplayedLog) -> Iterator[dict[str, object]]:
    given = [n for n, timed in enumerate(replayed.log.clicks, 1) if timed.removed is None]
    times = [timed.seconds for timed in replayed.log.standing]
    when = zip(replayed.person, [0, *given], [0.0, *times], strict=True)
    for step, clicks, seconds in when:
        yield _row(replayed.log, User.person, step, clicks, seconds)


def _rows_of_simulated(replayed: ReplayedLog) -> Iterator[dict[str, object]]:
    seconds = 0.0
    for step in replayed.simulated:
        seconds += step.seconds
        yield _row(replayed.log, User.simulated, step, step.clicks, seconds)


def _row(log: ClickLog, user: User, step: Step, clicks: int, seconds: float) -> dict[str, object]:
    return {
        "case": log.case,
        "annotator": log.annotator,
        "user": user.value,
        "step": step.number,
        **step.scores.row(),
        "clicks": clicks,
        "seconds": seconds,
    }


def _efforts(logs: pd.DataFrame) -> dict[str, Any]:
    """Means over logs."""
    names = ("clicks", "taken_back", "clicks_per_lesion", "seconds_per_click", "seconds")
    return {name: rounded(logs[name].mean()) for name in names}


def _simulated_efforts(rows: pd.DataFrame, logs: pd.DataFrame) -> dict[str, Any]:
    """The simulated user's; it does not think, so its seconds are those of the predictions."""
    of_log = rows.groupby(_LOG)
    clicks, seconds = of_log.clicks.max(), of_log.seconds.max()
    # where nothing is left to correct, a step is no click and costs nothing
    is_click = of_log.clicks.diff() > 0
    per_click = of_log.seconds.diff()[is_click].groupby([rows.case, rows.annotator]).median()
    return {
        "clicks": rounded(clicks.mean()),
        "clicks_per_lesion": rounded((clicks / logs.set_index(_LOG).lesions).mean()),
        "seconds_per_click": rounded(per_click.mean()),
        "seconds": rounded(seconds.mean()),
    }


def _per_step(rows: pd.DataFrame, metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """Mean and spread over logs at every step."""
    summary: dict[str, list[float | None]] = {}
    for metric in metrics:
        curves = curves_of(rows, metric)
        summary[metric] = each_rounded(curves.mean())
        summary[f"{metric}_std"] = each_rounded(curves.std(ddof=0))
    return summary


def _numbers_of_clicks(rows: pd.DataFrame) -> dict[str, Any]:
    """Clicks and seconds until a Dice is reached, or until the end where it never is."""
    of_logs = [of_log for _, of_log in rows.loc[rows.step > 0].groupby(_LOG)]
    return {f"{quality:.2f}": _number_of_clicks(of_logs, quality) for quality in QUALITIES}


def _number_of_clicks(of_logs: Sequence[pd.DataFrame], quality: float) -> dict[str, Any]:
    ends = [
        of_log.iloc[number_of_clicks(of_log.dice.tolist(), quality, len(of_log)) - 1]
        for of_log in of_logs
    ]
    return {
        "noc": rounded(float(np.mean([end.clicks for end in ends]))) if ends else None,
        "nof": sum(is_failure(of_log.dice.tolist(), quality) for of_log in of_logs),
        "seconds": rounded(float(np.mean([end.seconds for end in ends]))) if ends else None,
    }


def _differences(person: pd.DataFrame, simulated: pd.DataFrame) -> dict[str, Any]:
    """Person less simulated user, log by log: the mean at every step, and over all steps."""
    differences: dict[str, Any] = {}
    for metric in CURVE_METRICS:
        paired = curves_of(person, metric) - curves_of(simulated, metric)
        differences[metric] = each_rounded(paired.mean())
        differences[f"{metric}_std"] = each_rounded(paired.std(ddof=0))
        differences[f"{metric}_mean"] = rounded(paired.mean(axis=1).mean())
    return differences
