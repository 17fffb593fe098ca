"""Everything that is wrong with a data set, said at once before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from voxclick.datasets.case import Case
from voxclick.errors import DatasetError, VoxclickError
from voxclick.io import read_geometry, read_label_map
from voxclick.volume import VolumeGeometry


def check_cases(
    cases: Sequence[Case],
    labels: Sequence[str],
    channels: Sequence[str],
    on_case: Callable[[Case], None] | None = None,
) -> None:
    """Check files, channels, grids and label values of all cases.

    Label voxels are read, image voxels are not.

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
    grids: list[VolumeGeometry] = []
    for path in case.images:
        try:
            grids.append(read_geometry(path))
        except VoxclickError as error:
            problems.append(str(error))
    if case.label is not None:
        try:
            grids.append(read_label_map(case.label, tuple(labels)).geometry)
        except VoxclickError as error:
            problems.append(str(error))
    files = (*case.images, *([case.label] if case.label is not None else []))
    if len(grids) == len(files):
        problems += [
            f"{path} lies on another grid than {files[0]}: {_describe(grid)}, expected "
            f"{_describe(grids[0])}"
            for path, grid in zip(files[1:], grids[1:], strict=True)
            if not grid.matches(grids[0])
        ]
    return problems


def _describe(grid: VolumeGeometry) -> str:
    spacing = " × ".join(f"{step:.4g}" for step in grid.spacing_mm)
    origin = ", ".join(f"{x:.4g}" for x in grid.to_mm((0, 0, 0)))
    return f"shape {grid.shape}, spacing {spacing} mm, first voxel at ({origin}) mm"
