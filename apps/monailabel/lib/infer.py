"""Inference: requests are answered by sessions that stay open between them."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.clicks import ClickRecorder, RequestedClicks, clicks_of_request, client_of
from lib.models import LoadedModel, ServedModel, other_labels, stamp_of
from lib.settings import AppSettings
from voxclick import Click, InteractiveSession, LabelMap, read_volume, write_label_map
from voxclick.datasets.nnunet import FIRST_CHANNEL, stem
from voxclick.errors import (
    GeometryError,
    NotEnoughMemoryError,
    UnsupportedImageError,
    UsageError,
)
from voxclick.hardware import saying_when_memory_is_full
from voxclick.io import IMAGE_SUFFIXES, files_of
from voxclick.session import SessionPool

_logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

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
        self._versions: dict[str, Hashable] = {}

    def lease(
        self,
        served: ServedModel,
        image: Path,
        client: str | None,
        radius_mm: float = 0.0,
        opened: InteractiveSession | None = None,
    ) -> AbstractContextManager[InteractiveSession]:
        """A session for the time of a ``with`` block, which stays open; see `SessionPool.lease`.

        Args:
            served: the model.
            image: file of the image, of several channels the first.
            client: who asks.
            radius_mm: how far from a click the mask may change; 0 for no limit.
            opened: taken where there is none yet: what `open` gave for the same image.

        Raises:
            ModelFileError: the model cannot be loaded.
            GeometryError: channels that are missing, or on different grids.
            UnsupportedImageError: the image cannot be read.
        """
        loaded = served.load()
        if self._versions.setdefault(served.name, loaded.version) != loaded.version:
            # sessions of the model as it was would keep its weights
            self._pool.close(lambda key: isinstance(key, tuple) and key[0] == served.name)
            self._versions[served.name] = loaded.version
        files = channel_files(image, loaded.model.settings.channels)
        version: Hashable = (loaded.version, stamp_of(f for path in files for f in files_of(path)))
        key = (served.name, image, client, radius_mm)
        return self._pool.lease(
            key, version, lambda: opened or self._open(loaded, files, radius_mm)
        )

    def open(self, served: ServedModel, image: Path, radius_mm: float = 0.0) -> InteractiveSession:
        """A session for once, which takes no other's place.

        Raises:
            VoxclickError: as for `lease`.
        """
        loaded = served.load()
        files = channel_files(image, loaded.model.settings.channels)
        return self._open(loaded, files, radius_mm)

    def with_room(self, work: Callable[[], Answer]) -> Answer:
        """Do some work; where memory is full, once more without the sessions that are not in use.

        Raises:
            NotEnoughMemoryError: that does not suffice either.
        """
        try:
            with saying_when_memory_is_full():
                return work()
        except NotEnoughMemoryError:
            self._pool.close()
        with saying_when_memory_is_full():
            return work()

    def _open(
        self, loaded: LoadedModel, files: Sequence[Path], radius_mm: float
    ) -> InteractiveSession:
        return InteractiveSession(
            loaded.model,
            [read_volume(path) for path in files],
            loaded.inference,
            self._settings.cache,
            radius_mm=radius_mm or None,
            skip_air=self._settings.skip_air and loaded.model.settings.air_below is not None,
        )


@dataclass(frozen=True)
class RequestedImage:
    """Attributes:
    path: of its file.
    name: in the studies, or of MONAI Label's session; None for one that was sent along.
    in_studies: whether labels can be saved for it.
    """

    path: Path
    name: str | None
    in_studies: bool


class SegmentationTask(InferTask):
    """One model as MONAI Label shows it: interactive, or on its own.

    Args:
        served: the model.
        models: all that are served; clicks for labels that only others know are left out.
        sessions: that answer.
        interactive: whether it takes clicks.
    """

    def __init__(
        self,
        served: ServedModel,
        models: Mapping[str, ServedModel],
        sessions: Sessions,
        *,
        interactive: bool,
    ) -> None:
        kind = InferType.DEEPEDIT if interactive else InferType.SEGMENTATION
        super().__init__(kind, None, 3, "", {"radius_mm": 0.0} if interactive else {})
        self._served = served
        self._models = models
        self._sessions = sessions
        self._interactive = interactive

    def info(self) -> dict[str, Any]:
        labels = self._served.settings().labels
        what = "by clicks" if self._interactive else "without clicks"
        further = ", trained further on saved labels" if self._served.is_trained_further else ""
        return {
            "type": self.type,
            "labels": [*labels[1:], labels[0]],
            "dimension": self.dimension,
            "description": f"voxclick: {self._served.name} {what}{further}",
            "config": self.config(),
        }

    def is_valid(self) -> bool:
        """Whether the model can be read and is fit for this."""
        if self._served.problem() is not None:
            return False
        return self._served.settings().guidance is not None or not self._interactive

    def get_path(self, validate: bool = True) -> str | None:
        """Of what was trained further, which clients may replace or delete; never of its source."""
        trained = self._served.trained
        if validate and not trained.is_file():
            return None
        trained.parent.mkdir(parents=True, exist_ok=True)
        return str(trained)

    def __call__(
        self, request: Mapping[str, Any], recorder: ClickRecorder | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Answer a request.

        Args:
            request: with ``image`` (a `RequestedImage`), ``client_id``, clicks in voxels of the
                image (see `clicks_of_request`), ``result_extension`` and ``radius_mm``.
            recorder: of the clicks.

        Returns:
            A file with the mask as uint8 on the image's grid, which the caller deletes, and the
            ``params`` of the answer.

        Raises:
            VoxclickError: a click, image, model or setting that is wrong.
        """
        begin = time.perf_counter()
        image: RequestedImage = request["image"]
        client = client_of(request)
        radius_mm = _radius(request.get("radius_mm", 0.0))
        suffix = _result_suffix(request.get("result_extension"), image.path)
        asked = self._clicks(request)
        warning = None
        with self._session(image, client, radius_mm) as session:
            session.set_clicks(asked.clicks)
            if self._interactive and recorder is not None and image.name is not None:
                warning = _record(recorder, image.name, client, asked.clicks)
            opened = time.perf_counter()
            prediction = session.predict()
        answered = time.perf_counter()
        label_map = prediction.label_map
        if asked.single_label is not None:
            label_map = _only(label_map, asked.single_label)
        places = centroids(label_map)
        found = time.perf_counter()
        path = _write(label_map, suffix)
        end = time.perf_counter()
        seconds = {
            "pre": opened - begin,
            "infer": answered - opened,
            "invert": 0.0,  # box by box, a part of the prediction
            "post": found - answered,
            "write": end - found,
            "total": end - begin,
        }
        params: dict[str, Any] = {
            "label_names": {name: value for value, name in enumerate(label_map.labels)},
            "latencies": {step: round(took, 4) for step, took in seconds.items()},
            "centroids": places,
            "windows": prediction.windows,
        }
        params |= {"ignored": list(asked.ignored)} if asked.ignored else {}
        params |= {"warning": warning} if warning else {}
        return str(path), params

    def _clicks(self, request: Mapping[str, Any]) -> RequestedClicks:
        if not self._interactive:
            return RequestedClicks(())
        others = other_labels(self._served, self._models)
        return clicks_of_request(request, self._served.settings().labels, others)

    def _session(
        self, image: RequestedImage, client: str | None, radius_mm: float
    ) -> AbstractContextManager[InteractiveSession]:
        if image.name is None:  # nobody can ask for it again
            return nullcontext(self._sessions.open(self._served, image.path, radius_mm))
        return self._sessions.lease(self._served, image.path, client, radius_mm)


