"""Everything that is wrong with a data set, said at once before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from voxclick.datasets.case import Case
from voxclick.errors import DatasetError, VoxclickError
from voxclick.io import read_geometry, read_label_map
from voxclick.resampling import grids_overlap
from voxclick.volume import VolumeGeometry


def check_cases(
    cases: Sequence[Case],
    labels: Sequence[str],
    channels: Sequence[str],
    on_case: Callable[[Case], None] | None = None,
) -> None:
    """Check files, channels, grids and label values of all cases.

    Label voxels are read, image voxels are not. All files of a case must lie on one grid; where
    the case names the one that they are resampled onto (`Case.grid`), they must overlap with it.

    Args:
        cases: those that will be used.
        labels: names by index, background first.
        channels: names of the image channels.
        on_case: told each case when it has been checked.

    Raises:
        DatasetError: naming everything that is wrong, in all cases.
    """
    problems = [
        f"{name}: {count} cases have this name"
        for name, count in Counter(case.name for case in cases).items()
        if count > 1
    ]
    if not cases:
        problems.append("there is no case")
    for case in cases:
        problems += [f"{case.name}: {problem}" for problem in _problems(case, labels, channels)]
        if on_case is not None:
            on_case(case)
    if problems:
        listed = "\n  ".join(problems)
        raise DatasetError(f"the data set has {len(problems)} problem(s):\n  {listed}")


def _problems(case: Case, labels: Sequence[str], channels: Sequence[str]) -> list[str]:
    problems: list[str] = []
    if len(case.images) != len(channels):
        problems.append(
            f"expected {len(channels)} image(s) ({', '.join(channels)}), got {len(case.images)}"
        )
    images = [*case.images]
    if case.grid is not None and case.grid not in images:
        images.append(case.grid)
    grids: dict[Path, VolumeGeometry] = {}
    for path in images:
        try:
            grids[path] = read_geometry(path)
        except VoxclickError as error:
            problems.append(str(error))
    if case.label is not None:
        try:
            grids[case.label] = read_label_map(case.label, tuple(labels)).geometry
        except VoxclickError as error:
            problems.append(str(error))
    if len(grids) == len(set(images)) + (case.label is not None):
        problems += _problems_of_grids(grids, case.grid)
    return problems


def _problems_of_grids(grids: Mapping[Path, VolumeGeometry], onto: Path | None) -> list[str]:
    """What is wrong with the places of a case's files, the first of which is an image's.

    Args:
        onto: the file onto whose grid the others are resampled; None where they must share one.
    """
    reference = next(iter(grids)) if onto is None else onto
    expected = grids[reference]
    if onto is None:
        return [
            f"{path} lies on another grid than {reference}: {_describe(grid)}, expected "
            f"{_describe(expected)}"
            for path, grid in grids.items()
            if not grid.matches(expected)
        ]
    return [
        f"{path} lies nowhere near {reference}, onto whose grid it shall be resampled: "
        f"{_describe(grid)}, expected some place in common with {_describe(expected)}"
        for path, grid in grids.items()
        if not grids_overlap(grid, expected)
    ]


def _describe(grid: VolumeGeometry) -> str:
    spacing = " × ".join(f"{step:.4g}" for step in grid.spacing_mm)
    origin = ", ".join(f"{x:.4g}" for x in grid.to_mm((0, 0, 0)))
    return f"shape {grid.shape}, spacing {spacing} mm, first voxel at ({origin}) mm"
