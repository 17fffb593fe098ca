"""Scores of predicted masks against labelled ones, and of the curves they make over clicks."""

from voxclick.evaluation.metrics.curves import (
    Autopet4Summary,
    Autopet5Summary,
    Cvpr2025Summary,
    autopet4_summary,
    autopet5_summary,
    consistent_improvement,
    cvpr2025_summary,
    is_failure,
    mean_over_steps,
    number_of_clicks,
    trapezoid_area,
)
from voxclick.evaluation.metrics.lesions import (
    LESION_CONNECTIVITY,
    Lesions,
    detection_f1,
    false_negative_volume_ml,
    false_positive_volume_ml,
    lesion_precision,
    lesion_recall,
)
from voxclick.evaluation.metrics.overlap import dice, iou
from voxclick.evaluation.metrics.scorer import LabelScorer, MaskScores
from voxclick.evaluation.metrics.surface import Surface, normalised_surface_dice, surface_dice

__all__ = [
    "LESION_CONNECTIVITY",
    "Autopet4Summary",
    "Autopet5Summary",
    "Cvpr2025Summary",
    "LabelScorer",
    "Lesions",
    "MaskScores",
    "Surface",
    "autopet4_summary",
    "autopet5_summary",
    "consistent_improvement",
    "cvpr2025_summary",
    "detection_f1",
    "dice",
    "false_negative_volume_ml",
    "false_positive_volume_ml",
    "iou",
    "is_failure",
    "lesion_precision",
    "lesion_recall",
    "mean_over_steps",
    "normalised_surface_dice",
    "number_of_clicks",
    "surface_dice",
    "trapezoid_area",
]
