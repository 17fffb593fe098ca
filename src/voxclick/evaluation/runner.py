"""The click loop of an evaluation: predict, score, click, predict again."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from voxclick.clicks import Click
from voxclick.datasets import Case
from voxclick.errors import DatasetError
from voxclick.evaluation.metrics import dice
from voxclick.evaluation.results import StepScore
from voxclick.evaluation.settings import EvaluationSettings
from voxclick.io import read_label_map, read_volume
from voxclick.model_files import Model
from voxclick.session import InteractiveSession, Prediction
from voxclick.simulation import MaxSteps, SimulatedUser
from voxclick.sliding_window import InferenceSettings
from voxclick.volume import LabelMap


@dataclass(frozen=True, eq=False)
class EvaluatedCase:
    """Attributes:
    scores: one per step, from step 0; where nothing is left to correct, the score stands.
    first: the prediction without clicks.
    last: the prediction after all clicks.
    clicks: all of them, in voxels of the file.
    """

    scores: tuple[StepScore, ...]
    first: LabelMap
    last: LabelMap
    clicks: tuple[Click, ...]


StepCallback = Callable[[StepScore], None]


def evaluate_case(
    case: Case,
    model: Model,
    settings: EvaluationSettings,
    inference: InferenceSettings | None = None,
    on_step: StepCallback | None = None,
) -> EvaluatedCase:
    """Read one case and let the simulated user correct it.

    Raises:
        DatasetError: the case has no label, or label and image do not share a grid.
    """
    if case.label is None:
        raise DatasetError(f"{case.name}: has no label, so there is nothing to score against")
    volumes = [read_volume(path) for path in case.images]
    label = read_label_map(case.label, model.settings.labels)
    if not label.geometry.matches(volumes[0].geometry):
        raise DatasetError(
            f"{case.label}: lies on another grid than {case.images[0]}; expected shape "
            f"{volumes[0].shape}, got {label.shape}"
        )
    session = InteractiveSession(model, volumes, inference)
    return evaluate_session(session, label, case.name, settings, on_step)


def evaluate_session(
    session: InteractiveSession,
    label: LabelMap,
    name: str,
    settings: EvaluationSettings,
    on_step: StepCallback | None = None,
) -> EvaluatedCase:
    """Let the simulated user correct an opened session.

    Args:
        session: on the image, without clicks.
        label: the truth, on the image file's grid.
        name: of the case.
        settings: protocol, steps and seed.
        on_step: told every score as it is known.
    """
    user = _build_user(settings, name, len(label.labels))
    truth = torch.from_numpy(label.voxels)
    scores: list[StepScore] = []

    def score(prediction: Prediction, step: int) -> None:
        scores.append(_score(prediction, label, name, step, len(session.clicks)))
        if on_step is not None:
            on_step(scores[-1])

    first = prediction = session.predict()
    score(first, 0)
    for step in range(1, settings.steps + 1):
        simulated = session.takes_clicks and user.next_clicks(
            truth, torch.from_numpy(prediction.label_map.voxels), label.spacing_mm
        )
        if simulated:
            session.add([Click(c.index, label.labels[c.label_index]) for c in simulated])
            prediction = session.predict()
        else:
            # nothing left to correct, or no way to: the prediction stands, at no cost
            prediction = Prediction(prediction.label_map, changed=None, windows=0, seconds=0.0)
        score(prediction, step)
    return EvaluatedCase(tuple(scores), first.label_map, prediction.label_map, session.clicks)


def _build_user(settings: EvaluationSettings, name: str, label_count: int) -> SimulatedUser:
    # every case has a seed of its own, so that its clicks do not depend on which cases ran before
    seed = zlib.crc32(f"{settings.seed}/{name}".encode())
    stopping = MaxSteps(max_steps=settings.steps)
    return SimulatedUser(settings.strategy, stopping, seed, label_count)


def _score(prediction: Prediction, label: LabelMap, name: str, step: int, clicks: int) -> StepScore:
    masks = {foreground: label.mask(foreground) for foreground in label.labels[1:]}
    per_label = {
        foreground: dice(prediction.label_map.mask(foreground), mask)
        for foreground, mask in masks.items()
    }
    present = [foreground for foreground, mask in masks.items() if mask.any()]
    scored = [per_label[foreground] for foreground in present or masks]
    return StepScore(
        case=name,
        step=step,
        dice=sum(scored) / len(scored),
        dice_per_label=per_label,
        empty_label=not present,
        empty_per_label={foreground: foreground not in present for foreground in masks},
        clicks=clicks,
        windows=prediction.windows,
        seconds=prediction.seconds,
    )
