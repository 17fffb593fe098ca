"""The models that the app serves: which there are, and what is loaded of them."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from lib.settings import AppSettings
from voxclick import load_ensemble
from voxclick.config import override_inference
from voxclick.errors import ModelFileError, UsageError, VoxclickError
from voxclick.files import replace_when_written
from voxclick.model_files import Model, ModelSettings, read_model_settings
from voxclick.runs import models_of
from voxclick.sliding_window import InferenceSettings
from voxclick.weights import PHANTOM_PET

_logger = logging.getLogger(__name__)

TRAINED = "trained"
"""The folder beside the models, with what was trained further from them."""

ALONE = "_auto"
"""Ends the name under which a model is listed once more, to segment without clicks."""

_SHIPPED = "phantom-pet"
_MODEL_FILE = "model.safetensors"
_SUFFIX = ".safetensors"

FileStamp: TypeAlias = tuple[tuple[str, int, int], ...]
"""Of files: path, size, and time of change in nanoseconds; another one where a file changed."""


def stamp_of(files: Iterable[Path]) -> FileStamp:
    """Raises:
    OSError: a file is not there.
    """
    stats = [(str(path), path.stat()) for path in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Attributes:
    model: on its device.
    inference: its way through volumes.
    version: another one for other weights or files.
    """

    model: Model
    inference: InferenceSettings
    version: Hashable


class ServedModel:
    """A model by name, as it is on disk at the time: a file that changed is loaded anew.

    Args:
        name: that clients know it by.
        source: a model file, or the folder of a run.
        trained: the file that training further leaves; where it exists, it is the model.
        settings: of the app.
    """

    def __init__(self, name: str, source: Path, trained: Path, settings: AppSettings) -> None:
        self.name = name
        self.source = source
        self.trained = trained
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._known: tuple[FileStamp, ModelSettings] | None = None
        self._fitting: tuple[FileStamp, bool] | None = None
        self._problem: str | None = None

    @property
    def is_trained_further(self) -> bool:
        """Whether what was trained further is there, and was trained from the source as it is.

        Raises:
            ModelFileError: the source is missing or damaged.
        """
        if not self.trained.is_file():
            return False
        beside = [path for path in (self.trained, self._origin) if path.is_file()]
        stamp = stamp_of([*self._source_files(), *beside])
        if self._fitting is None or self._fitting[0] != stamp:
            self._fitting = (stamp, self._fits())
        return self._fitting[1]

    @property
    def files(self) -> Sequence[Path]:
        """The files of the model as it is now: several for an ensemble.

        Raises:
            ModelFileError: the source is missing or damaged.
        """
        return [self.trained] if self.is_trained_further else self._source_files()

    def take(self, trained: Path) -> None:
        """Put a model that was trained from this one in its place.

        Args:
            trained: a model file, which is copied.
        """
        with replace_when_written(self._origin) as temporary:
            temporary.write_text(self._digest(), encoding="utf-8")
        with replace_when_written(self.trained) as temporary:
            shutil.copyfile(trained, temporary)

    @property
    def _origin(self) -> Path:
        """Says what the trained model was trained from."""
        return self.trained.with_name("source.blake2b")

    def _source_files(self) -> list[Path]:
        files = models_of(self.source)
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise ModelFileError(f"{missing[0]}: there is no such model file")
        return files

    def _fits(self) -> bool:
        """Another model under an old name must not be answered for by what the old one became."""
        ours = read_model_settings(self._source_files()[0])
        theirs = read_model_settings(self.trained)
        if (ours.labels, ours.channels) != (theirs.labels, theirs.channels):
            problem = f"it has other labels or channels ({theirs.labels}, {theirs.channels})"
        elif self._origin.is_file() and self._origin.read_text(encoding="utf-8") != self._digest():
            problem = "it was trained from another file"
        else:
            return True
        _logger.warning(
            "%s is not served: %s; %s is served as it is", self.trained, problem, self.source
        )
        return False

    def _digest(self) -> str:
        digest = blake2b(digest_size=16)
        for path in self._source_files():
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def settings(self) -> ModelSettings:
        """What the model file says; of an ensemble, its first one.

        Raises:
            ModelFileError: missing, damaged, or not ours.
        """
        first = self.files[0]
        stamp = stamp_of([first])
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, read_model_settings(first))
        return self._known[1]

    def problem(self) -> str | None:
        """Why the model cannot be read, as the log has it too; None if it can."""
        try:
            self.settings()
        except VoxclickError as error:
            problem = str(error)
        else:
            problem = None
        if problem is not None and problem != self._problem:
            _logger.error("the model %s is not served: %s", self.name, problem)
        self._problem = problem
        return problem

    def load(self) -> LoadedModel:
        """The model, from memory where its files have not changed.

        Raises:
            ModelFileError: missing, damaged, or not ours.
            UsageError: a device that is not there, or windows that the model does not take.
        """
        with self._lock:
            files = self.files
            version = stamp_of(files)
            if self._loaded is None or self._loaded.version != version:
                self._loaded = None  # room for the new one
                self._loaded = self._load(files, version)
            return self._loaded

    def _load(self, files: Sequence[Path], version: Hashable) -> LoadedModel:
        said = self._settings
        model = load_ensemble(files, said.device, said.backend, said.ensemble)
        inference = override_inference(model.settings, said.inference_overrides)
        model.check_inference(inference)
        return LoadedModel(model, inference, version)


