"""Scores of one case: every foreground label apart, and what they come to together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from voxclick.evaluation.metrics import LabelScorer, MaskScores
from voxclick.geometry.affine import is_sheared
from voxclick.volume import LabelMap

METRICS = tuple(MaskScores.__dataclass_fields__)
"""The scores' names, in the order of the columns of a table."""

OF_LESION_FREE = ("dice", "fpv_ml")
"""All that is left to say where there is nothing to find."""


@dataclass(frozen=True)
class CaseScores:
    """Attributes:
    per_label: scores by foreground label.
    present: those labels that the case has.
    """

    per_label: Mapping[str, MaskScores]
    present: tuple[str, ...]

    @property
    def empty_label(self) -> bool:
        """Whether the case has no foreground at all."""
        return not self.present

    @property
    def together(self) -> MaskScores:
        """One figure per score for the whole case.

        Dice and surface Dice are means over the labels that the case has, or over all of them
        where it has none; volumes are sums over all labels; what is counted per lesion is the
        mean over the labels where it is defined.
        """
        dice_like = self.present or tuple(self.per_label)
        return MaskScores(
            dice=float(np.mean([self.per_label[name].dice for name in dice_like])),
            nsd=float(np.mean([self.per_label[name].nsd for name in dice_like])),
            fpv_ml=sum(scores.fpv_ml for scores in self.per_label.values()),
            fnv_ml=sum(scores.fnv_ml for scores in self.per_label.values()),
            lesion_recall=self._mean_where_defined("lesion_recall"),
            lesion_precision=self._mean_where_defined("lesion_precision"),
            dmm=self._mean_where_defined("dmm"),
        )

    def row(self) -> dict[str, object]:
        """Flat columns; of several labels each also has its own, ``SCORE_LABEL``, and
        ``has_LABEL``, whether the case has it."""
        row: dict[str, object] = {**asdict(self.together), "empty_label": self.empty_label}
        if len(self.per_label) > 1:
            for name, scores in self.per_label.items():
                row |= {f"{metric}_{name}": value for metric, value in asdict(scores).items()}
                row[f"has_{name}"] = name in self.present
        return row

    def _mean_where_defined(self, metric: str) -> float:
        values = [getattr(scores, metric) for scores in self.per_label.values()]
        defined = [value for value in values if not math.isnan(value)]
        return float(np.mean(defined)) if defined else math.nan


class CaseScorer:
    """Scores masks of one case; what the truth alone decides is computed once.

    Args:
        label: the truth.
    """

    def __init__(self, label: LabelMap) -> None:
        if is_sheared(label.affine):
            warnings.warn(
                f"{label.path or 'the label'}: its axes are not at right angles; millilitres and "
                "surface Dice are those of a grid of the same spacing with right angles",
                stacklevel=2,
            )
        masks = {name: label.mask(name) for name in label.labels[1:]}
        self._present = tuple(name for name, mask in masks.items() if mask.any())
        self._scorers = {name: LabelScorer(mask, label.spacing_mm) for name, mask in masks.items()}

    @property
    def lesion_count(self) -> int:
        """Connected components of all foreground labels."""
        return sum(scorer.lesion_count for scorer in self._scorers.values())

    def score(self, masks: LabelMap | Mapping[str, NDArray[np.bool_]]) -> CaseScores:
        """Score a prediction.

        Args:
            masks: a label map with the truth's labels, or a mask for each foreground label; on
                the truth's grid.

        Raises:
            GeometryError: another shape than the truth.
        """
        mask_of = masks.mask if isinstance(masks, LabelMap) else masks.__getitem__
        per_label = {name: scorer.score(mask_of(name)) for name, scorer in self._scorers.items()}
        return CaseScores(per_label, self._present)
