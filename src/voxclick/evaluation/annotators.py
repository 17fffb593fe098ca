"""Who corrects a case in an evaluation: the users of the protocols."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from voxclick.clicks import Click, clicks_from_box, clicks_from_scribble
from voxclick.clicks.click import BACKGROUND
from voxclick.errors import UsageError
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.simulation import SimulatedUser
from voxclick.simulation.challenges import autopet4, autopet5, cvpr2025
from voxclick.types import Index3
from voxclick.volume import LabelMap, Volume


class PromptKind(str, Enum):
    """What a user draws."""

    click = "click"
    scribble = "scribble"
    box = "box"


@dataclass(frozen=True)
class Prompt:
    """What a user draws, and the clicks that stand for it.

    Attributes:
        kind: of the prompt.
        label: what the user says is there.
        voxels: of the image file: of a click one, of a scribble all, of a box the first and the
            last.
        clicks: what the network is told.
    """

    kind: PromptKind
    label: str
    voxels: tuple[Index3, ...]
    clicks: tuple[Click, ...]

    @staticmethod
    def of_click(click: Click) -> Prompt:
        return Prompt(PromptKind.click, click.label, (click.index,), (click,))


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One case of an evaluation, read.

    Attributes:
        name: of the case.
        volumes: one per channel, on one grid.
        label: the truth, on the same grid.
        number: the case's place in its data set, from 0.
        recorded: clicks that were given before; for the protocols that replay them.
        pet: which of the volumes shows uptake; None if none is known to.
    """

    name: str
    volumes: tuple[Volume, ...]
    label: LabelMap
    number: int = 0
    recorded: tuple[Click, ...] | None = None
    pet: int | None = None

    @property
    def uptake(self) -> Volume:
        """The volume that shows uptake, else the first."""
        return self.volumes[self.pet or 0]


class Annotator(ABC):
    """Corrects one case, step by step."""

    def before(self) -> Sequence[Prompt]:
        """What is said before the first prediction."""
        return []

    @abstractmethod
    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        """What is said in the next step; nothing, if there is nothing to correct.

        Args:
            prediction: the latest, on the image file's grid.
        """


def build_annotator(scan: LabelledScan, settings: EvaluationSettings, repeat: int = 0) -> Annotator:
    """The user of a protocol for one case.

    Args:
        repeat: which one; each draws otherwise.

    Raises:
        UsageError: the protocol knows one foreground label alone, and the model has more; or it
            replays clicks, and there are none.
    """
    if settings.protocol is Protocol.cvpr2025:
        return Cvpr2025Annotator(scan.label)
    if settings.protocol is Protocol.autopet4:
        return AutoPet4Annotator(scan)
    if settings.protocol is Protocol.autopet5:
        return AutoPet5Annotator(scan)
    if settings.protocol is Protocol.recorded:
        return RecordedAnnotator(scan)
    # every case has a seed of its own, so that its clicks do not depend on which cases ran before
    seed = zlib.crc32(f"{settings.seed + repeat}/{scan.name}".encode())
    user = SimulatedUser(settings.strategy, settings.criterion, seed, len(scan.label.labels))
    return SimulatedAnnotator(user, scan.label)


class SimulatedAnnotator(Annotator):
    """Clicks by one of the click strategies."""

    def __init__(self, user: SimulatedUser, label: LabelMap) -> None:
        self._user = user
        self._label = label
        self._truth = torch.from_numpy(label.voxels)

    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        seen = torch.from_numpy(prediction.voxels)
        simulated = self._user.next_clicks(self._truth, seen, self._label.spacing_mm)
        names = self._label.labels
        return [
            Prompt.of_click(Click(click.index, names[click.label_index]))
            for click in simulated or ()
        ]


