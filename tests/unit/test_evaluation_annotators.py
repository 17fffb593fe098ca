"""The users of the protocols, as an evaluation asks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from voxclick import Click, LabelMap, Volume
from voxclick.errors import UsageError
from voxclick.evaluation.annotators import LabelledScan, PromptKind, build_annotator
from voxclick.evaluation.settings import EvaluationSettings, Protocol
from voxclick.simulation import MaxStepsOrDice
from voxclick.simulation.challenges import autopet4, autopet5, cvpr2025

SHAPE = (20, 18, 16)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def scan(*, labels=("background", "tumor"), number=0, recorded=None) -> LabelledScan:
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[3:8, 3:8, 3:8] = 1
    if len(labels) > 2:
        truth[12:16, 12:16, 8:12] = 2
    pet = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    label = LabelMap(truth, AFFINE, labels=labels)
    return LabelledScan("case", (Volume(pet, AFFINE),), label, number, recorded)


def nothing_found(of: LabelledScan) -> LabelMap:
    return LabelMap(np.zeros(SHAPE, dtype=np.uint8), AFFINE, labels=of.label.labels)


@pytest.mark.parametrize(
    "protocol", ["largest-error", "corrective", "non-corrective", "patch-corrective", "deepgrow"]
)
def test_simulated_clicks_lie_in_their_label_and_repeat_themselves(protocol):
    case = scan()
    settings = EvaluationSettings(protocol=Protocol(protocol), steps=12, seed=3)
    runs = []
    for repeat in (0, 0, 1):
        annotator = build_annotator(case, settings, repeat)
        assert annotator.before() == []
        prompts = [p for _ in range(12) for p in annotator.next(nothing_found(case))]
        for prompt in prompts:
            assert case.label.labels[case.label.voxels[prompt.voxels[0]]] == prompt.label
        runs.append([prompt.clicks for prompt in prompts])
    assert runs[0] == runs[1] != []
    if protocol != "largest-error":
        assert runs[0] != runs[2]


def test_a_stopped_user_says_nothing_more():
    case = scan()
    settings = EvaluationSettings(stopping=MaxStepsOrDice(dice_loss=0.5), steps=4)
    annotator = build_annotator(case, settings)
    assert len(annotator.next(nothing_found(case))) == 1
    half = nothing_found(case)
    half.voxels[3:8, 3:8, 3:6] = 1  # Dice 2 * 75 / (75 + 125) = 0.75
    assert annotator.next(half) == []
    assert annotator.next(nothing_found(case)) == []


def test_cvpr2025_draws_boxes_and_clicks_every_class():
    case = scan(labels=("background", "liver", "tumor", "spleen"))
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.cvpr2025))
    boxes = annotator.before()
    assert [(prompt.kind, prompt.label) for prompt in boxes] == [
        (PromptKind.box, "liver"),
        (PromptKind.box, "tumor"),
    ]
    box = cvpr2025.box_prompt(case.label.mask("tumor"))
    assert boxes[1].voxels[0] == box.start
    seen = nothing_found(case)
    seen.voxels[3:8, 3:8, 3:8] = 2  # the liver is taken for a tumour
    prompts = annotator.next(seen)
    # both classes err at the liver: "not a tumour" is told as what is there
    expected = cvpr2025.next_click(case.label.mask("liver"), seen.mask("liver"))
    assert [prompt.clicks for prompt in prompts] == [(Click(expected.index, "liver"),)]


def test_autopet4_gives_pairs_of_simulated_clicks():
    case = scan()
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.autopet4))
    expected = autopet4.simulate_clicks(case.label.mask("tumor"), case.volumes[0].voxels)
    for step in range(10):
        clicks = [prompt.clicks[0] for prompt in annotator.next(case.label)]
        assert clicks == [
            Click(expected.tumor[step], "tumor"),
            Click(expected.background[step], "background"),
        ]
    assert annotator.next(case.label) == []


def test_autopet4_takes_pairs_from_a_file():
    clicks = [((1, 1, 1), "tumor"), ((2, 2, 2), "tumor"), ((3, 3, 3), "background")]
    case = scan(recorded=tuple(Click(index, label) for index, label in clicks))
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.autopet4))
    steps = [[p.clicks[0].index for p in annotator.next(case.label)] for _ in range(3)]
    assert steps == [[(1, 1, 1), (3, 3, 3)], [(2, 2, 2)], []]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_autopet5_scribbles_on_one_slice_of_the_error(number):
    case = scan(number=number)
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.autopet5))
    (prompt,) = annotator.next(nothing_found(case))
    strategy = autopet5.strategy_of(number)
    expected = autopet5.next_scribble(
        case.label.mask("tumor"), np.zeros(SHAPE, dtype=bool), strategy
    )
    assert (prompt.kind, prompt.label) == (PromptKind.scribble, "tumor")
    assert prompt.voxels == expected.voxels
    assert {click.index for click in prompt.clicks} <= set(prompt.voxels)
    assert annotator.next(case.label) == []


def test_autopet5_tells_something_new_of_an_error_that_stays():
    case = scan()
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.autopet5))
    prompts = [annotator.next(nothing_found(case))[0] for _ in range(3)]
    assert len({prompt.voxels for prompt in prompts}) == 1  # the scribble is the challenge's
    clicks = [click for prompt in prompts for click in prompt.clicks]
    assert len(set(clicks)) == len(clicks) >= 3


def test_recorded_clicks_come_one_by_one():
    clicks = (Click((1, 1, 1), "tumor"), Click((9, 9, 9), "background"))
    case = scan(recorded=clicks)
    annotator = build_annotator(case, EvaluationSettings(protocol=Protocol.recorded))
    assert [[p.clicks for p in annotator.next(case.label)] for _ in range(3)] == [
        [(clicks[0],)],
        [(clicks[1],)],
        [],
    ]
    with pytest.raises(UsageError, match="no recorded clicks"):
        build_annotator(scan(), EvaluationSettings(protocol=Protocol.recorded))


@pytest.mark.parametrize("protocol", [Protocol.autopet4, Protocol.autopet5])
def test_protocols_for_one_label_refuse_more(protocol):
    case = scan(labels=("background", "liver", "tumor"))
    with pytest.raises(UsageError, match="one foreground label, but the model has 2"):
        build_annotator(case, EvaluationSettings(protocol=protocol))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "autopet5", "steps": 4}, "autopet5 has 5 steps, got 4"),
        ({"protocol": "autopet4", "repeats": 2}, "repeats belongs to the protocols largest-error"),
        ({"weighting": "border-distance"}, "weighting belongs to the protocols corrective"),
        ({"protocol": "corrective", "click_probability": 0.1}, "belongs to the protocols deepgrow"),
        ({"protocol": "autopet4", "seed": 5}, "seed belongs to the protocols largest-error"),
        ({"protocol": "corrective", "patch_size": 3}, "belongs to the protocols patch-corrective"),
    ],
)
def test_settings_that_a_protocol_does_not_know_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        EvaluationSettings.model_validate(values)


def test_steps_are_the_challenges_own():
    assert EvaluationSettings(protocol=Protocol.cvpr2025).steps == 5
    assert EvaluationSettings(protocol=Protocol.autopet4).steps == 10
    assert EvaluationSettings().steps == 10


def test_autopet4_clicks_where_the_pet_is_bright():
    case = scan()
    ct = Volume(np.flip(case.volumes[0].voxels).copy(), AFFINE)
    both = replace(case, volumes=(ct, *case.volumes), pet=1)
    settings = EvaluationSettings(protocol=Protocol.autopet4)
    assert build_annotator(both, settings).next(case.label) == (
        build_annotator(case, settings).next(case.label)
    )
    with pytest.raises(UsageError, match="none of the model's 2 channels is called PET or SUV"):
        build_annotator(replace(both, pet=None), settings)
