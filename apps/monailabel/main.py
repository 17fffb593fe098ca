"""voxclick's app for MONAI Label: `monailabel start_server --app apps/monailabel --studies …`.

docs/how-to/3d-slicer.md says how to install and use it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import strtobool

import voxclick
from lib.active_learning import AnyImage, FindUncertainty, MostUncertain, Uncertainty
from lib.clicks import ClickRecorder
from lib.infer import SegmentationTask, Sessions
from lib.labels import read_saved_label
from lib.models import ALONE, find_models, other_labels
from lib.scoring import Masks
from lib.settings import AppSettings
from lib.training import Training
from voxclick.config import load_config
from voxclick.errors import ModelFileError, VoxclickError

_logger = logging.getLogger(__name__)


@contextmanager
def _answered() -> Iterator[None]:
    """What is wrong reaches the client in a sentence; MONAI Label hides what it does not know."""
    try:
        yield
    except ModelFileError as error:
        raise HTTPException(500, str(error)) from error
    except VoxclickError as error:
        raise HTTPException(400, str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise HTTPException(500, f"there is not enough memory for this image: {error}") from error
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
        load_config(self._settings.train_config)  # said now, not when somebody trains
        self._models = find_models(self._settings, Path(app_dir) / "model")
        is_remote = studies.startswith(("http://", "https://"))
        records = Path(app_dir) / "model" / "records" if is_remote else Path(studies) / "labels"
        self._recorder = ClickRecorder(self._settings.clicks or records / "clicks")
        self._open_sessions = Sessions(self._settings)
        self._uncertainty = Uncertainty(records / "uncertainty", self._open_sessions)
        self._scores = records / "scores"
        for served in self._models.values():
            what = served.trained if served.is_trained_further else served.source
            _logger.info("model %s: %s", served.name, what)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="voxclick",
            description="Segments volumes by clicks, and only where a click changes something",
            version=voxclick.__version__,
        )
        self._auto_update_scoring = self._settings.auto_scoring

    def init_infers(self) -> dict[str, InferTask]:
        tasks: dict[str, InferTask] = {}
        for name, served in self._models.items():
            tasks[name] = SegmentationTask(served, self._open_sessions, self._recorder)
            tasks[f"{name}{ALONE}"] = SegmentationTask(served, self._open_sessions, None)
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        return {
            name: Training(served, self._settings, self._models)
            for name, served in self._models.items()
        }

    def init_strategies(self) -> dict[str, Strategy]:
        seconds = self._settings.uncertainty_seconds
        return {
            "most_uncertain": MostUncertain(self._models, self._uncertainty, seconds),
            "random": AnyImage(),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {
            "masks": Masks(self._models, self._scores),
            "uncertainty": FindUncertainty(self._models, self._uncertainty),
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
        if task is None:
            listed = ", ".join(self._infers)
            raise HTTPException(
                404, f"there is no model {request.get('model')!r}; there are {listed}"
            )
        name, path = self._image(request, datastore)
        with _answered():
            file, params = task({**request, "image": str(path), "image_id": name})
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL.value
        label = file
        if strtobool(request.get("save_label", False)) and name in datastore.list_images():
            info = {"model": request["model"], "params": params}
            label = datastore.save_label(name, file, tag, info)
        return {"label": label, "tag": tag, "file": file, "params": params}

    def batch_infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """As MONAI Label does it, which would divide the images among GPUs where there are none."""
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}
        return super().batch_infer(request, datastore)

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with _answered():
            return super().train(request)

    def scoring(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        with _answered():
            return super().scoring(request, datastore)

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image to annotate next, ``{}`` if there is none.

        Raises:
            HTTPException: 404 for a strategy that is not there, 400 for what is wrong with a
                request.
        """
        name = request.get("strategy") or "random"
        strategy = self._strategies.get(name)
        if strategy is None:
            listed = ", ".join(self._strategies)
            raise HTTPException(404, f"there is no strategy {name!r}; there are {listed}")
        with _answered():
            sample = strategy(request, self.datastore())
        if not sample:
            return {}
        self._recorder.open(sample["id"], request.get("client_id"))
        return {**sample, "path": self.datastore().get_image_uri(sample["id"])}

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, str]:
        """Look at a label when it is saved: whoever saved it can mend it better now than later.

        Returns:
            ``warning``, why no model can learn it, to be told to the client; ``{}`` if one can.
        """
        datastore, tag = self.datastore(), DefaultLabelTag.FINAL.value
        path = Path(datastore.get_label_uri(label_id, tag))
        if not path.is_file():  # saved under another tag
            return {}
        image = Path(datastore.get_image_uri(image_id))
        info = datastore.get_label_info(label_id, tag)
        problem: str | None = None
        for served in self._models.values():
            try:
                others = other_labels(served, self._models)
                read_saved_label(path, info, served.settings().labels, others, image)
            except VoxclickError as error:
                problem = problem or str(error)
            else:
                return {}
        _logger.warning("%s", problem)
        return {"warning": f"saved, but no model can learn it: {problem}"}

    def _image(self, request: Mapping[str, Any], datastore: Datastore) -> tuple[str, Path]:
        """Name and file of the image that a request asks for.

        Raises:
            HTTPException: there is no such image.
        """
        asked = str(request.get("image") or "")
        if asked in datastore.list_images():
            return asked, Path(datastore.get_image_uri(asked))
        path = Path(asked)
        of_session = isinstance(request.get("session"), dict) and request["session"].get("image")
        is_upload = path.parent == Path(tempfile.gettempdir()) and path.name.startswith("tmp")
        if path.is_file() and (is_upload or of_session == asked):
            return path.name.split(".")[0], path
        raise HTTPException(
            404,
            f"there is no image {asked!r} in the studies; GET /datastore/?output=all lists them",
        )
