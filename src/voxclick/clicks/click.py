"""A click: one voxel of the image, said to belong to one label."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from voxclick.errors import ClickError, UsageError
from voxclick.types import Index3, Vector3
from voxclick.volume import VolumeGeometry

BACKGROUND = "background"
"""The name of label 0; a click on it says that no foreground label is here."""

ClickSpace: TypeAlias = Literal["voxel", "ras", "lps"]
"""What the three numbers of a click are: a voxel of the file, or patient mm."""


@dataclass(frozen=True)
class Click:
    """One click.

    Attributes:
        index: voxel (i, j, k) of the image *file's* own array, not of the network's grid.
        label: the label's name; ``"background"`` for none of the foreground labels.

    Raises:
        ClickError: the index is not three whole numbers.
    """

    index: Index3
    label: str

    def __post_init__(self) -> None:
        try:
            i, j, k = map(operator.index, self.index)
        except (TypeError, ValueError) as error:
            raise ClickError(
                f"the click at {self.index} ({self.label}) is no voxel: expected three whole "
                "numbers; for mm use Click.at_ras_mm or Click.at_lps_mm"
            ) from error
        object.__setattr__(self, "index", (i, j, k))

    @staticmethod
    def at(
        position: Index3 | Vector3, label: str, space: ClickSpace, geometry: VolumeGeometry
    ) -> Click:
        """The click at a voxel of the file, or at a patient position in mm.

        Args:
            position: three numbers; of a voxel whole ones, whatever their type.
            label: what is there.
            space: of the position.
            geometry: of the file.

        Raises:
            ClickError: not three finite numbers, a fraction of a voxel, or mm outside the image.
            UsageError: there is no such space.
        """
        if space not in get_args(ClickSpace):
            spaces = ", ".join(get_args(ClickSpace))
            raise UsageError(f"there is no click space {space!r}; expected one of {spaces}")
        try:
            x, y, z = (float(number) for number in position)
        except (TypeError, ValueError, OverflowError) as error:
            raise ClickError(f"a click has three numbers, got {position!r}") from error
        if space == "ras":
            return Click.at_ras_mm((x, y, z), label, geometry)
        if space == "lps":
            return Click.at_lps_mm((x, y, z), label, geometry)
        if not (x.is_integer() and y.is_integer() and z.is_integer()):
            raise ClickError(
                f"a voxel has whole numbers, got {x:g},{y:g},{z:g}; for mm say the space, ras or "
                "lps"
            )
        return Click((int(x), int(y), int(z)), label)

    @staticmethod
    def at_ras_mm(position_mm: Vector3, label: str, geometry: VolumeGeometry) -> Click:
        """The click at a RAS+ patient position, in a file of this geometry."""
        return Click(geometry.to_index(position_mm), label)

    @staticmethod
    def at_lps_mm(position_mm: Vector3, label: str, geometry: VolumeGeometry) -> Click:
        """The click at an LPS+ (DICOM, ITK, 3D Slicer files) patient position."""
        x, y, z = position_mm
        return Click(geometry.to_index((-x, -y, z)), label)

    def check(self, geometry: VolumeGeometry, labels: tuple[str, ...]) -> None:
        """Refuse a click outside the image or of an unknown label.

        Raises:
            ClickError: with the voxel, the image's shape, and the labels there are.
        """
        if self.label not in labels:
            raise ClickError(
                f"the click at voxel {self.index} has the label {self.label!r}; "
                f"this model knows {', '.join(labels)}"
            )
        if not all(0 <= x < n for x, n in zip(self.index, geometry.shape, strict=True)):
            raise ClickError(
                f"the click at voxel {self.index} ({self.label}) lies outside the image of "
                f"{geometry.shape} voxels; clicks are zero-based voxels of the image file"
            )
