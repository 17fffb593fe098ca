"""voxclick's app for MONAI Label: `monailabel start_server --app apps/monailabel --studies …`.

docs/how-to/3d-slicer.md says how to install and use it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings as server_settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import strtobool

import voxclick
from lib.active_learning import (
    AnyImage,
    FindUncertainty,
    MostUncertain,
    Uncertainty,
)
from lib.batch import BatchSegmentation
from lib.clicks import ClickRecorder, client_of
from lib.infer import RequestedImage, SegmentationTask, Sessions
from lib.labels import FINAL, label_in_studies
from lib.models import ALONE, find_models, other_labels
from lib.scoring import Masks, tag_of
from lib.settings import AppSettings
from lib.studies import Studies
from lib.training import Training
from voxclick.clicks import BACKGROUND
from voxclick.datasets.nnunet import image_files, stem
from voxclick.errors import ModelFileError, NotEnoughMemoryError, UsageError, VoxclickError
from voxclick.hardware import saying_when_memory_is_full
from voxclick.model_files import resolve_device

_logger = logging.getLogger(__name__)

_REMOTE = ("http://", "https://")
"""How the address of studies on another server begins; other studies are a folder."""


@contextmanager
def _answered() -> Iterator[None]:
    """What is wrong reaches the client in a sentence; MONAI Label hides what it does not know."""
    try:
        with saying_when_memory_is_full():
            yield
    except (ModelFileError, NotEnoughMemoryError) as error:
        raise HTTPException(500, str(error)) from error
    except VoxclickError as error:
        raise HTTPException(400, str(error)) from error
    except OSError as error:
        raise HTTPException(500, f"a file cannot be read or written: {error}") from error


class VoxclickApp(MONAILabelApp):
    """Interactive and automatic segmentation by voxclick's sessions, training and scoring.

    Args:
        app_dir: this folder; models lie in its folder ``model``.
        studies: folder of the images, or the address of a DICOMweb server.
        conf: what `AppSettings` says.

    Raises:
        UsageError: a setting that is wrong, or a model that is not there.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._settings = AppSettings.of_conf(conf or {})
        resolve_device(self._settings.device)  # said now, not when somebody needs it
        self._models = find_models(self._settings, Path(app_dir) / "model")
        is_remote = studies.startswith(_REMOTE)
        records = Path(app_dir) / "model" / "records" if is_remote else Path(studies) / "labels"
        clicks = self._settings.clicks or records / "clicks"
        self._recorder = ClickRecorder(clicks)
        self._session_recorder = ClickRecorder(clicks / "sessions")
        if self._settings.clicks is not None:
            clicks.mkdir(parents=True, exist_ok=True)
        for served in self._models.values():
            if served.problem() is None:
                files = ", ".join(map(str, served.files))
                _logger.info("serving %s on %s: %s", served.name, self._settings.device, files)
        self._open_sessions = Sessions(self._settings)
        self._uncertainty = Uncertainty(records / "uncertainty", self._open_sessions)
        self._scores = records / "scores"
        super().__init__(
            app_dir,
            studies,
            conf,
            name="voxclick",
            description="Segments volumes by clicks, and only where a click changes something",
            version=voxclick.__version__,
        )
        self._auto_update_scoring = self._settings.auto_scoring

    def init_datastore(self) -> Datastore:
        if self.studies.startswith(_REMOTE):
            return super().init_datastore()
        return Studies(
            self.studies,
            extensions=server_settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=server_settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=server_settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def datastore(self) -> Datastore:
        """The studies, with what other processes have changed there."""
        datastore = super().datastore()
        if isinstance(datastore, Studies):
            datastore.reload()
        return datastore

    def init_infers(self) -> dict[str, InferTask]:
        tasks: dict[str, InferTask] = {}
        for name, served in self._models.items():
            for listed_as, interactive in ((name, True), (f"{name}{ALONE}", False)):
                tasks[listed_as] = SegmentationTask(
                    served, self._models, self._open_sessions, interactive=interactive
                )
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        return {
            name: Training(served, self._settings, self._models)
            for name, served in self._models.items()
        }

    def init_strategies(self) -> dict[str, Strategy]:
        seconds = self._settings.uncertainty_seconds
        return {
            "most_uncertain": MostUncertain(
                self._models, self._uncertainty, self._open_sessions, seconds
            ),
            "random": AnyImage(),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {
            "masks": Masks(self._models, self._scores),
            "uncertainty": FindUncertainty(self._models, self._uncertainty),
        }

    def init_batch_infer(self) -> BatchSegmentation:
        return BatchSegmentation(self._models)

    def info(self) -> dict[str, Any]:
        """As MONAI Label has it, in an order that 3D Slicer's module understands.

        It numbers the segments that it saves by their place among the labels, so background comes
        last; and of all trainings it shows the first, so that is the latest one.
        """
        self.datastore()  # MONAI Label counts its labels
        info = super().info()
        labels = [label for label in info["labels"] if label != BACKGROUND]
        trainings = {name: stats for name, stats in info["train_stats"].items() if stats}
        latest = sorted(trainings, key=lambda name: trainings[name]["start_ts"], reverse=True)
        readable = {name for name, served in self._models.items() if served.problem() is None}
        return info | {
            "labels": [*labels, BACKGROUND],
            "trainers": {n: trainer for n, trainer in info["trainers"].items() if n in readable},
            "train_stats": {name: trainings[name] for name in latest},
        }

    def infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """Segment an image; see `SegmentationTask`.

        Unlike the method that it replaces, it takes an image only by its name in the studies, by a
        session, or as an upload: not any path of the server.

        Raises:
            HTTPException: 404 for a model or an image that is not there, 400 for what is wrong
                with a request, 500 for a model that cannot be loaded.
        """
        datastore = datastore or self.datastore()
        task = self._infers.get(str(request.get("model")))
        if not isinstance(task, SegmentationTask):
            raise _not_there("model", request.get("model"), self._infers)
        image = self._image(request, datastore)
        recorder = self._recorder if image.in_studies else self._session_recorder
        with _answered():
            tag = tag_of(request, "label_tag", DefaultLabelTag.ORIGINAL)
            save = _is_true(request, "save_label") and image.in_studies
            asked = {**request, "image": image}
            file, params = self._open_sessions.with_room(lambda: task(asked, recorder))
            label = file
            if save:
                info = {"model": request["model"], "params": params}
                try:
                    label = datastore.save_label(str(image.name), file, tag, info)
                except BaseException:
                    Path(file).unlink()
                    raise
        return {"label": label, "tag": tag, "file": file, "params": params}

    def batch_infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        with self._as_task():
            return super().batch_infer(request, datastore)

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._as_task():
            return super().train(request)

    def scoring(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        with self._as_task():
            return super().scoring(request, datastore)

    @contextmanager
    def _as_task(self) -> Iterator[None]:
        """In a process of its own, it lets the server go first, which people wait for."""
        if not self._server_mode and hasattr(os, "nice"):
            os.nice(10)
        with _answered():
            yield

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image to annotate next, ``{}`` if there is none.

        Raises:
            HTTPException: 404 for a strategy that is not there, 400 for what is wrong with a
                request.
        """
        name = request.get("strategy") or "random"
        strategy = self._strategies.get(name)
        if strategy is None:
            raise _not_there("strategy", name, self._strategies)
        with _answered():
            client = client_of(request)
            sample = strategy(request, self.datastore())
        if not sample:
            return {}
        self._recorder.open(sample["id"], client)
        return {**sample, "path": self.datastore().get_image_uri(sample["id"])}

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, str]:
        """Look at a label when it is saved: whoever saved it can mend it better now than later.

        Returns:
            ``warning``, why no model can learn it, to be told to the client; ``{}`` if one can.
        """
        datastore = self.datastore()
        path = Path(datastore.get_label_uri(label_id, FINAL))
        if not path.is_file():  # saved under another tag
            return {}
        _put_aside_older(path)
        problem: str | None = None
        for served in self._models.values():
            try:
                others = other_labels(served, self._models)
                label_in_studies(datastore, image_id, FINAL, served.settings().labels, others)
            except VoxclickError as error:
                problem = problem or str(error)
            else:
                return {}
        _logger.warning("%s", problem)
        return {"warning": f"saved, but no model can learn it: {problem}"}

    def _image(self, request: Mapping[str, Any], datastore: Datastore) -> RequestedImage:
        """The image that a request asks for.

        Whatever stands in the request, a client may have put there: also what MONAI Label itself
        puts there for sessions and uploads.

        Raises:
            HTTPException: there is no such image.
        """
        if "session" in request:
            return self._image_of_session(request["session"])
        asked = request.get("image")
        if isinstance(asked, str) and asked in datastore.list_images():
            return RequestedImage(Path(datastore.get_image_uri(asked)), asked, in_studies=True)
        if isinstance(asked, str) and _is_upload(Path(asked)):
            return RequestedImage(Path(asked), None, in_studies=False)
        raise HTTPException(
            404,
            f"there is no image {asked!r} in the studies; GET /datastore/?output=all lists them",
        )

    def _image_of_session(self, told: object) -> RequestedImage:
        """The image of one of MONAI Label's sessions, found by its name alone."""
        name = str(told.get("name")) if isinstance(told, dict) else ""
        session = None
        if self.sessions() is not None and re.fullmatch(r"[\w-]+", name):
            session = self.sessions().get_session(name)
        if session is None:
            raise HTTPException(404, "there is no such session; upload the image again")
        return RequestedImage(Path(session.image), name, in_studies=False)


def _put_aside_older(label: Path) -> None:
    """A label of the same image in another format is not the image's label any more.

    MONAI Label leaves it where it is, and whoever reads the folder takes one of the two.
    """
    for other in image_files(label.parent):
        if other != label and stem(other) == stem(label):
            other.replace(other.with_name(f"{other.name}.replaced"))


def _not_there(what: str, name: object, names: Iterable[str]) -> HTTPException:
    return HTTPException(404, f"there is no {what} {name!r}; there are {', '.join(names)}")


def _is_upload(path: Path) -> bool:
    """Whether this is a file that MONAI Label has just made for an image that was sent along."""
    return (
        path.parent == Path(tempfile.gettempdir())
        and re.fullmatch(r"tmp[a-z0-9_]{8}(\..*)?", path.name) is not None
        and not path.is_symlink()
        and path.is_file()
        and (not hasattr(os, "getuid") or path.stat().st_uid == os.getuid())
    )


def _is_true(request: Mapping[str, Any], key: str) -> bool:
    try:
        return bool(strtobool(request.get(key, False)))
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{key} says {request[key]!r}; expected true or false") from error
