"""Crops with simulated clicks, for the learning step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from voxclick.geometry.box import Box
from voxclick.guidance import GuidanceEncoder, GuidanceSettings, build_encoder
from voxclick.simulation import SimulatedClick, SimulatedUser, SimulationSettings
from voxclick.training.samples import Sample
from voxclick.types import GuidanceTensor, LabelTensor

Predict = Callable[[Tensor], Tensor]
"""Network input (batch, channel, i, j, k) to label indices (batch, i, j, k), without gradient."""


class ClickedSample:
    """A crop and the clicks that its simulated user has placed in it so far.

    Attributes:
        network_input: (channel + label, i, j, k); the last channels are the guidance.
        label: label indices (i, j, k).
        case: name, for messages.
    """

    def __init__(
        self,
        sample: Sample,
        encoder: GuidanceEncoder | None,
        user: SimulatedUser | None,
        device: torch.device,
        click_reach: int,
    ) -> None:
        self.label: LabelTensor = sample.label.to(device)
        self.case = sample.case
        self._spacing_mm = sample.spacing_mm
        self._user = user
        self._encoder = encoder
        image = sample.image.to(device)
        self._click_reach = click_reach
        self._to_correct = torch.zeros(self.label.shape, dtype=torch.bool, device=device)
        if user is None:
            self.network_input = image
            return
        empty = image.new_zeros((len(user.clicked), *image.shape[1:]))
        self.network_input = torch.cat([image, empty])
        self._guidance: GuidanceTensor = self.network_input[len(image) :]

    @property
    def to_correct(self) -> Bool[Tensor, "i j k"]:
        """What the clicks were meant to correct, as `LossSettings.click_weight` says."""
        return self._to_correct

    def respond(self, prediction: LabelTensor) -> bool:
        """Let the user look at a prediction and click.

        Returns:
            Whether the user goes on; false once it has stopped clicking.
        """
        if self._user is None or self._encoder is None:
            return False
        earlier = [list(clicks) for clicks in self._user.clicked]
        clicks = self._user.next_clicks(self.label, prediction, self._spacing_mm)
        if clicks is None:
            return False
        for click in clicks:
            self._encoder.add(
                self._guidance, click.label_index, click.index, earlier[click.label_index]
            )
            earlier[click.label_index].append(click.index)
            self._mark_to_correct(click, prediction)
        return True

    def _mark_to_correct(self, click: SimulatedClick, prediction: LabelTensor) -> None:
        near = Box.around(click.index, self._click_reach).clip(self.label.shape).to_slices()
        is_wrong = self.label[near] != prediction[near]
        self._to_correct[near] |= is_wrong & (self.label[near] == click.label_index)
        at = Box.around(click.index, 2).clip(self.label.shape).to_slices()
        self._to_correct[at] = True


class SampleClicker:
    """Makes `ClickedSample`s: gives every sample its encoder and its user.

    Args:
        guidance: None for a network without clicks.
        simulation: None for a network without clicks.
        label_count: labels of the model, background included.
        device: where samples go.
        click_reach: how far a click is meant to correct, in voxels.
    """

    def __init__(
        self,
        guidance: GuidanceSettings | None,
        simulation: SimulationSettings | None,
        label_count: int,
        device: torch.device,
        click_reach: int = 6,
    ) -> None:
        self._click_reach = click_reach
        self._guidance = guidance
        self._simulation = simulation
        self._label_count = label_count
        self._device = device

    def __call__(self, sample: Sample) -> ClickedSample:
        if self._guidance is None or self._simulation is None:
            return ClickedSample(sample, None, None, self._device, self._click_reach)
        user = SimulatedUser(
            self._simulation.strategy,
            self._simulation.stopping,
            sample.seed,
            self._label_count,
        )
        encoder = build_encoder(self._guidance, sample.spacing_mm)
        return ClickedSample(sample, encoder, user, self._device, self._click_reach)


class BatchSource(ABC):
    """Decides which samples, with which clicks, are learnt in the next step."""

    @abstractmethod
    def next_batch(self) -> list[ClickedSample]:
        """The samples of the next learning step."""

    @abstractmethod
    def learnt(self, batch: Sequence[ClickedSample], predictions: Tensor) -> None:
        """Told what the learning step predicted, label indices (batch, i, j, k)."""


class FreshBatches(BatchSource):
    """New crops for every step, clicked under no gradient until every user has stopped.

    This is the loop of SW-FastEdit and DeepEdit: as many forward passes as the most patient user
    clicks, and then one that learns.
    """

    def __init__(self, samples: Iterator[ClickedSample], batch_size: int, predict: Predict) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._predict = predict

    def next_batch(self) -> list[ClickedSample]:
        batch = [next(self._samples) for _ in range(self._batch_size)]
        clicking = batch
        while clicking:
            predictions = self._predict(torch.stack([s.network_input for s in clicking]))
            clicking = [s for s, p in zip(clicking, predictions, strict=True) if s.respond(p)]
        return batch

    def learnt(self, batch: Sequence[ClickedSample], predictions: Tensor) -> None:
        pass  # every step starts anew


class PooledBatches(BatchSource):
    """A pool of crops that are being clicked; every step learns some of them as they stand.

    The prediction of the learning step itself places the next clicks, so no forward pass is made
    for the clicks alone. A crop whose user has stopped makes room for a new one. Samples are
    drawn from the pool at random: neighbouring steps see different crops.

    Args:
        samples: new crops, without clicks.
        batch_size: crops per step.
        pool_size: crops held at once, at least `batch_size`.
        seed: of the draws.
    """

    def __init__(
        self, samples: Iterator[ClickedSample], batch_size: int, pool_size: int, seed: int
    ) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._pool = [next(samples) for _ in range(pool_size)]
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[int] = []

    def next_batch(self) -> list[ClickedSample]:
        order = torch.randperm(len(self._pool), generator=self._generator)
        self._drawn = order[: self._batch_size].tolist()
        return [self._pool[place] for place in self._drawn]

    def learnt(self, batch: Sequence[ClickedSample], predictions: Tensor) -> None:
        for place, sample, prediction in zip(self._drawn, batch, predictions, strict=True):
            if not sample.respond(prediction):
                self._pool[place] = next(self._samples)
