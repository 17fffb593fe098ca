"""Some of a data set's image channels, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from voxclick.datasets.case import Case, Dataset
from voxclick.errors import DatasetError


def select_channels(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The named channels alone, in the order of the names.

    Args:
        dataset: with channels whose names it declares.
        names: as the data set spells them, capitals aside.

    Returns:
        Cases whose masks lie where they did before: `Case.grid` stays.

    Raises:
        DatasetError: no name, a name that no channel or more than one has, or cases with another
            number of images than the data set has channels.
    """
    places = [_place(dataset, name) for name in names]
    if not places or len(set(places)) < len(places):
        raise DatasetError(
            f"{dataset.root}: expected different names of channels, got "
            f"{', '.join(names) or 'none'}; it has {', '.join(dataset.channels)}"
        )
    count = len(dataset.channels)
    odd = [c.name for c in (*dataset.train, *dataset.test) if len(c.images) != count]
    if odd:
        raise DatasetError(
            f"{dataset.root}: expected {count} image(s) a case ({', '.join(dataset.channels)}), "
            f"but {len(odd)} case(s) have another number: {', '.join(odd[:5])}"
        )

    def selected(cases: tuple[Case, ...]) -> tuple[Case, ...]:
        return tuple(replace(c, images=tuple(c.images[i] for i in places)) for c in cases)

    return replace(
        dataset,
        train=selected(dataset.train),
        test=selected(dataset.test),
        channels=tuple(names),
    )


def _place(dataset: Dataset, name: str) -> int:
    places = [i for i, one in enumerate(dataset.channels) if one.lower() == name.lower()]
    if len(places) != 1:
        found = "none" if not places else f"{len(places)}"
        raise DatasetError(
            f"{dataset.root}: expected one channel {name!r}, found {found}; its channels are "
            f"{', '.join(dataset.channels)}"
        )
    return places[0]
