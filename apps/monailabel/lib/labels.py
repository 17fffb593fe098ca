"""Saved label maps in the model's own labels, whatever numbers a client gave them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from voxclick import LabelMap, read_label_map
from voxclick.clicks import BACKGROUND
from voxclick.errors import DatasetError, GeometryError
from voxclick.io import ANY_LABELS, read_geometry

if TYPE_CHECKING:
    from monailabel.interfaces.datastore import Datastore


class OfOtherModelsError(DatasetError):
    """A label map of nothing but labels of other models: it tells this model nothing."""


class _LabelInfo(BaseModel):
    """One entry of what 3D Slicer tells of a label map."""

    name: str
    idx: int


Told = TypeVar("Told")

_LABEL_INFO = TypeAdapter(list[_LabelInfo])
_LABEL_NAMES = TypeAdapter(dict[str, int])

FINAL = "final"
"""MONAI Label's tag of labels that somebody has submitted."""


def label_in_studies(
    datastore: Datastore,
    image: str,
    tag: str,
    labels: Sequence[str],
    others: Collection[str],
) -> LabelMap:
    """The label of an image under a tag, on the image's grid; see `read_saved_label`.

    Args:
        datastore: of the studies.
        image: its name.
        tag: which label of it.
        labels: of the model, background first.
        others: names that only other models know.

    Raises:
        VoxclickError: as for `read_saved_label`.
    """
    label = datastore.get_label_by_image_id(image, tag)
    return read_saved_label(
        Path(datastore.get_label_uri(label, tag)),
        datastore.get_label_info(label, tag),
        labels,
        others,
        Path(datastore.get_image_uri(image)),
    )


def read_saved_label(
    path: Path,
    info: Mapping[str, Any],
    labels: Sequence[str],
    others: Collection[str] = (),
    image: Path | None = None,
) -> LabelMap:
    """Read a label map that was saved in the studies.

    Args:
        path: of the label map.
        info: what MONAI Label keeps of it: ``label_info``, names as 3D Slicer tells them, or
            ``params`` with ``label_names``, as this app answers; without either, the values are
            the model's.
        labels: of the model, background first.
        others: names that the model does not know, but another model does; they become background.
        image: whose grid it must lie on.

    Returns:
        A label map with the indices of `labels`.

    Raises:
        DatasetError: names that nobody knows, or that cannot be told apart.
        OfOtherModelsError: something is there, but nothing that the model knows. That it knows
            nothing there would be a guess: nobody may have looked for it.
        UnsupportedImageError: no label map.
        GeometryError: another grid than the image's.
    """
    if image is not None:
        _check_grid(path, image)
    stored = read_label_map(path, ANY_LABELS)
    present = [int(value) for value in np.unique(stored.voxels) if value]
    name_of = _names_by_value(path, info, labels, present)
    unknown = [
        str(name_of.get(value, value))
        for value in present
        if name_of.get(value) not in (*labels, *others)
    ]
    if unknown:
        raise DatasetError(
            f"{path}: holds {', '.join(map(repr, unknown))}, but the labels are "
            f"{', '.join(labels)}; give the segments these names, or delete them, and save again"
        )
    if present and not any(name_of[value] in labels for value in present):
        raise OfOtherModelsError(
            f"{path}: holds {', '.join(repr(name_of[value]) for value in present)} alone, and none "
            f"of {', '.join(labels[1:])}"
        )
    index_of = np.zeros(max(present, default=0) + 1, dtype=np.uint8)
    for value in present:
        if name_of[value] in labels:
            index_of[value] = labels.index(name_of[value])
    return LabelMap(index_of[stored.voxels], stored.affine, path=path, labels=tuple(labels))


def _check_grid(path: Path, image: Path) -> None:
    expected, got = read_geometry(image), read_geometry(path)
    if not expected.matches(got):
        apart = "in another place" if expected.shape == got.shape else f"expected {expected.shape}"
        raise GeometryError(
            f"{path}: lies on another grid than its image {image} ({got.shape} voxels, {apart}); "
            "export the segments on the image's grid, and save again"
        )


def _names_by_value(
    path: Path, info: Mapping[str, Any], labels: Sequence[str], present: Sequence[int]
) -> dict[int, str]:
    """What the values of a label map are called.

    3D Slicer numbers the segments that it saves 1, 2, … in their order, but tells the place that
    each has among all segments, those it leaves out (background, scribbles) included. Other
    clients tell the values. Where the two differ, what fits the values counts.
    """
    if info.get("label_info"):
        told = _told(path, _LABEL_INFO, info["label_info"])
        entries = [(entry.name, entry.idx) for entry in told if entry.name != BACKGROUND]
        as_told = {value: name for name, value in entries}
        in_order = {place: name for place, (name, _) in enumerate(entries, start=1)}
        fitting = [names for names in (as_told, in_order) if set(present) <= names.keys()]
        meanings = [[names[value] for value in present] for names in fitting]
        if len(meanings) == 2 and meanings[0] != meanings[1]:
            raise DatasetError(
                f"{path}: the values {', '.join(map(str, present))} may be {meanings[0]}, as they "
                f"were told, or {meanings[1]}, in the order of the segments; save it with the "
                "segments in the order of the labels, background and scribbles last"
            )
        return fitting[0] if fitting else as_told
    params = info.get("params")
    if isinstance(params, Mapping) and params.get("label_names"):
        names = _told(path, _LABEL_NAMES, params["label_names"])
        return {value: name for name, value in names.items()}
    return dict(enumerate(labels))


def _told(path: Path, form: TypeAdapter[Told], value: object) -> Told:
    """What somebody said of a label map, if it has the form that it should have."""
    try:
        return form.validate_python(value)
    except ValidationError as error:
        raise DatasetError(
            f"{path}: was saved with names of another form than MONAI Label's: {value!r}; save it "
            'again with label_info like [{"name": "tumor", "idx": 1}]'
        ) from error
