"""Images with no data set around them: a folder of them, or files by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from voxclick.datasets.case import Case, with_unique_names
from voxclick.datasets.nnunet import channels_by_name, image_files, stem
from voxclick.errors import DatasetError
from voxclick.io import IMAGE_SUFFIXES


def read_images(paths: Sequence[Path], channels: int) -> tuple[Case, ...]:
    """Cases without labels.

    Args:
        paths: image files; for a folder, all images directly in it.
        channels: of a case. With one, every file is a case; with more, ``NAME_0000``,
            ``NAME_0001``, … in one folder are one case, as in nnU-Net's folders.

    Returns:
        In the order of their names.

    Raises:
        DatasetError: files that are missing or no images, a folder without any, or channels that
            are missing; all of them are named.
    """
    files: set[Path] = set()
    problems: list[str] = []
    for path in map(Path, paths):
        files.update(found := image_files(path) if path.is_dir() else [path])
        if not found:
            problems.append(f"{path}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
        elif not path.exists():
            problems.append(f"{path}: there is no such file or folder")
        elif not found[0].name.lower().endswith(IMAGE_SUFFIXES):
            problems.append(f"{path}: neither a data set nor an image")
    cases: list[Case] = []
    for _, in_folder in groupby(sorted(files, key=_folder_and_name), key=_folder):
        if channels == 1:
            cases += [Case(stem(path), (path,), None) for path in in_folder]
        else:
            named = channels_by_name(list(in_folder), (), problems)
            cases += [Case(name, images, None) for name, images in named.items()]
    if problems:
        raise DatasetError(f"{len(problems)} problem(s): " + "; ".join(problems))
    return tuple(sorted(with_unique_names(cases), key=lambda case: case.name))


def _folder(path: Path) -> Path:
    return path.parent


def _folder_and_name(path: Path) -> tuple[Path, str]:
    # paths alone would be sorted with the files of a subfolder in between
    return path.parent, path.name
