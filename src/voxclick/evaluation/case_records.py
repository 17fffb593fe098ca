"""What is known of each case of an evaluation: one JSON file a case, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from voxclick.datasets import Case
from voxclick.evaluation.runner import Step
from voxclick.files import replace_when_written

Row: TypeAlias = dict[str, str | int | float | bool | None]
"""Of a table; None where a score is undefined."""

FOLDER = "cases"


class CaseRecord(BaseModel):
    """Attributes:
    case: the case's name.
    files: tells whether its files have changed.
    scores: rows of `scores.csv`.
    baselines: rows of `baselines.csv`.
    prompts: what the user drew, repeat by repeat, step by step.
    error: why the case has no scores; None if it has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    files: str
    scores: tuple[Row, ...] = ()
    baselines: tuple[Row, ...] = ()
    prompts: tuple[tuple[tuple[dict[str, Any], ...], ...], ...] = ()
    error: str | None = None


def record_case(case: Case, repeats: Sequence[Sequence[Step]]) -> CaseRecord:
    """The record of a case that has been clicked through.

    Args:
        repeats: all steps, for each repeat.
    """
    return CaseRecord(
        case=case.name,
        files=digest_of_files(case),
        scores=tuple(
            _plain({**_place(case, repeat, step), **step.scores.row(), **_cost(step)})
            for repeat, steps in enumerate(repeats)
            for step in steps
        ),
        baselines=tuple(
            _plain({**_place(case, repeat, step), "baseline": name, **scores.row()})
            for repeat, steps in enumerate(repeats)
            for step in steps
            for name, scores in step.baselines.items()
        ),
        prompts=tuple(
            tuple(
                tuple(
                    {"kind": prompt.kind.value, "label": prompt.label, "voxels": prompt.voxels}
                    for prompt in step.prompts
                )
                for step in steps
            )
            for steps in repeats
        ),
    )


def record_failure(case: Case, error: Exception) -> CaseRecord:
    """The record of a case that could not be clicked through."""
    return CaseRecord(
        case=case.name,
        files=digest_of_files(case),
        error=f"{type(error).__name__}: {error}",
    )


def write_record(record: CaseRecord, run: Path) -> None:
    """Write the record into a run's folder."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with replace_when_written(folder / f"{record.case}.json") as temporary:
        temporary.write_text(record.model_dump_json() + "\n", encoding="utf-8")


def read_record(case: Case, run: Path) -> CaseRecord | None:
    """The record of a case in a run's folder.

    Returns:
        None if there is none, if it cannot be read, or if the case's files have changed since.
    """
    try:
        record = CaseRecord.model_validate_json((run / FOLDER / f"{case.name}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return record if record.files == digest_of_files(case) else None


def digest_of_files(case: Case) -> str:
    """Another one when a file of the case has another place, size or time of change."""
    paths = [*case.images, *([] if case.label is None else [case.label])]
    known = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else str(path)
        for path in paths
    ]
    return hashlib.blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()


def _place(case: Case, repeat: int, step: Step) -> Row:
    return {"case": case.name, "repeat": repeat, "step": step.number}


def _cost(step: Step) -> Row:
    return {"clicks": step.clicks, "windows": step.windows, "seconds": round(step.seconds, 6)}


def _plain(row: dict[str, Any]) -> Row:
    """NaN is not JSON."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }
