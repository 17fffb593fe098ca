"""Inference: requests are answered by sessions that stay open between them."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.clicks import ClickRecorder, RequestedClicks, clicks_of_request
from lib.models import LoadedModel, ServedModel, stamp_of
from lib.settings import AppSettings
from voxclick import InteractiveSession, LabelMap, Volume, read_volume, write_label_map
from voxclick.errors import GeometryError, UnsupportedImageError, UsageError, VoxclickError
from voxclick.io import IMAGE_SUFFIXES, files_of
from voxclick.session import SessionPool

_logger = logging.getLogger(__name__)

_FIRST_CHANNEL = "_0000"
_DEFAULT_SUFFIX = ".nii.gz"

_RESULT_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".mhd", ".nhdr"))
"""An answer is one file."""


class Sessions:
    """The sessions behind all requests: one for each model, image and client.

    Args:
        settings: of the app.
    """

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._pool = SessionPool(int(settings.sessions_gib * 2**30))

    def lease(
        self, served: ServedModel, image: Path, client: str | None, radius_mm: float = 0.0
    ) -> AbstractContextManager[InteractiveSession]:
        """A session for the time of a ``with`` block; see `SessionPool.lease`.

        Args:
            served: the model.
            image: file of the image, of several channels the first.
            client: who asks.
            radius_mm: how far from a click the mask may change; 0 for no limit.

        Raises:
            ModelFileError: the model cannot be loaded.
            GeometryError: channels that are missing, or on different grids.
            UnsupportedImageError: the image cannot be read.
        """
        loaded = served.load()
        files = channel_files(image, loaded.model.settings.channels)
        version: Hashable = (loaded.version, stamp_of(f for path in files for f in files_of(path)))

        def open_session() -> InteractiveSession:
            return self._open(loaded, [read_volume(path) for path in files], radius_mm)

        return self._pool.lease((served.name, image, client, radius_mm), version, open_session)

    def _open(
        self, loaded: LoadedModel, volumes: Sequence[Volume], radius_mm: float
    ) -> InteractiveSession:
        return InteractiveSession(
            loaded.model,
            volumes,
            loaded.inference,
            self._settings.cache,
            radius_mm=radius_mm or None,
            skip_air=self._settings.skip_air and loaded.model.settings.air_below is not None,
        )


@dataclass(frozen=True, eq=False)
class Answer:
    """Attributes:
    label_map: on the image's grid.
    seconds: by step, as MONAI Label calls them.
    windows: how many ran through the network.
    """

    label_map: LabelMap
    seconds: dict[str, float]
    windows: int


class SegmentationTask(InferTask):
    """One model as MONAI Label shows it: interactive, or on its own.

    Args:
        served: the model.
        sessions: that answer.
        recorder: of clicks; None for segmentation without any.
    """

    def __init__(
        self, served: ServedModel, sessions: Sessions, recorder: ClickRecorder | None
    ) -> None:
        kind = InferType.SEGMENTATION if recorder is None else InferType.DEEPEDIT
        super().__init__(kind, None, 3, "", {} if recorder is None else {"radius_mm": 0.0})
        self._served = served
        self._sessions = sessions
        self._recorder = recorder

    def info(self) -> dict[str, Any]:
        labels = self._served.settings().labels
        what = "without clicks" if self._recorder is None else "by clicks"
        further = ", trained further on saved labels" if self._served.is_trained_further else ""
        return {
            "type": self.type,
            # background last: 3D Slicer numbers the segments that it saves by their place
            "labels": [*labels[1:], labels[0]],
            "dimension": self.dimension,
            "description": f"voxclick: {self._served.name} {what}{further}",
            "config": self.config(),
        }

    def is_valid(self) -> bool:
        """Whether the model is there, and fit for this; what is wrong with it goes into the log."""
        try:
            settings = self._served.settings()
        except VoxclickError as error:
            _logger.error("model %s: %s", self._served.name, error)
            return False
        return self._recorder is None or settings.guidance is not None

    def get_path(self, validate: bool = True) -> str | None:
        """Of what was trained further, which clients may replace or delete; never of its source."""
        trained = self._served.trained
        if validate and not trained.is_file():
            return None
        trained.parent.mkdir(parents=True, exist_ok=True)
        return str(trained)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: with ``image`` (a file), ``image_id`` (its name), ``client_id``, clicks in
                voxels of the image (see `clicks_of_request`), ``result_extension`` and
                ``radius_mm``.

        Returns:
            A file with the mask as uint8 on the image's grid, which the caller deletes, and the
            ``params`` of the answer.

        Raises:
            VoxclickError: a click, image, model or setting that is wrong.
        """
        begin = time.perf_counter()
        image = Path(request["image"])
        suffix = _result_suffix(request.get("result_extension"), image)
        labels = self._served.settings().labels
        asked = RequestedClicks(())
        if self._recorder is not None:
            asked = clicks_of_request(request, labels)
        answer = self._answer(image, asked, request)
        label_map = answer.label_map
        if asked.single_label is not None:
            label_map = _only(label_map, asked.single_label)
        answered = time.perf_counter()
        places = centroids(label_map)
        found = time.perf_counter()
        path = _write(label_map, suffix)
        end = time.perf_counter()
        seconds = answer.seconds | {
            "post": found - answered,
            "write": end - found,
            "total": end - begin,
        }
        params = {
            "label_names": {name: value for value, name in enumerate(label_map.labels)},
            "latencies": {step: round(took, 4) for step, took in seconds.items()},
            "centroids": places,
            "windows": answer.windows,
        }
        return str(path), params

    def _answer(self, image: Path, asked: RequestedClicks, request: Mapping[str, Any]) -> Answer:
        begin = time.perf_counter()
        client = request.get("client_id")
        radius_mm = _radius(request.get("radius_mm", 0.0))
        with self._sessions.lease(self._served, image, client, radius_mm) as session:
            session.set_clicks(asked.clicks)
            if self._recorder is not None:
                self._recorder.record(request["image_id"], client, asked.clicks)
            opened = time.perf_counter()
            prediction = session.predict()
            end = time.perf_counter()
        # the way back to the image's grid is part of the prediction, box by box
        seconds = {"pre": opened - begin, "infer": end - opened, "invert": 0.0}
        return Answer(prediction.label_map, seconds, prediction.windows)


