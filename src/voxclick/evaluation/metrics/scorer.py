"""All scores of one prediction after another against the same label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxclick.evaluation.metrics.lesions import LesionPairs, Lesions
from voxclick.evaluation.metrics.masks import check_same_grid
from voxclick.evaluation.metrics.overlap import dice_of_counts
from voxclick.evaluation.metrics.surface import Surface, surface_dice
from voxclick.types import Vector3


@dataclass(frozen=True)
class MaskScores:
    """One prediction against one label.

    Attributes:
        dice: `dice`.
        nsd: `normalised_surface_dice` at 2 mm.
        fpv_ml: `false_positive_volume_ml`.
        fnv_ml: `false_negative_volume_ml`.
        lesion_recall: NaN when the label is empty.
        lesion_precision: NaN when the prediction is empty.
        dmm: `detection_f1`; NaN when the label is empty.
    """

    dice: float
    nsd: float
    fpv_ml: float
    fnv_ml: float
    lesion_recall: float
    lesion_precision: float
    dmm: float


class LabelScorer:
    """Scores predictions against one label, whose surface and components are found once.

    The scores are those of the functions that `MaskScores` names.

    Args:
        label: boolean mask (i, j, k), in any memory order. It may change afterwards.
        spacing_mm: between voxel centres along (i, j, k).

    Raises:
        GeometryError: not a boolean array of three axes, or not a spacing.
    """

    def __init__(self, label: NDArray[np.bool_], spacing_mm: Vector3) -> None:
        self._shape = label.shape
        self._lesions = Lesions.of(label)
        self._surface = Surface.of(label, spacing_mm)

    @property
    def lesion_count(self) -> int:
        """18-connected components of the label."""
        return self._lesions.count

    def score(self, prediction: NDArray[np.bool_]) -> MaskScores:
        """Score a boolean mask on the label's grid.

        Raises:
            GeometryError: it differs in shape from the label, or is not boolean.
        """
        check_same_grid(prediction.shape, self._shape)
        lesions = Lesions.of(prediction)
        surface = Surface.of(prediction, self._surface.spacing_mm)
        pairs = LesionPairs.of(lesions, self._lesions)
        return MaskScores(
            dice=dice_of_counts(
                lesions.voxel_count, self._lesions.voxel_count, int(pairs.shared.sum())
            ),
            nsd=surface_dice(surface, self._surface),
            fpv_ml=pairs.false_positive_volume_ml(self._surface.spacing_mm),
            fnv_ml=pairs.false_negative_volume_ml(self._surface.spacing_mm),
            lesion_recall=pairs.lesion_recall(),
            lesion_precision=pairs.lesion_precision(),
            dmm=pairs.detection_f1(),
        )
