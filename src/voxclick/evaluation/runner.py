"""The click loop of an evaluation: predict, score, correct, predict again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from voxclick.clicks import Click
from voxclick.datasets import Case, read_case_images, read_case_label
from voxclick.errors import DatasetError
from voxclick.evaluation.annotators import Annotator, LabelledScan, Prompt, build_annotator
from voxclick.evaluation.baselines import BaselineName, build_baseline
from voxclick.evaluation.scoring import CaseScorer, CaseScores
from voxclick.evaluation.settings import EvaluationSettings
from voxclick.model_files import ModelSettings
from voxclick.session import InteractiveSession, Prediction
from voxclick.types import Index3
from voxclick.volume import LabelMap

NO_CLICKS = "no-clicks"
"""The baseline that is the network's own first prediction."""


@dataclass(frozen=True, eq=False)
class Step:
    """One case after one step.

    Attributes:
        number: 0 is the first prediction.
        prompts: what the user said in this step; in step 0, before it.
        clicks: how many the network has been told so far.
        windows: how many ran through the network in this step.
        seconds: for the prediction of this step.
        scores: of the prediction; where nothing was left to correct, those of the step before.
        baselines: scores of other methods with the same clicks, by their names.
    """

    number: int
    prompts: tuple[Prompt, ...]
    clicks: int
    windows: int
    seconds: float
    scores: CaseScores
    baselines: Mapping[str, CaseScores]


@dataclass(frozen=True, eq=False)
class ClickedThrough:
    """Attributes:
    steps: from step 0.
    first: the first prediction.
    last: the prediction after all steps.
    clicks: all that the network has been told, in voxels of the file.
    """

    steps: tuple[Step, ...]
    first: LabelMap
    last: LabelMap
    clicks: tuple[Click, ...]


StepCallback = Callable[[Step, LabelMap], None]
"""Called with every step and its prediction."""


def read_scan(
    case: Case, model: ModelSettings, number: int = 0, recorded: tuple[Click, ...] | None = None
) -> LabelledScan:
    """Read one case.

    Args:
        number: its place in the data set.
        recorded: clicks that were given before.

    Raises:
        DatasetError: the case has no label, or label and image do not share a grid.
    """
    if case.label is None:
        raise DatasetError(f"{case.name}: has no label, so there is nothing to score against")
    volumes = read_case_images(case)
    label = read_case_label(case, model.labels)
    if not label.geometry.matches(volumes[0].geometry):
        raise DatasetError(
            f"{case.label}: lies on another grid than {case.images[0]}; expected shape "
            f"{volumes[0].shape}, got {label.shape}"
        )
    return LabelledScan(case.name, volumes, label, number, recorded, uptake_channel(model.channels))


def uptake_channel(channels: Sequence[str]) -> int | None:
    """The first channel whose name has PET or SUV in it."""
    named = (
        number
        for number, name in enumerate(channels)
        if any(word in name.lower() for word in ("pet", "suv"))
    )
    return next(named, None)


class CaseEvaluation:
    """One case, to be clicked through as often as wanted.

    Args:
        session: on the case's image.
        scan: the case.
        settings: of the evaluation.
        baselines: other methods that are shown the same clicks.
    """

    def __init__(
        self,
        session: InteractiveSession,
        scan: LabelledScan,
        settings: EvaluationSettings,
        baselines: Sequence[BaselineName] = (),
    ) -> None:
        self._session = session
        self._scan = scan
        self._settings = settings
        self._scorer = CaseScorer(scan.label)
        self._said: dict[Index3, str] = {}
        self._baselines = {
            name.value: {
                label: build_baseline(name, scan.uptake, scan.label.mask(label))
                for label in scan.label.labels[1:]
            }
            for name in baselines
        }

    def click_through(self, repeat: int = 0, on_step: StepCallback | None = None) -> ClickedThrough:
        """Let the protocol's user correct the case from the beginning.

        Args:
            repeat: which one; each draws otherwise.
            on_step: told every step as it is known.

        Raises:
            UsageError: the protocol does not suit the model or the case.
        """
        self._session.reset()
        self._said.clear()
        annotator = build_annotator(self._scan, self._settings, repeat)
        prompts = self._listen(annotator, None)
        first = prediction = self._predict(prompts, None)
        steps: list[Step] = []
        while True:
            steps.append(self._step(prompts, prediction, steps))
            if on_step is not None:
                on_step(steps[-1], prediction.label_map)
            if len(steps) > self._settings.steps:
                break
            prompts = self._listen(annotator, prediction)
            prediction = self._predict(prompts, prediction)
        clicks = self._session.clicks
        return ClickedThrough(tuple(steps), first.label_map, prediction.label_map, clicks)

    def _listen(self, annotator: Annotator, seen: Prediction | None) -> Sequence[Prompt]:
        return annotator.before() if seen is None else annotator.next(seen.label_map)

    def _predict(self, prompts: Sequence[Prompt], before: Prediction | None) -> Prediction:
        for click in (click for prompt in prompts for click in prompt.clicks):
            self._tell(click)
        if before is not None and not (prompts and self._session.takes_clicks):
            # nothing left to correct, or no way to: the prediction stands, at no cost
            return Prediction(before.label_map, changed=None, windows=0, seconds=0.0)
        return self._session.predict()

    def _tell(self, click: Click) -> None:
        """Say a click; where the user said otherwise before, what was said last counts."""
        earlier = self._said.get(click.index)
        self._said[click.index] = click.label
        if not self._session.takes_clicks:
            return  # the other methods hear it all the same
        if earlier not in (None, click.label):
            self._session.remove(Click(click.index, earlier))
        self._session.add([click])

    def _step(
        self, prompts: Sequence[Prompt], prediction: Prediction, earlier: Sequence[Step]
    ) -> Step:
        if earlier and prediction.changed is None:
            scores = earlier[-1].scores
        else:
            scores = self._scorer.score(prediction.label_map)
        if earlier and not prompts:
            baselines = earlier[-1].baselines
        else:
            baselines = self._score_baselines(earlier[0].scores if earlier else scores)
        return Step(
            number=len(earlier),
            prompts=tuple(prompts),
            clicks=len(self._session.clicks),
            windows=prediction.windows,
            seconds=prediction.seconds,
            scores=scores,
            baselines=baselines,
        )

    def _score_baselines(self, without_clicks: CaseScores) -> dict[str, CaseScores]:
        if not self._baselines:
            return {}
        scores = {NO_CLICKS: without_clicks}
        for name, methods in self._baselines.items():
            masks = {
                label: method.segment(
                    [index for index, said in self._said.items() if said == label],
                    [index for index, said in self._said.items() if said != label],
                )
                for label, method in methods.items()
            }
            scores[name] = self._scorer.score(masks)
        return scores
