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
from voxclick.io import IMAGE_SUFFIXES, files_of

Row: TypeAlias = dict[str, str | int | float | bool | None]
"""Of a table; None where a score is undefined."""

FOLDER = "cases"


class CaseRecord(BaseModel):
    """Attributes:
    case: the case's name.
    inputs: tells whether anything has changed that its scores come from.
    scores: rows of `scores.csv`.
    baselines: rows of `baselines.csv`.
    prompts: what the user drew, repeat by repeat, step by step.
    error: why the case has no scores; None if it has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    inputs: str
    scores: tuple[Row, ...] = ()
    baselines: tuple[Row, ...] = ()
    prompts: tuple[tuple[tuple[dict[str, Any], ...], ...], ...] = ()
    error: str | None = None


def record_case(case: Case, inputs: str, repeats: Sequence[Sequence[Step]]) -> CaseRecord:
    """The record of a case that has been clicked through.

    Args:
        inputs: from `digest_of_inputs`, taken before anything was read.
        repeats: all steps, for each repeat.
    """
    return CaseRecord(
        case=case.name,
        inputs=inputs,
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


def record_failure(case: Case, inputs: str, error: Exception) -> CaseRecord:
    """The record of a case that could not be clicked through."""
    return CaseRecord(
        case=case.name,
        inputs=inputs,
        error=f"{type(error).__name__}: {error}",
    )


def write_record(record: CaseRecord, run: Path) -> None:
    """Write the record into a run's folder."""
    with replace_when_written(run / FOLDER / f"{record.case}.json") as temporary:
        temporary.write_text(record.model_dump_json() + "\n", encoding="utf-8")


def read_record(case: Case, inputs: str, run: Path) -> CaseRecord | None:
    """The record of a case in a run's folder.

    Returns:
        None if there is none, if it cannot be read, or if it was made from other inputs.
    """
    try:
        record = CaseRecord.model_validate_json((run / FOLDER / f"{case.name}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return record if record.inputs == inputs else None


def digest_of_inputs(case: Case, clicks: Path | None = None, number: int | None = None) -> str:
    """Another one when a file of the case has another place, size or time of change.

    Args:
        clicks: the file of recorded clicks, if they are replayed.
        number: the case's place in its data set, if it decides on anything.
    """
    others = (case.label, clicks, case.grid)
    named = [*case.images, *(path for path in others if path is not None)]
    known = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else str(path)
        for one in named
        for path in _files_of(one)
    ]
    return hashlib.blake2b(json.dumps([known, number]).encode(), digest_size=16).hexdigest()


def _files_of(path: Path) -> tuple[Path, ...]:
    """The voxel file of a detached header belongs to it; what is no image is one file."""
    is_image = path.exists() and path.name.lower().endswith(IMAGE_SUFFIXES)
    return files_of(path) if is_image else (path,)


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