def centroids(label_map: LabelMap) -> dict[str, list[float]]:
    """The mean voxel (i, j, k) of every label that is there, in voxels of the image."""
    where = np.nonzero(label_map.voxels)
    values = label_map.voxels[where]
    return {
        name: [round(float(along[values == value].mean()), 2) for along in where]
        for value, name in enumerate(label_map.labels)
        if value and (values == value).any()
    }


def _only(label_map: LabelMap, label: str) -> LabelMap:
    """A mask of one label alone, with the value 1."""
    voxels = label_map.mask(label).astype(np.uint8)
    return LabelMap(voxels, label_map.affine, labels=(label_map.labels[0], label))


def _write(label_map: LabelMap, suffix: str) -> Path:
    handle, name = tempfile.mkstemp(suffix=suffix, prefix="voxclick-")
    os.close(handle)
    try:
        write_label_map(label_map, name)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _result_suffix(asked: str | None, image: Path) -> str:
    """As the request says, else as the image has it."""
    if not asked:
        of_image = (suffix for suffix in _RESULT_SUFFIXES if image.name.lower().endswith(suffix))
        return next(of_image, _DEFAULT_SUFFIX)
    if asked not in _RESULT_SUFFIXES:
        raise UsageError(
            f"result_extension says {asked!r}; expected one of {', '.join(_RESULT_SUFFIXES)}"
        )
    return asked


def _radius(asked: object) -> float:
    try:
        radius_mm = float(str(asked or 0))
    except ValueError as error:
        raise UsageError(
            f"radius_mm says {asked!r}; expected a number of mm, 0 for none"
        ) from error
    if not 0 <= radius_mm < np.inf:
        raise UsageError(f"radius_mm says {asked!r}; expected a number of mm, 0 for none")
    return radius_mm


def channel_files(image: Path, channels: Sequence[str]) -> list[Path]:
    """The files of all channels, named as nnU-Net does: ``NAME_0000``, ``NAME_0001``, …"""
    if len(channels) == 1:
        return [image]
    suffix = next((s for s in IMAGE_SUFFIXES if image.name.lower().endswith(s)), None)
    name = "" if suffix is None else image.name[: -len(suffix)]
    if not name.endswith(_FIRST_CHANNEL):
        raise UnsupportedImageError(
            f"{image}: the model takes {len(channels)} images ({', '.join(channels)}) in files "
            f"NAME{_FIRST_CHANNEL}, NAME_0001, …; ask for the one that ends in {_FIRST_CHANNEL}"
        )
    name = name.removesuffix(_FIRST_CHANNEL)
    ending = image.name[len(name) + len(_FIRST_CHANNEL) :]
    files = [image.with_name(f"{name}_{n:04d}{ending}") for n in range(len(channels))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise GeometryError(
            f"{image}: the model takes {len(channels)} images ({', '.join(channels)}), but "
            f"{', '.join(missing)} is missing beside it"
        )
    return files
