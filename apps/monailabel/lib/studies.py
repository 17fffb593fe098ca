"""The studies folder, whose list of images and labels several processes change."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException

from voxclick.files import replace_when_written
from voxclick.io import IMAGE_SUFFIXES

_logger = logging.getLogger(__name__)


def is_tag(name: str) -> bool:
    """Whether this can be a tag of labels: it becomes the name of a folder."""
    return re.fullmatch(r"[\w-][\w.-]*", name) is not None


class Studies(LocalDatastore):
    """MONAI Label's folder of studies, in which no process forgets what another has written.

    Names come from whoever reaches the server; what would lie elsewhere than in the folder, or be
    another kind of file, is refused.

    The server, batches and trainings are processes, each with the list ``datastore_v2.json`` in
    memory. MONAI Label's own class writes what it has in memory, and so loses a label's names that
    another process has just put there; and it hears of others' changes from events of the file
    system, some of which it passes over. Here a change begins with what is on disk, and nobody
    else changes anything until it is written.

    Args:
        folder: of the studies.
        **options: of MONAI Label's class.
    """

    def __init__(self, folder: str, **options: Any) -> None:
        # MONAI Label's own lock, ``.lock``, guards single reads and writes of the list
        self._changes = FileLock(Path(folder) / ".changes.lock")
        self._read_as: tuple[int, int, int] | None = None
        Path(folder).mkdir(parents=True, exist_ok=True)
        super().__init__(folder, **options)

    def reload(self) -> None:
        """Read the list again, if it was written since it was read."""
        self._init_from_datastore_file()

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]
    ) -> str:
        """Save a label; until its copy is whole and in the list, the older one stays.

        Args:
            image_id: whose label it is.
            label_filename: of the label map.
            label_tag: which label of it.
            label_info: what to keep of it in the list.

        Returns:
            The name of the label.

        Raises:
            HTTPException: 400 for a tag that cannot be one, or a file of another kind.
            ImageNotFoundException: there is no such image.
        """
        if not is_tag(label_tag):
            raise HTTPException(400, f"tag {label_tag!r}: expected one like 'final' or 'original'")
        suffix = self._suffix(label_filename)
        with self._change():
            image = self._datastore.objects.get(image_id)
            if image is None:
                raise ImageNotFoundException(f"Image {image_id} not found")
            path = Path(self._datastore.label_path(label_tag)) / f"{image_id}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            # no suffix of a label map: nobody who lists the folder takes it for one
            temporary = path.with_name(f".{path.name}.tmp")
            info = {**(label_info or {}), "ts": int(time.time()), "name": path.name}
            try:
                shutil.copy(label_filename, temporary)
                image.labels[label_tag] = DataModel(info=info, ext=suffix)
                self._update_datastore_file()
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        with self._change():
            super().remove_label(label_id, label_tag)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        with self._change():
            super().update_label_info(label_id, label_tag, info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        self._suffix(image_filename)
        if re.search(r"^\.|[/\\\0]", image_id):
            raise HTTPException(400, f"image {image_id!r}: expected a name without / and \\")
        with self._change():
            return super().add_image(image_id, image_filename, image_info)

    def remove_image(self, image_id: str) -> None:
        with self._change():
            super().remove_image(image_id)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        with self._change():
            super().update_image_info(image_id, info)

    def _reconcile_datastore(self) -> None:
        with self._change():
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the list if it is another one than was read last; who reads it sees all or none."""
        path = self._list
        stamp = _stamp(path)
        if stamp in (None, self._read_as):
            return
        try:
            content = LocalDatastoreModel.model_validate_json(path.read_bytes())
        except ValueError as error:
            _logger.error("%s: is not MONAI Label's list of a studies folder (%s)", path, error)
            if throw_exception:
                raise
            return
        content.base_path = self._datastore_path
        self._datastore, self._read_as = content, stamp

    @property
    def _list(self) -> Path:
        return Path(self._datastore_config_path).resolve()

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the list under a temporary name first; half a list stops the next server."""
        path = self._list
        text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        with replace_when_written(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        self._read_as = _stamp(path)

    def _suffix(self, path: str) -> str:
        """Of a kind of file that the studies list, or that voxclick reads and writes.

        Raises:
            HTTPException: of another.
        """
        listed = (pattern.removeprefix("*") for pattern in self._extensions)
        kinds = list(dict.fromkeys((*listed, *IMAGE_SUFFIXES)))
        found = [kind for kind in kinds if path.endswith(kind)]
        if not found:
            name = Path(path).name
            raise HTTPException(400, f"{name}: expected a file of one of {', '.join(kinds)}")
        return max(found, key=len)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """From what is on disk to what is on disk, one process and one thread at a time."""
        with self._changes:
            self._read_anew()
            try:
                yield
            except BaseException:
                self._read_anew()  # what was to change has not
                raise

    def _read_anew(self) -> None:
        # times of files are coarse, and numbers come again: two lists may look alike
        self._read_as = None
        self.reload()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one where another file lies there; None where none does."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
