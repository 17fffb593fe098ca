"""Which image to annotate next."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from lib.clicks import client_of
from lib.infer import Sessions, channel_files
from lib.models import FileStamp, ServedModel, asked_model, stamp_of
from voxclick import InteractiveSession
from voxclick.errors import NotEnoughMemoryError, VoxclickError
from voxclick.files import replace_when_written

_logger = logging.getLogger(__name__)

_LATER_CHANNEL = re.compile(r"(?P<name>.+)_(?!0000)\d{4}")


def images_to_annotate(datastore: Datastore) -> list[str]:
    """The images without a final label, sorted; of several channels, the first one."""
    all_images = set(without_later_channels(datastore.list_images()))
    return sorted(image for image in datastore.get_unlabeled_images() if image in all_images)


def without_later_channels(images: Iterable[str]) -> list[str]:
    """Images without ``NAME_0001``, … where there is a ``NAME_0000``."""
    known = dict.fromkeys(images)

    def is_later_channel(image: str) -> bool:
        match = _LATER_CHANNEL.fullmatch(image)
        return match is not None and f"{match['name']}_0000" in known

    return [image for image in known if not is_later_channel(image)]


class Uncertainty:
    """How uncertain models are of images without clicks, remembered in a file for each model.

    Several processes may share the files. What was found with another model or another image
    under the name counts no more.

    Args:
        folder: for the files.
        sessions: that look at images.
    """

    def __init__(self, folder: Path, sessions: Sessions) -> None:
        self._folder = folder
        self._sessions = sessions
        self._entries: dict[Path, tuple[FileStamp, dict[str, dict[str, Any]]]] = {}

    def known(self, served: ServedModel, name: str, image: Path) -> float | None:
        """What is remembered of an image.

        Args:
            served: the model.
            name: of the image.
            image: its file.
        """
        entry = self._read(self._path(served)).get(name)
        if entry is None or entry["of"] != self._version(served, image):
            return None
        return entry["uncertainty"]

    def find(self, served: ServedModel, name: str, image: Path) -> tuple[float, InteractiveSession]:
        """Look at one image, and remember it.

        Args:
            served: the model.
            name: of the image.
            image: its file.

        Returns:
            The uncertainty, and the session that has found it.

        Raises:
            VoxclickError: the image or the model cannot be read.
            NotEnoughMemoryError: also without the sessions that are not in use.
        """
        version = self._version(served, image)
        uncertainty, session = self._sessions.with_room(lambda: self._look_at(served, image))
        path = self._path(served)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            entry = {"uncertainty": uncertainty, "of": version}
            entries = self._read(path) | {name: entry}
            with replace_when_written(path) as temporary:
                temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        return uncertainty, session

    def _look_at(self, served: ServedModel, image: Path) -> tuple[float, InteractiveSession]:
        session = self._sessions.open(served, image)
        return session.uncertainty(), session

    def _version(self, served: ServedModel, image: Path) -> str:
        files = [*served.files, *channel_files(image, served.settings().channels)]
        return blake2b(repr(stamp_of(files)).encode(), digest_size=8).hexdigest()

    def _path(self, served: ServedModel) -> Path:
        return self._folder / f"{served.name}.json"

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        """What a file holds; read again only where it has changed, as all images ask for it."""
        if not path.is_file():
            return {}
        stamp = stamp_of([path])
        if path not in self._entries or self._entries[path][0] != stamp:
            self._entries[path] = (stamp, json.loads(path.read_text(encoding="utf-8")))
        return self._entries[path][1]


class MostUncertain(Strategy):
    """The image that a model is least sure of, of those without a final label.

    Images that nobody has looked at are looked at first, as long as the request may take; the
    scoring method `uncertainty` looks at all of them beforehand.

    Args:
        models: that are served, by name.
        uncertainty: of the images.
        sessions: where that of the image is kept which a client is given.
        seconds: after which no further image is looked at.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        uncertainty: Uncertainty,
        sessions: Sessions,
        seconds: float,
    ) -> None:
        super().__init__("the image that the model is least sure of")
        self._models = models
        self._uncertainty = uncertainty
        self._sessions = sessions
        self._seconds = seconds

    def info(self) -> dict[str, Any]:
        return super().info() | {"config": {"model": list(self._models)}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image.

        Args:
            request: ``model`` and ``client_id``.
            datastore: with the images.

        Returns:
            ``id``, ``weight`` (its uncertainty; None where no image could be looked at in time)
            and ``unknown`` (how many images were not looked at); None without an image.

        Raises:
            VoxclickError: a model that is not there or cannot be read.
        """
        served = asked_model(request, self._models)
        served.load()
        images = {
            name: Path(datastore.get_image_uri(name)) for name in images_to_annotate(datastore)
        }
        found: dict[str, float] = {}
        unknown: list[str] = []
        foremost: tuple[str, InteractiveSession] | None = None
        lacking: NotEnoughMemoryError | None = None
        end = time.monotonic() + self._seconds
        for name, path in images.items():
            try:
                value = self._uncertainty.known(served, name, path)
                if value is None and time.monotonic() < end:
                    value, session = self._uncertainty.find(served, name, path)
                    if value > max(found.values(), default=-1.0):
                        foremost = (name, session)
            except VoxclickError as error:
                _logger.warning("%s is passed over: %s", name, error)
                lacking = error if isinstance(error, NotEnoughMemoryError) else lacking
                continue
            if value is None:
                unknown.append(name)
            else:
                found[name] = value
        if lacking is not None and not (found or unknown):
            raise lacking  # otherwise nothing would seem to be left to annotate
        if not found:
            return {"id": unknown[0], "weight": None, "unknown": len(unknown)} if unknown else None
        best = max(sorted(found), key=found.__getitem__)
        if foremost is not None and foremost[0] == best:
            # it has the first prediction that the client will ask for
            client = client_of(request)
            with self._sessions.lease(served, images[best], client, opened=foremost[1]):
                pass
        return {"id": best, "weight": found[best], "unknown": len(unknown)}


class AnyImage(Strategy):
    """Any image without a final label, those that nobody was given yet before the others."""

    def __init__(self) -> None:
        super().__init__("any image, those that nobody was given yet before the others")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        images = images_to_annotate(datastore)
        fresh = [image for image in images if not datastore.get_image_info(image).get("strategy")]
        chosen = fresh or images
        return {"id": random.choice(chosen)} if chosen else None


class FindUncertainty(ScoringMethod):
    """Looks at all images without a final label, so that `MostUncertain` knows them.

    Args:
        models: that are served, by name.
        uncertainty: of the images.
    """

    def __init__(self, models: Mapping[str, ServedModel], uncertainty: Uncertainty) -> None:
        super().__init__("voxclick: how uncertain the model is of the images without a label")
        self._models = models
        self._uncertainty = uncertainty

    def info(self) -> dict[str, Any]:
        return super().info() | {"config": {"model": list(self._models)}}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, float]:
        """Look at those images that are not known yet.

        Args:
            request: ``model``.
            datastore: with the images.

        Returns:
            Uncertainty by image, of all without a final label that can be read.
        """
        served = asked_model(request, self._models)
        served.load()
        lacking: NotEnoughMemoryError | None = None
        found: dict[str, float] = {}
        for name in images_to_annotate(datastore):
            path = Path(datastore.get_image_uri(name))
            try:
                value = self._uncertainty.known(served, name, path)
                if value is None:
                    value, _ = self._uncertainty.find(served, name, path)
            except VoxclickError as error:
                _logger.warning("%s is passed over: %s", name, error)
                lacking = error if isinstance(error, NotEnoughMemoryError) else lacking
                continue
            found[name] = value
            _logger.info("%s: %.4f", name, value)
        if lacking is not None and not found:
            raise lacking
        return found
