"""Training further on the labels that were saved, as a task of MONAI Label.

MONAI Label runs it in a process of its own, reads what it prints, and kills it when it is told to
stop; the server's process learns how far it is from a file.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from lib.infer import channel_files
from lib.labels import FINAL, OfOtherModelsError, label_in_studies
from lib.models import ServedModel, other_labels
from lib.settings import AppSettings
from voxclick import write_label_map
from voxclick.config import RunConfig, load_config, save_config
from voxclick.datasets import check_cases
from voxclick.errors import DatasetError, UsageError, VoxclickError
from voxclick.files import replace_when_written
from voxclick.model_files import ModelSettings
from voxclick.runs import read_run_dataset, split_of_run
from voxclick.training.loop import EpochEnd, Trainer
from voxclick.training.run_folder import RunFolder
from voxclick.training.settings import OptimizerSettings, TrainingSettings

_logger = logging.getLogger(__name__)

_STATS = "training.json"
_SPLIT = "splits_final.json"
_NO_SPLIT: dict[str, list[str]] = {"train": [], "val": []}
_RUNS_KEPT = 5

_SETTING_OF = {
    "max_epochs": "training.epochs",
    "val_split": "data.validation_fraction",
    "learning_rate": "training.optimizer.learning_rate",
    "train_batch_size": "training.batch_size",
}
"""What clients of MONAI Label call settings of `voxclick train`."""

_OF_MONAI_LABEL = {"model", "client_id", "gpus", "multi_gpu", "device", "name", "local_rank"}
"""What requests hold besides; the device is the server's."""

_DEFAULTS = RunConfig(
    training=TrainingSettings(
        epochs=20, batch_size=2, optimizer=OptimizerSettings(learning_rate=5e-4)
    )
)
"""Of these, what a client may choose counts; the rest is the model's, or `voxclick train`'s."""


@dataclass(frozen=True)
class TrainingStats:
    """What MONAI Label's clients show of a training.

    Attributes:
        name: of the run's folder.
        start_ts: when it began.
        epoch: how many are done.
        total_epochs: that there shall be.
        best_metric: mean Dice over the clicks of a validation, 0 where there was none yet.
        train: the loss of the last epoch.
        val: Dice after 0, 1, … clicks of the last validation.
        labels: that were learnt from.
        total_time: how long it took; empty until it is done.
    """

    name: str
    start_ts: str
    epoch: int
    total_epochs: int
    best_metric: float
    train: dict[str, float]
    val: dict[str, list[float]]
    labels: int
    total_time: str = ""