class Cvpr2025Annotator(Annotator):
    """A box around every class, then a click a step for every class that has an error.

    The challenge segments each class apart and can say "not this class" of a voxel. A network with
    several labels cannot be told that, so a click where a class is in excess has the label that is
    truly there.
    """

    def __init__(self, label: LabelMap) -> None:
        self._label = label
        self._present = [name for name in label.labels[1:] if label.mask(name).any()]

    def before(self) -> Sequence[Prompt]:
        return [self._box(name) for name in self._present]

    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        indices: dict[Index3, None] = {}  # of two classes that err at one voxel, one click
        for name in self._present:
            click = cvpr2025.next_click(self._label.mask(name), prediction.mask(name))
            if click is not None:
                indices[click.index] = None
        labels, voxels = self._label.labels, self._label.voxels
        return [Prompt.of_click(Click(index, labels[int(voxels[index])])) for index in indices]

    def _box(self, name: str) -> Prompt:
        box = cvpr2025.box_prompt(self._label.mask(name))
        assert box is not None  # the class is present
        i, j, k = box.stop
        clicks = clicks_from_box(box, name, self._label.geometry)
        return Prompt(PromptKind.box, name, (box.start, (i - 1, j - 1, k - 1)), clicks)


class AutoPet4Annotator(Annotator):
    """A pair of clicks a step, simulated before or from a file, whatever the prediction."""

    def __init__(self, scan: LabelledScan) -> None:
        tumor = _only_foreground(scan.label, Protocol.autopet4)
        if scan.recorded is None:
            if scan.pet is None and len(scan.volumes) > 1:
                raise UsageError(
                    "the protocol autopet4 clicks where a PET is bright, but none of the model's "
                    f"{len(scan.volumes)} channels is called PET or SUV; give --clicks"
                )
            pet = scan.uptake.voxels.astype(np.float32, copy=False)
            clicks = autopet4.simulate_clicks(scan.label.mask(tumor), pet)
            self._of_label = {tumor: clicks.tumor, BACKGROUND: clicks.background}
        else:
            self._of_label = {
                name: tuple(click.index for click in scan.recorded if click.label == name)
                for name in (tumor, BACKGROUND)
            }
        self._steps_done = 0

    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        step, self._steps_done = self._steps_done, self._steps_done + 1
        return [
            Prompt.of_click(Click(indices[step], name))
            for name, indices in self._of_label.items()
            if step < len(indices)
        ]


class AutoPet5Annotator(Annotator):
    """A scribble a step, in the larger of the errors.

    An error that stays gets the same scribble again. The clicks that stand for it are then others
    of its voxels, as long as there are any: told the same clicks, the network would change nothing.
    """

    def __init__(self, scan: LabelledScan) -> None:
        self._tumor = _only_foreground(scan.label, Protocol.autopet5)
        self._label = scan.label
        self._strategy = autopet5.strategy_of(scan.number)
        self._clicked: set[Index3] = set()

    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        scribble = autopet5.next_scribble(
            self._label.mask(self._tumor), prediction.mask(self._tumor), self._strategy
        )
        if scribble is None:
            return []
        name = self._tumor if scribble.is_foreground else BACKGROUND
        new = [voxel for voxel in scribble.voxels if voxel not in self._clicked]
        drawn = _mask_of(new or scribble.voxels, self._label.shape)
        clicks = clicks_from_scribble(drawn, name, self._label.geometry)
        self._clicked |= {click.index for click in clicks}
        return [Prompt(PromptKind.scribble, name, scribble.voxels, clicks)]


class RecordedAnnotator(Annotator):
    """One recorded click a step, in the order in which they were given."""

    def __init__(self, scan: LabelledScan) -> None:
        if scan.recorded is None:
            raise UsageError(
                f"{scan.name}: there are no recorded clicks to replay; name their folder"
            )
        self._left = iter(scan.recorded)

    def next(self, prediction: LabelMap) -> Sequence[Prompt]:
        click = next(self._left, None)
        return [] if click is None else [Prompt.of_click(click)]


def _only_foreground(label: LabelMap, protocol: Protocol) -> str:
    names = label.labels[1:]
    if len(names) != 1:
        raise UsageError(
            f"the protocol {protocol.value} knows one foreground label, but the model has "
            f"{len(names)}: {', '.join(names)}"
        )
    return names[0]


def _mask_of(voxels: Sequence[Index3], shape: Index3) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=np.bool_)
    mask[tuple(np.array(voxels).T)] = True
    return mask
