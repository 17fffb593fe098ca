"""Runs of a training on disk, and the cases they mean: what the commands and the app share."""

from voxclick.runs.cases import (
    Split,
    choose_cases,
    folder_of_run,
    load_run,
    refuse_another_split,
    refuse_other_names,
    with_channels_of,
)
from voxclick.runs.data import read_run_dataset, split_of_run
from voxclick.runs.folds import PlannedRun, models_of, new_runs, runs_to_resume

__all__ = [
    "PlannedRun",
    "Split",
    "choose_cases",
    "folder_of_run",
    "load_run",
    "models_of",
    "new_runs",
    "read_run_dataset",
    "refuse_another_split",
    "refuse_other_names",
    "runs_to_resume",
    "split_of_run",
    "with_channels_of",
]