class Training(TrainTask):
    """Trains a model further, or anew, on the labels in the studies.

    Args:
        served: the model; what comes out takes its place.
        settings: of the app.
        models: all that are served: labels that only others know become background.

    Raises:
        UsageError: `train_config` cannot be read.
    """

    def __init__(
        self, served: ServedModel, settings: AppSettings, models: Mapping[str, ServedModel]
    ) -> None:
        super().__init__(f"voxclick: train {served.name} on the saved labels")
        self._served = served
        self._settings = settings
        self._models = models
        path = settings.train_config
        self._said = _DEFAULTS if path is None else load_config(path)

    def config(self) -> dict[str, Any]:
        """What a client may choose; it begins as the app's configuration says."""
        return {
            "pretrained": True,
            "max_epochs": self._said.training.epochs,
            "val_split": self._said.data.validation_fraction,
            "learning_rate": self._said.training.optimizer.learning_rate,
            "train_batch_size": self._said.training.batch_size,
        }

    def stats(self) -> dict[str, Any]:
        path = self._folder / _STATS
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, and put the model in place when it is done.

        Args:
            request: with the settings of `config` where a client chose them.
            datastore: with images and labels; those tagged ``final`` are learnt.

        Raises:
            VoxclickError: no labels, labels that do not fit, or settings that do not.
        """
        begin = time.monotonic()
        started = datetime.now()
        model = self._served.settings()
        run = RunFolder(self._folder / f"run-{started:%Y%m%d-%H%M%S}")
        self._warn_of_unknown(request)
        config = self._config(self.config() | dict(request), model)
        self._delete_old_runs()
        run.path.mkdir(parents=True)
        try:
            data, names = self._write_dataset(run.path, datastore, model)
        except VoxclickError:
            shutil.rmtree(run.path)
            raise
        config = self._with_split(config, names, run.path)
        dataset = read_run_dataset(data, config)
        training, validation = split_of_run(dataset, config)
        check_cases((*training, *validation), dataset.labels, dataset.channels)
        save_config(config, run.config)
        trainer = Trainer(
            config.training,
            config.model_settings(dataset),
            run,
            seed=config.seed,
            weights=config.weights,
            cache=config.data.cache,
            device=self._settings.device,
        )
        stats = TrainingStats(
            name=run.path.name,
            start_ts=f"{started:%Y-%m-%d %H:%M:%S}",
            epoch=0,
            total_epochs=config.training.epochs,
            best_metric=0,
            train={},
            val={},
            labels=len(names),
        )
        self._write_stats(stats)
        _logger.info("%d labels to learn, %d to validate on", len(training), len(validation))

        def on_epoch(end: EpochEnd) -> None:
            nonlocal stats
            stats = _after(stats, end)
            self._write_stats(stats)
            _logger.info(_line(end))

        result = trainer.fit(training, validation, on_epoch=on_epoch)
        if result.best_epoch:
            self._served.take(run.model)
            if (run.path / _SPLIT).is_file():
                shutil.copyfile(run.path / _SPLIT, self._folder / _SPLIT)
            _logger.info("%s is the model of %s now", self._served.name, run.path)
        else:
            _logger.info("no epoch was better: %s stays as it was", self._served.name)
        run.checkpoint.unlink()
        shutil.rmtree(run.path / "labels")
        took = timedelta(seconds=round(time.monotonic() - begin))
        stats = replace(stats, total_time=str(took))
        self._write_stats(stats)
        return asdict(stats)

    @property
    def _folder(self) -> Path:
        return self._served.trained.parent

    def _config(self, asked: Mapping[str, Any], model: ModelSettings) -> RunConfig:
        """What the client chose, then the app's configuration, then what the model says."""
        chosen = {setting: asked[option] for option, setting in _SETTING_OF.items()}
        overrides = [
            f"{key}={json.dumps(value)}"  # which is YAML, whatever is in it
            for key, value in {**chosen, "data.labels": model.labels}.items()
        ]
        files = self._served.files
        if len(files) > 1:
            raise UsageError(
                f"{self._served.name} is an ensemble of {len(files)} models, which are not trained "
                "together; serve one of them by itself"
            )
        overrides.append(f"weights={json.dumps(str(files[0]))}")
        try:
            config = load_config(self._settings.train_config, overrides)
        except UsageError as error:
            said = str(error)
            for option, setting in _SETTING_OF.items():
                said = said.replace(f"--set: {setting}", option).replace(setting, option)
            raise UsageError(said) from error
        return config if asked["pretrained"] else config.model_copy(update={"weights": None})

    def _write_dataset(
        self, folder: Path, datastore: Datastore, model: ModelSettings
    ) -> tuple[Path, list[str]]:
        """A list file of the saved labels, put into the model's labels, and their images' names.

        Raises:
            DatasetError: none, or some that do not fit; all of them are named.
        """
        (folder / "labels").mkdir()
        columns = [f"image_{channel}" for channel in model.channels]
        others = other_labels(self._served, self._models)
        rows: list[dict[str, str]] = []
        problems: list[str] = []
        for image_id in sorted(datastore.get_labeled_images()):
            image = Path(datastore.get_image_uri(image_id))
            path = folder / "labels" / f"{image_id}.nii.gz"
            try:
                images = channel_files(image, model.channels)
                found = label_in_studies(datastore, image_id, FINAL, model.labels, others)
                write_label_map(found, path)
            except OfOtherModelsError as error:
                _logger.warning("%s; it is not learnt", error)
                continue
            except VoxclickError as error:
                problems.append(str(error))
                continue
            files = dict(zip(columns, map(str, images), strict=True))
            rows.append({"name": image_id, **files, "label": str(path)})
        if problems:
            listed = "\n  ".join(problems)
            raise DatasetError(f"{len(problems)} saved label(s) cannot be learnt:\n  {listed}")
        if not rows:
            raise DatasetError(
                f"there is no final label with {', '.join(model.labels[1:])} yet, so there is "
                "nothing to learn"
            )
        path = folder / "cases.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["name", *columns, "label"])
            writer.writeheader()
            writer.writerows(rows)
        return path, [row["name"] for row in rows]

    def _with_split(self, config: RunConfig, names: Sequence[str], folder: Path) -> RunConfig:
        """The configuration with a split that leaves every label where it was before.

        Training goes on from what earlier trainings made: a label that one of them has learnt says
        nothing of how good the model is. Folds that the app's configuration names stay as they are.
        """
        if config.data.splits is not None or config.data.folds is not None:
            return config
        path = self._folder / _SPLIT
        goes_on = path.is_file() and config.weights is not None and self._served.is_trained_further
        before = json.loads(path.read_text(encoding="utf-8"))[0] if goes_on else _NO_SPLIT
        split = extend_split(before, names, config.data.validation_fraction, config.seed)
        with replace_when_written(folder / _SPLIT) as temporary:
            temporary.write_text(json.dumps([split]) + "\n", encoding="utf-8")
        data = config.data.model_copy(update={"splits": (folder / _SPLIT).absolute(), "fold": 0})
        return config.model_copy(update={"data": data})

    def _warn_of_unknown(self, request: Mapping[str, Any]) -> None:
        """Not refused: other apps of MONAI Label have options that clients send to any."""
        unknown = request.keys() - self.config().keys() - _OF_MONAI_LABEL
        if unknown:
            _logger.warning(
                "%s: there is no such option here, so it is passed over; there are %s",
                ", ".join(sorted(unknown)),
                ", ".join(self.config()),
            )

    def _delete_old_runs(self) -> None:
        """All but the last few, finished or not: each has a checkpoint and copies of labels."""
        runs = sorted(path for path in self._folder.glob("run-*") if path.is_dir())
        for run in runs[: -_RUNS_KEPT + 1]:
            shutil.rmtree(run)

    def _write_stats(self, stats: TrainingStats) -> None:
        with replace_when_written(self._folder / _STATS) as temporary:
            temporary.write_text(json.dumps(asdict(stats)) + "\n", encoding="utf-8")


