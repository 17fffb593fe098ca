"""Many images, each segmented without clicks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.active_learning import without_later_channels
from lib.models import ALONE, ServedModel, asked_model

_logger = logging.getLogger(__name__)


class BatchSegmentation(BatchInferTask):
    """MONAI Label's task, in which an image that cannot be segmented does not stop the others.

    Args:
        models: that are served, by name.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def get_images(self, request: Mapping[str, Any], datastore: Datastore) -> list[str]:
        images = super().get_images(request, datastore)
        is_of_one_channel = len(self._served(request).settings().channels) == 1
        return images if is_of_one_channel else without_later_channels(images)

    def __call__(
        self,
        request: Mapping[str, Any],
        datastore: Datastore,
        infer: Callable[[dict[str, Any], Datastore], dict[str, Any]],
    ) -> dict[str, Any]:
        """Segment images.

        Args:
            request: ``model``, ``images``, and what else MONAI Label's task takes.
            datastore: where labels are saved, tagged ``original`` unless ``label_tag`` says so.
            infer: segments one.

        Returns:
            By image, what `infer` gave, or ``error``, a sentence.

        Raises:
            UsageError: there is no such model.
            ModelFileError: it cannot be loaded.
        """
        alone = {**request, "model": f"{self._served(request).name}{ALONE}"}
        if not torch.cuda.is_available():
            alone["multi_gpu"] = False  # the images would be divided among no GPUs

        def infer_one(of_image: dict[str, Any], saved_in: Datastore) -> dict[str, Any]:
            try:
                return infer(of_image, saved_in)
            except HTTPException as error:
                _logger.warning("%s is passed over: %s", of_image["image"], error.detail)
                return {"error": error.detail}

        return super().__call__(alone, datastore, infer_one)

    def _served(self, request: Mapping[str, Any]) -> ServedModel:
        """A batch has no clicks, whichever of its two names a model is called by."""
        name = str(request.get("model"))
        known = name if name in self._models else name.removesuffix(ALONE)
        return asked_model({"model": known}, self._models)