def find_models(settings: AppSettings, folder: Path) -> dict[str, ServedModel]:
    """The models that the app shall serve, by name.

    Args:
        settings: of the app. Without names in them, all in the folder are served, and where there
            are none, the model that comes with voxclick.
        folder: ``NAME.safetensors``, or runs in folders ``NAME``.

    Raises:
        UsageError: a name that is not there, twice there, or no name.
    """
    sources = dict(_named(word, folder) for word in settings.models) if settings.models else None
    if sources is None:
        sources = _all_in(folder) or {_SHIPPED: PHANTOM_PET}
    elif len(sources) < len(settings.models):
        raise UsageError(
            f"--conf models {','.join(settings.models)}: two models would have one name; give one "
            "of them another with NAME=PATH"
        )
    alike = [name for name in sources if f"{name}{ALONE}" in sources]
    if alike:
        raise UsageError(
            f"--conf models: {alike[0]}{ALONE} is what the model {alike[0]} is called where it "
            "segments alone; give the other model another name with NAME=PATH"
        )
    return {
        name: ServedModel(name, source, folder / TRAINED / name / _MODEL_FILE, settings)
        for name, source in sources.items()
    }


def asked_model(request: Mapping[str, Any], models: Mapping[str, ServedModel]) -> ServedModel:
    """The model that a request names, or the first one that can be read.

    Raises:
        UsageError: there is no such model.
    """
    readable = (name for name, served in models.items() if served.problem() is None)
    name = request.get("model") or next(readable, next(iter(models)))
    if name not in models:
        raise UsageError(f"there is no model {name!r}; there are {', '.join(models)}")
    return models[name]


def other_labels(served: ServedModel, models: Mapping[str, ServedModel]) -> tuple[str, ...]:
    """Labels that the other models know and this one does not; of those that can be read."""
    known = served.settings().labels
    found: dict[str, None] = {}
    for other in models.values():
        if other.problem() is None:
            found |= dict.fromkeys(other.settings().labels)
    return tuple(name for name in found if name not in known)


def _named(word: str, folder: Path) -> tuple[str, Path]:
    """Name and source of one word of ``--conf models``."""
    name, separator, path = word.partition("=")
    if separator:
        source = Path(path)
    else:
        source = next(
            (place for place in (folder / f"{word}{_SUFFIX}", folder / word) if place.exists()),
            Path(word),
        )
        if word == _SHIPPED and not source.exists():
            return _SHIPPED, PHANTOM_PET
        name = source.resolve().parent.name if source.name == _MODEL_FILE else source.name
        name = name.removesuffix(_SUFFIX)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"--conf models {word}: {name!r} is no name; expected NAME=PATH")
    if not source.exists():
        raise UsageError(
            f"--conf models {word}: there is no such file or folder, and no {word}{_SUFFIX} in "
            f"{folder}"
        )
    return name, source


def _all_in(folder: Path) -> dict[str, Path]:
    files = {path.name.removesuffix(_SUFFIX): path for path in folder.glob(f"*{_SUFFIX}")}
    runs = [path.parent for path in folder.glob(f"*/{_MODEL_FILE}")]
    runs += [path.parent.parent for path in folder.glob(f"*/fold-0/{_MODEL_FILE}")]
    of_runs = {run.name: run for run in runs if run.name != TRAINED}
    return dict(sorted({**of_runs, **files}.items()))
