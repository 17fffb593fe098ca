"""Scoring of saved labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.labels import label_in_studies
from lib.models import ServedModel, asked_model, other_labels
from lib.studies import is_tag
from voxclick.errors import UsageError, VoxclickError
from voxclick.evaluation.masks import ScoredMask, masks_table, summarise_masks
from voxclick.evaluation.results import write_table
from voxclick.evaluation.scoring import CaseScorer

_logger = logging.getLogger(__name__)


def tag_of(request: Mapping[str, Any], key: str, otherwise: DefaultLabelTag) -> str:
    """The tag of labels that a request names.

    Raises:
        UsageError: no name for one.
    """
    tag = request.get(key) or otherwise
    tag = str(tag.value if isinstance(tag, DefaultLabelTag) else tag)
    if not is_tag(tag):
        raise UsageError(f"{key} says {tag!r}; expected a tag like 'final' or 'original'")
    return tag


class Masks(ScoringMethod):
    """Dice, surface Dice, lesion volumes and more of labels under one tag against another's.

    Args:
        models: that are served, by name.
        folder: for the tables.
    """

    def __init__(self, models: Mapping[str, ServedModel], folder: Path) -> None:
        super().__init__("voxclick: scores of the first predictions against the final labels")
        self._models = models
        self._folder = folder

    def info(self) -> dict[str, Any]:
        config = {
            "model": list(self._models),
            "y": DefaultLabelTag.FINAL.value,
            "y_pred": DefaultLabelTag.ORIGINAL.value,
        }
        return super().info() | {"config": config}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all images that have labels under both tags.

        Args:
            request: ``y`` and ``y_pred``, tags; ``model``, whose labels count.
            datastore: with the labels.

        Returns:
            ``{"masks": …, "dice": {"mean", "std", "median"}, …}`` as `voxclick metrics` has it,
            and ``table``, the file with a row per image.
        """
        tags = [
            tag_of(request, "y", DefaultLabelTag.FINAL),
            tag_of(request, "y_pred", DefaultLabelTag.ORIGINAL),
        ]
        served = asked_model(request, self._models)
        labels = served.settings().labels
        others = other_labels(served, self._models)
        scored: list[ScoredMask] = []
        for image in sorted(datastore.list_images()):
            known = datastore.get_labels_by_image_id(image)
            if not set(tags) <= {str(getattr(tag, "value", tag)) for tag in known}:
                continue
            try:
                truth, mask = (
                    label_in_studies(datastore, image, tag, labels, others) for tag in tags
                )
            except VoxclickError as error:
                _logger.warning("%s is passed over: %s", image, error)
                continue
            scores = CaseScorer(truth).score(mask)
            scored.append(ScoredMask(image, scores))
            _logger.info("%s: Dice %.4f", image, scores.together.dice)
        table = masks_table(scored)
        path = self._folder / f"{tags[1]}-against-{tags[0]}.csv"
        if scored:
            write_table(table, path)
        else:
            _logger.warning("no image has labels tagged %r and %r that can be compared", *tags)
        summary = summarise_masks(table, ())
        summary.pop("mismatches")
        return summary | {"table": str(path) if scored else None}
