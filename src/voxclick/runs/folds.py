"""A run for each fold of a cross-validation: which are to be trained, and their models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxclick.config import RunConfig, load_config
from voxclick.errors import ModelFileError, UsageError
from voxclick.training.run_folder import RunFolder


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be trained.

    Attributes:
        config: of the run.
        folder: of the run.
        resume: whether it goes on from its checkpoint.
    """

    config: RunConfig
    folder: RunFolder
    resume: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether its last epoch is done.

        Raises:
            TrainingError: its checkpoint is damaged.
        """
        progress = self.folder.progress()
        return progress is not None and progress.epochs_done >= self.config.training.epochs


def new_runs(config: RunConfig, folder: RunFolder, folds: int | None) -> list[PlannedRun]:
    """One run in a folder, or with `folds` a run for each fold in folders below it.

    Raises:
        UsageError: the configuration names a fold or a file of folds, which says something else.
    """
    if folds is None:
        return [PlannedRun(config, folder)]
    if config.data.fold:
        raise UsageError(
            f"--folds {folds} trains every fold, but data.fold says {config.data.fold}; leave one "
            "of the two away"
        )
    if config.data.splits is not None:
        raise UsageError(
            f"--folds {folds} splits the cases by itself, but data.splits names "
            f"{config.data.splits}; leave one of the two away, or train the file's folds one by "
            "one with data.fold"
        )
    return [PlannedRun(_of_fold(config, n, folds), folder.fold(n)) for n in range(folds)]


def runs_to_resume(folder: RunFolder, folds: int | None) -> list[PlannedRun]:
    """The run in a folder, or the runs of all folds below it, finished ones and new ones too.

    Args:
        folder: that `new_runs` was given.
        folds: what `new_runs` was given, or None.

    Raises:
        UsageError: there is no run, or one of other folds.
    """
    if folder.fold(0).config.exists() and not folder.holds_run:
        return _folds_to_resume(folder, folds)
    if not folder.config.exists():
        raise UsageError(
            f"--resume: there is no run in {folder.path}; leave --resume away to start one"
        )
    if folds is not None:
        raise UsageError(
            f"--resume: {folder.path} holds one run without folds, but --folds says {folds}; leave "
            "--folds away"
        )
    return [PlannedRun(load_config(folder.config), folder, resume=True)]


def models_of(path: Path) -> list[Path]:
    """The model files that a path stands for: itself, or those of a run's folder.

    Raises:
        ModelFileError: a folder without a run, or with folds that are not trained to the end.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        return [path]
    if folder.model.exists():
        return [folder.model]
    runs = _folds_there_should_be(folder)
    if not runs:
        raise ModelFileError(
            f"{path}: expected a model.safetensors in this folder, or folds that 'voxclick train "
            "--folds' has left (fold-0, fold-1, …), found neither"
        )
    unfinished = [run.path.name for run in runs if not run.model.exists() or _goes_on(run)]
    if unfinished:
        raise ModelFileError(
            f"{path}: expected {len(runs)} trained folds, but {', '.join(unfinished)} did not come "
            f"to an end; go on with 'voxclick train DATA --out {path} --resume', or name model "
            "files one by one"
        )
    return [run.model for run in runs]


def _folds_to_resume(folder: RunFolder, folds: int | None) -> list[PlannedRun]:
    first = folder.fold(0).config
    config = load_config(first)
    there = config.data.folds
    if there is None:
        raise UsageError(f"--resume: {first} is of a run without folds; resume it by itself")
    if folds not in (None, there):
        raise UsageError(
            f"--resume: {folder.path} holds a run of {there} folds, but --folds says {folds}; "
            "leave --folds away"
        )
    return [_as_it_is(folder.fold(n), _of_fold(config, n, there)) for n in range(there)]


def _of_fold(config: RunConfig, fold: int, folds: int) -> RunConfig:
    data = config.data.model_copy(update={"folds": folds, "fold": fold})
    return config.model_copy(update={"data": data})


def _as_it_is(folder: RunFolder, config: RunConfig) -> PlannedRun:
    """A fold as its folder has it; as the others where nothing is there yet."""
    if folder.config.exists():
        config = load_config(folder.config)
    return PlannedRun(config, folder, resume=folder.holds_run)


def _folds_there_should_be(folder: RunFolder) -> list[RunFolder]:
    """As many as the first one's configuration says; models may also lie here without theirs."""
    count = max(folder.folds, default=-1) + 1
    if folder.fold(0).config.exists():
        count = load_config(folder.fold(0).config).data.folds or count
    return [folder.fold(number) for number in range(count)]


def _goes_on(folder: RunFolder) -> bool:
    """Whether a checkpoint says that epochs are missing; without one, nobody knows of any."""
    if not (folder.config.exists() and folder.checkpoint.exists()):
        return False
    return not PlannedRun(load_config(folder.config), folder).is_finished
