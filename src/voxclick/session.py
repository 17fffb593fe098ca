"""An interactive session: one image, one model, and the clicks so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from voxclick.clicks.click import Click
from voxclick.errors import ClickError, GeometryError
from voxclick.guidance import build_encoder
from voxclick.model_files import Model
from voxclick.preprocessing import Preprocessing
from voxclick.sliding_window import InferenceSettings, ProgressCallback
from voxclick.types import Index3
from voxclick.volume import LabelMap, Volume


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a session answers.

    Attributes:
        label_map: on the image file's own grid.
        windows: how many windows ran through the network.
        seconds: from the clicks to the label map.
    """

    label_map: LabelMap
    windows: int
    seconds: float


class InteractiveSession:
    """Segments one image and corrects the result click by click.

    The prediction depends on the image and on the set of clicks alone, not on their order.

    Args:
        model: from `load_model`.
        image: one volume per channel of the model, or the volume itself for one channel.
        inference: another way through the network than the one stored with the model.

    Raises:
        GeometryError: wrong number of channels, or channels on different grids.
    """

    def __init__(
        self,
        model: Model,
        image: Volume | Sequence[Volume],
        inference: InferenceSettings | None = None,
    ) -> None:
        volumes = [image] if isinstance(image, Volume) else list(image)
        settings = model.settings
        if len(volumes) != len(settings.channels):
            raise GeometryError(
                f"this model takes {len(settings.channels)} image(s) per case "
                f"({', '.join(settings.channels)}), got {len(volumes)}"
            )
        self.model = model
        self._inference = model.inference(inference)
        self._preprocessing = Preprocessing(settings.preprocessing)
        self._prepared = self._preprocessing.prepare(volumes)
        self._encoder = (
            None
            if settings.guidance is None
            else build_encoder(settings.guidance, self._prepared.geometry.spacing_mm)
        )
        self._clicks: tuple[Click, ...] = ()

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks, oldest first."""
        return self._clicks

    @property
    def takes_clicks(self) -> bool:
        """False for a model that was trained without clicks."""
        return self._encoder is not None

    def click(self, index: Index3, label: str) -> LabelMap:
        """Add one click and segment again.

        Args:
            index: voxel (i, j, k) of the image file's own array.
            label: a label of the model; ``"background"`` where the mask reaches too far.

        Raises:
            ClickError: outside the image, unknown label, or a model that takes no clicks.
        """
        self.add([Click(index, label)])
        return self.predict().label_map

    def add(self, clicks: Sequence[Click]) -> None:
        """Add clicks without segmenting yet; a click that is there already changes nothing.

        Raises:
            ClickError: as for `click`; then none of them is added.
        """
        if clicks and self._encoder is None:
            raise ClickError("this model was trained without clicks and takes none")
        for click in clicks:
            click.check(self._prepared.source, self.model.settings.labels)
        self._clicks = tuple(dict.fromkeys((*self._clicks, *clicks)))

    def remove(self, click: Click) -> None:
        """Take one click back.

        Raises:
            ClickError: there is no such click.
        """
        if click not in self._clicks:
            raise ClickError(f"there is no click at voxel {click.index} for {click.label!r}")
        self._clicks = tuple(kept for kept in self._clicks if kept != click)

    def reset(self) -> None:
        """Take all clicks back."""
        self._clicks = ()

    def predict(self, on_window: ProgressCallback | None = None) -> Prediction:
        """Segment with the clicks as they are now.

        Args:
            on_window: told after every batch of windows.
        """
        start = time.perf_counter()
        network_input = self._prepared.image
        if self._encoder is not None:
            guidance = self._encoder.encode(self._network_clicks(), self._prepared.geometry.shape)
            network_input = torch.cat([network_input, guidance])
        logits = self._inference.predict(network_input, on_window)
        voxels = self._preprocessing.restore(logits, self._prepared)
        return Prediction(
            LabelMap(
                np.ascontiguousarray(voxels),
                self._prepared.source.affine,
                labels=self.model.settings.labels,
            ),
            windows=len(self._inference.grid(self._prepared.geometry.shape).boxes),
            seconds=time.perf_counter() - start,
        )

    def _network_clicks(self) -> list[list[Index3]]:
        """Per label, the clicked voxels of the network's grid."""
        return [
            [self._prepared.click_to_network(c.index) for c in self._clicks if c.label == label]
            for label in self.model.settings.labels
        ]