def _record(
    recorder: ClickRecorder, image: str, client: str | None, clicks: Sequence[Click]
) -> str | None:
    """Log clicks; returns what is wrong: a log that cannot be written stops nobody's work."""
    try:
        recorder.record(image, client, clicks)
    except OSError as error:
        warning = f"the clicks are not logged: {error}"
        _logger.error("%s", warning)
        return warning
    return None


def centroids(label_map: LabelMap) -> dict[str, list[float]]:
    """The mean voxel (i, j, k) of every label that is there, in voxels of the image."""
    # on large masks many times faster than np.nonzero of the array itself
    there = np.flatnonzero(label_map.voxels != 0)
    values = label_map.voxels.ravel()[there]
    where = np.unravel_index(there, label_map.shape)
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
    except ValueError:
        radius_mm = np.nan
    if not 0 <= radius_mm < np.inf:
        raise UsageError(f"radius_mm says {asked!r}; expected a number of mm, 0 for none")
    return radius_mm


def channel_files(image: Path, channels: Sequence[str]) -> list[Path]:
    """The files of all channels, named as nnU-Net does: ``NAME_0000``, ``NAME_0001``, …"""
    if len(channels) == 1:
        return [image]
    name = stem(image)
    suffix = image.name[len(name) :]
    if not name.endswith(FIRST_CHANNEL):
        raise UnsupportedImageError(
            f"{image}: the model takes {len(channels)} images ({', '.join(channels)}) in files "
            f"NAME{FIRST_CHANNEL}, NAME_0001, …; ask for the one that ends in {FIRST_CHANNEL}"
        )
    name = name.removesuffix(FIRST_CHANNEL)
    files = [image.with_name(f"{name}_{n:04d}{suffix}") for n in range(len(channels))]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise GeometryError(
            f"{image}: the model takes {len(channels)} images ({', '.join(channels)}), but "
            f"{', '.join(missing)} is missing beside it"
        )
    return files
