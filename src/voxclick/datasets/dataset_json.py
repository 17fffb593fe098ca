"""What the ``dataset.json`` of nnU-Net and of the Medical Segmentation Decathlon share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxclick.errors import DatasetError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DatasetError: unreadable, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def labels_by_index(path: Path, labels: Any) -> tuple[str, ...]:
    """Label names in the order of their indices.

    Args:
        path: for messages.
        labels: nnU-Net's ``{"background": 0, "tumor": 1}``, the decathlon's
            ``{"0": "background", "1": "tumor"}``, or a list in the order of the indices.

    Raises:
        DatasetError: the indices are not 0, 1, 2, … (nnU-Net's regions are lists of them).
    """
    if isinstance(labels, list):
        labels = {str(index): name for index, name in enumerate(labels)}
    if not isinstance(labels, Mapping):
        raise DatasetError(f"{path}: expected labels as {{name: index}}, got {labels!r}")
    if all(str(key).isdigit() for key in labels):
        by_index = {int(key): str(name) for key, name in labels.items()}
    elif all(isinstance(index, int) for index in labels.values()):
        by_index = {index: str(name) for name, index in labels.items()}
    else:
        raise DatasetError(
            f"{path}: labels must be one index per name, got {dict(labels)}; regions of several "
            "labels are not supported"
        )
    if sorted(by_index) != list(range(len(by_index))):
        raise DatasetError(
            f"{path}: labels must have the indices 0, 1, 2, … without a gap, got {sorted(by_index)}"
        )
    # others write "Background" or "bg"; in voxclick label 0 has one name
    names = ["background", *(by_index[index] for index in range(1, len(by_index)))]
    return tuple(names)


def channel_names(path: Path, declared: Mapping[str, Any]) -> tuple[str, ...]:
    """Channel names of ``{"0": "CT", "1": "PET"}``, in the order of their indices.

    Args:
        path: for messages.
        declared: the file's content; nnU-Net says ``channel_names``, its first version and the
            decathlon ``modality``.

    Returns:
        Empty when nothing is declared.

    Raises:
        DatasetError: not of that form.
    """
    channels = declared.get("channel_names") or declared.get("modality") or {}
    if not isinstance(channels, Mapping) or not all(str(key).isdigit() for key in channels):
        raise DatasetError(
            f'{path}: expected channels as {{"0": "CT", "1": "PET"}}, got {channels!r}'
        )
    return tuple(str(channels[key]) for key in sorted(channels, key=int))