def extend_split(
    before: Mapping[str, Sequence[str]], names: Sequence[str], fraction: float, seed: int
) -> dict[str, list[str]]:
    """Which labels are learnt and which are only looked at, as nnU-Net writes folds.

    Args:
        before: of the training before this one.
        names: of all labels that there are now.
        fraction: share of them to look at only, rounded.
        seed: decides which of the new ones.

    Returns:
        ``{"train": […], "val": […]}``: a label that was learnt is never among those looked at.
    """
    count = min(round(len(names) * fraction), len(names) - 1)  # one is left to learn
    val = [name for name in names if name in before["val"]][:count]
    new = sorted(set(names) - {*before["train"], *before["val"]})
    random.Random(seed).shuffle(new)
    val += new[: max(0, count - len(val))]
    return {"train": sorted(set(names) - set(val)), "val": sorted(val)}


def _after(stats: TrainingStats, end: EpochEnd) -> TrainingStats:
    dice = end.dice and [round(value, 4) for value in end.dice]
    return replace(
        stats,
        epoch=end.epochs_done,
        best_metric=round(end.best_dice or 0.0, 4),
        train={"loss": round(end.loss, 4)},
        val={"dice": dice} if dice else stats.val,
    )


def _line(end: EpochEnd) -> str:
    line = f"epoch {end.epochs_done}/{end.epochs}: loss {end.loss:.3f}"
    if end.dice is None:
        return line
    return f"{line}, Dice after 0, 1, … clicks {' '.join(f'{dice:.3f}' for dice in end.dice)}"
