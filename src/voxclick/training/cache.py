"""Preprocessed training volumes, kept so that no epoch reads or resamples a file twice.

A cached volume is found again by what went into it: the files (path, size, time of change), the
preprocessing settings, the labels, and the versions that did the work. When any of these changes,
its name changes with it, so a stale volume is never found.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import monai
from safetensors import SafetensorError, safe_open

import voxclick
from voxclick.datasets import Case, read_case_images, read_case_label
from voxclick.errors import DatasetError
from voxclick.files import write_tensors
from voxclick.io import files_of
from voxclick.preprocessing import Preprocessing, PreprocessingSettings
from voxclick.types import ImageTensor, LabelTensor, Vector3

CACHE_FORMAT = 2
"""Counts changes of what is stored."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case in the network's grid.

    Attributes:
        name: of the case.
        image: float32 (channel, i, j, k).
        label: uint8 label indices (i, j, k).
        spacing_mm: of the grid.
    """

    name: str
    image: ImageTensor
    label: LabelTensor
    spacing_mm: Vector3


class PreparedCache:
    """Prepares cases, or finds them prepared.

    Args:
        folder: where prepared cases are kept; None prepares every time it is asked.
        settings: of the preprocessing.
        labels: names by index, background first.
    """

    def __init__(
        self, folder: Path | None, settings: PreprocessingSettings, labels: tuple[str, ...]
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._labels = labels
        self._preprocessing = Preprocessing(settings)

    def get(self, case: Case) -> PreparedCase:
        """The case, prepared.

        Raises:
            DatasetError: the case has no label.
            UnsupportedImageError: a file cannot be read.
            GeometryError: its files do not share a grid, nor have one that they are brought to.
        """
        if self._folder is None:
            return self._prepare(case)
        path = self._folder / f"{case.name}-{self.key(case)}.safetensors"
        if path.is_file():
            try:
                return _read(path, case.name)
            except (SafetensorError, KeyError, ValueError) as error:
                _logger.warning("%s: damaged (%s), prepared again", path, error)
        _write(path, self._prepare(case))
        return _read(path, case.name)  # memory-mapped: a large data set need not fit into memory

    def key(self, case: Case) -> str:
        """Changes when anything changes that decides what is prepared."""
        named = [*case.images, _label_of(case), *([case.grid] if case.grid is not None else [])]
        files = [file.resolve() for path in named for file in files_of(path)]
        stats = [path.stat() for path in files]
        ingredients = {
            "format": CACHE_FORMAT,
            "versions": [voxclick.__version__, monai.__version__],
            "files": [
                [str(path), stat.st_size, stat.st_mtime_ns]
                for path, stat in zip(files, stats, strict=True)
            ],
            "settings": self._settings.model_dump(mode="json"),
            "labels": self._labels,
        }
        text = json.dumps(ingredients, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _prepare(self, case: Case) -> PreparedCase:
        label = read_case_label(case, self._labels)
        prepared = self._preprocessing.prepare(read_case_images(case))
        return PreparedCase(
            case.name,
            prepared.image,
            self._preprocessing.prepare_label(label, prepared),
            prepared.geometry.spacing_mm,
        )


def _label_of(case: Case) -> Path:
    if case.label is None:
        raise DatasetError(f"{case.name}: has no label, so nothing can be learnt from it")
    return case.label


def _read(path: Path, name: str) -> PreparedCase:
    with safe_open(str(path), framework="pt") as file:
        i, j, k = json.loads(file.metadata()["spacing_mm"])
        return PreparedCase(name, file.get_tensor("image"), file.get_tensor("label"), (i, j, k))


def _write(path: Path, case: PreparedCase) -> None:
    tensors = {"image": case.image, "label": case.label}
    write_tensors(path, tensors, {"spacing_mm": json.dumps(case.spacing_mm)})
