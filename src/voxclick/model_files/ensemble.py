"""Several models that answer as one, such as the folds of a cross-validation.

An `Ensemble` is a `Model`: its network asks the members' networks about the same windows and puts
their answers together, so sessions, the cache of windows, uncertainty and evaluation know nothing
of it. A click runs the windows that it touches, in every member.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from voxclick.errors import ModelFileError, UsageError
from voxclick.model_files.model import (
    Backend,
    Model,
    ModelSettings,
    load_model,
    read_model_settings,
)
from voxclick.types import Index3

Combination: TypeAlias = Literal["mean", "vote"]
"""``mean``: the mean of the members' logits, as nnU-Net averages its folds. ``vote``: the label
that most members choose; see `EnsembleNetwork`."""

_MUST_AGREE = {
    "labels": True,
    "channels": True,
    "preprocessing": True,
    "guidance": True,
    # what a network sees at once; how windows are then put together is one choice for all
    "inference": {"kind", "window", "centre_crop"},
}

_LEAST_PROBABILITY = math.exp(-20)
"""Where float32 has rounded a probability to 0, its logarithm must be finite all the same; a
window that nobody looks at is as surely background as this (`BACKGROUND_MARGIN`)."""


class EnsembleNetwork(nn.Module):
    """Networks that see the same windows, and one answer.

    ``mean`` gives the mean of the members' logits. Blending windows is linear, so a volume's
    blended logits are the mean of what the members give for it.

    ``vote`` gives the logits ``log(v + p)`` of a label: the number ``v`` of members with their
    largest logit there (of equal ones the lower index has it) and the mean ``p`` of their softmax
    probabilities, at least exp(-20). So

    - the label with most votes wins, as ``p`` of one label is never larger by 1 than that of one
      with a vote; among labels with equally many, the more probable one wins;
    - the softmax of the logits is ``(v + p) / (members + 1)``: the shares of the votes, with one
      more vote divided like the probability. A voxel on which the members differ is as uncertain
      as that, and one on which they agree as uncertain as they are.

    Where windows overlap, these logits are blended like those of one network: the window in which
    the members agree counts for more.

    Args:
        members: each maps (batch, channel, i, j, k) to logits (batch, label, i, j, k); put into
            evaluation mode.
        combination: how.
    """

    def __init__(self, members: Sequence[nn.Module], combination: Combination) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.combination: Combination = combination
        self.eval()

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of windows.

        Args:
            windows: (batch, channel, i, j, k).

        Returns:
            float32 logits (batch, label, i, j, k), whatever dtype the members compute in.
        """
        # one member after the other: their logits need not exist at the same time
        logits = (member(windows).float() for member in self.members)
        if self.combination == "vote":
            return _votes(logits, len(self.members))
        return sum(logits, start=torch.zeros(())) / len(self.members)


def _votes(logits: Iterable[Tensor], members: int) -> Tensor:
    votes, probability = torch.zeros(()), torch.zeros(())
    for of_member in logits:
        chosen = of_member.argmax(dim=1, keepdim=True)
        votes = votes + torch.zeros_like(of_member).scatter_(1, chosen, 1)
        probability = probability + of_member.softmax(dim=1)
    return (votes + (probability / members).clamp(min=_LEAST_PROBABILITY)).log()


@dataclass(frozen=True, eq=False)
class Ensemble(Model):
    """Models that see the same and answer alike, as one model; from `load_ensemble`.

    Its settings are those of the first member. With another order of members its results are
    rounded otherwise, so it is another ensemble.

    Attributes:
        members: in their order.
        combination: of their answers.
    """

    members: tuple[Model, ...]
    combination: Combination

    @property
    def backend(self) -> Backend:
        """What computes the members."""
        return self.members[0].backend

    @property
    def window_multiple(self) -> Index3:
        """Windows must have a multiple of this many voxels along (i, j, k): all members take it."""
        i, j, k = map(math.lcm, *(member.window_multiple for member in self.members))
        return (i, j, k)

    @cached_property
    def fingerprint(self) -> str:
        """The same for ensembles that answer alike: a digest of members and combination."""
        digest = hashlib.blake2b(self.combination.encode(), digest_size=16)
        for member in self.members:
            digest.update(member.fingerprint.encode())
        return digest.hexdigest()


def load_ensemble(
    paths: Sequence[str | Path],
    device: str | torch.device = "auto",
    backend: Backend = "torch",
    combination: Combination = "mean",
) -> Model:
    """Read model files that shall answer as one; of a single one this is `load_model`.

    They must agree in labels, channels, preprocessing, guidance and window. Networks and weights
    may differ. What else the first one says of inference (overlap, blending, precision …) holds
    for all. A window counts as air where every member says so.

    Args:
        paths: files of `save_model` or ``voxclick train``, each once.
        device: as for `load_model`.
        backend: what computes all members.
        combination: how their answers are put together, see `EnsembleNetwork`.

    Raises:
        ModelFileError: a file that `load_model` refuses, or two that do not agree.
        UsageError: no file, one file twice, an unknown combination, or what `load_model` refuses.
    """
    if combination not in get_args(Combination):
        raise UsageError(
            f"there is no combination {combination!r}; expected one of "
            f"{', '.join(get_args(Combination))}"
        )
    files = [Path(path) for path in paths]
    if not files:
        raise UsageError("an ensemble needs at least one model file, got none")
    _refuse_repeated(files)
    _refuse_disagreement(files)
    members = tuple(load_model(path, device, backend) for path in files)
    first = members[0]
    if len(members) == 1:
        return first
    network = EnsembleNetwork([member.network for member in members], combination)
    air_below = _air_below([member.settings for member in members])
    settings = first.settings.model_copy(update={"air_below": air_below})
    return Ensemble(settings, network, first.device, members, combination)


def _refuse_repeated(files: Sequence[Path]) -> None:
    """A member counts once: a file that is named twice is a slip, as with a folder and its file."""
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise UsageError(f"{path}: is named twice, but a member of an ensemble counts once")
        seen.add(path.resolve())


def _refuse_disagreement(files: Sequence[Path]) -> None:
    """Before any weights are read."""
    first = _to_agree_in(files[0])
    for path in files[1:]:
        other = _to_agree_in(path)
        if other != first:
            name, ours, theirs = _first_difference(first, other)
            raise ModelFileError(
                f"{path}: has {name} {theirs}, but {files[0]} has {ours}; the members of an "
                "ensemble must agree in this, so leave one of the two files away"
            )


def _to_agree_in(path: Path) -> dict[str, Any]:
    return read_model_settings(path).model_dump(include=_MUST_AGREE)


def _first_difference(ours: Any, theirs: Any, name: str = "") -> tuple[str, Any, Any]:
    """The first entry that differs, by its dotted name, with its two values."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        key = next(key for key in ours if ours[key] != theirs[key])
        return _first_difference(ours[key], theirs[key], f"{name}.{key}".lstrip("."))
    return name, ours, theirs


def _air_below(members: Sequence[ModelSettings]) -> float | None:
    """Air for every member; None if one of them does not know."""
    known = [settings.air_below for settings in members if settings.air_below is not None]
    return min(known) if len(known) == len(members) else None
