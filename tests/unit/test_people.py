"""People's clicks, measured and replayed beside a simulated user's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import image as picture
from torch import nn

from voxclick import Click, InteractiveSession, LabelMap, Volume, write_label_map, write_volume
from voxclick.clicks.logs import ClickLog, TimedClick, write_click_log
from voxclick.datasets import Case
from voxclick.errors import UsageError
from voxclick.evaluation.metrics import dice
from voxclick.evaluation.people import (
    UNNAMED,
    Effort,
    User,
    UserStudy,
    logs_table,
    measure_efforts,
    people_table,
    read_click_logs,
    summarise_people,
)
from voxclick.evaluation.people_figures import dice_over_time, plot_people
from voxclick.evaluation.scoring import CaseScorer
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows

SHAPE = (16, 16, 16)
LABELS = ("background", "tumor")


def log(*times, case="a", annotator="anna"):
    """Clicks along a row of voxels, at (seconds) or (seconds, removed)."""
    clicks = [TimedClick(Click((n, 0, 0), "tumor"), *when) for n, when in enumerate(times)]
    return ClickLog(case, tuple(clicks), annotator)


def test_effort_by_hand():
    effort = Effort.of(log((4.0,), (6.0, 7.0), (11.0,), (12.0, 20.0)), lesions=2)
    assert effort == Effort(
        clicks=4,
        taken_back=2,
        lesions=2,
        clicks_per_lesion=2.0,
        seconds_per_click=3.0,  # the median of 4, 2, 5 and 1
        seconds=20.0,
    )
    nothing = Effort.of(log(), lesions=0)
    assert (nothing.clicks, nothing.seconds) == (0, 0.0)
    assert math.isnan(nothing.clicks_per_lesion)
    assert math.isnan(nothing.seconds_per_click)


def test_logs_say_of_what_case_and_by_whom_they_are(tmp_path):
    def put(name, case, annotator=None):
        write_click_log(ClickLog(case, (), annotator), tmp_path / f"{name}.json")

    put("a", "a")
    put("a_anna", "a_anna")  # names no case but its file
    put("a_b_ben", "a_b_ben")
    put("other", "a", "clara")
    put("a_x", "a", "dora")
    put("again", "a", "clara")
    put("stray", "nowhere")
    put("strayed", "strayed")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").touch()
    logs, mismatches = read_click_logs(tmp_path, ["a", "a_b"])
    assert [(found.case, found.annotator) for found in logs] == [
        ("a", "anna"),
        ("a", "clara"),
        ("a", "dora"),
        ("a", UNNAMED),
        ("a_b", "ben"),
    ]
    assert [mismatch.name for mismatch in mismatches] == ["broken", "other", "stray", "strayed"]
    problems = {mismatch.name: mismatch.problem for mismatch in mismatches}
    assert "is a second log of a by clara" in problems["other"]
    assert "is a log of 'nowhere', of which there is no label" in problems["stray"]


def test_a_folder_without_logs_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"no such folder, or no \.json file"):
            read_click_logs(folder, ["a"])


class ClicksAreTheAnswer(nn.Module):
    """A tumour click makes tumour around it, a background click takes it away."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        _, background, tumor = windows.unbind(dim=1)
        score = 4 * tumor - 4 * background
        return torch.stack([torch.full_like(score, 0.5), score], dim=1)


def model() -> Model:
    settings = ModelSettings(
        labels=LABELS,
        channels=("PET",),
        preprocessing=PreprocessingSettings(intensity=(RangeScaling(low=0, high=1),)),
        guidance=DiskGuidance(),
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=SHAPE),
    )
    return Model(settings, ClicksAreTheAnswer(), torch.device("cpu"))


@pytest.fixture
def case(tmp_path):
    """Two lesions that no single click fills."""
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[1:9, 1:5, 1:5] = 1
    voxels[11:15, 11:15, 11:15] = 1
    write_volume(Volume(np.zeros(SHAPE, dtype=np.float32), np.eye(4)), tmp_path / "image.nii")
    write_label_map(LabelMap(voxels, np.eye(4)), tmp_path / "label.nii")
    return Case("a", (tmp_path / "image.nii",), tmp_path / "label.nii")


def study(told=None):
    loaded = model()
    on_steps = (told if told is not None else []).append
    return UserStudy(loaded, loaded.settings.inference, seed=0, on_steps=on_steps)


def timed(clicks, start=0.0):
    return tuple(TimedClick(click, start + 2.0 * n) for n, click in enumerate(clicks, 1))


def test_who_clicks_as_the_simulated_user_reaches_the_same(case):
    anything = ClickLog("a", timed([Click((n, 15, 0), "background") for n in range(4)]), "anna")
    (first,), _ = study().replay(case, [anything])
    own = [click for step in first.simulated for prompt in step.prompts for click in prompt.clicks]
    assert len(own) == 4
    clicked = ClickLog("a", timed(own), "ben")
    told = []
    (second,), mismatches = study(told).replay(case, [clicked])
    assert mismatches == ()
    assert [s.scores for s in second.person] == [s.scores for s in second.simulated]
    assert second.person[4].scores.together.dice > second.person[0].scores.together.dice == 0
    assert sum(told) == UserStudy.steps_of([clicked]) == 10


def test_clicks_are_replayed_one_by_one_without_those_taken_back(case):
    truth = np.zeros(SHAPE, dtype=bool)
    truth[1:9, 1:5, 1:5] = truth[11:15, 11:15, 11:15] = True
    given = [Click((3, 3, 3), "tumor"), Click((12, 3, 12), "tumor"), Click((13, 13, 13), "tumor")]
    clicks = (
        TimedClick(given[0], 3.0),
        TimedClick(given[1], 5.0, removed=6.0),
        TimedClick(given[2], 9.0),
    )
    (replayed,), _ = study().replay(case, [ClickLog("a", clicks, "anna")])
    session = InteractiveSession(model(), Volume(np.zeros(SHAPE, dtype=np.float32), np.eye(4)))
    expected = [dice(session.predict().label_map.voxels == 1, truth)]
    for click in (given[0], given[2]):
        session.add([click])
        expected.append(dice(session.predict().label_map.voxels == 1, truth))
    table = people_table([replayed])
    person = table.loc[table.user == "person"]
    assert list(person.dice) == expected
    assert list(person.step) == [0, 1, 2]
    assert list(person.clicks) == [0, 1, 3]  # the one taken back was work
    assert list(person.seconds) == [0, 3, 9]
    simulated = table.loc[table.user == "simulated"]
    assert list(simulated.clicks) == [0, 1, 2]
    took = [step.seconds for step in replayed.simulated]
    assert list(simulated.seconds) == pytest.approx(np.cumsum(took))
    assert min(took) > 0


def test_a_log_that_does_not_fit_stands_alone(case):
    outside = ClickLog("a", timed([Click((99, 0, 0), "tumor")]), "anna")
    unknown = ClickLog("a", timed([Click((1, 1, 1), "liver")]), "ben")
    none_left = ClickLog("a", (TimedClick(Click((1, 1, 1), "tumor"), 1.0, 2.0),), "clara")
    replayed, mismatches = study().replay(case, [outside, unknown, none_left])
    assert [(one.log.annotator, len(one.person), len(one.simulated)) for one in replayed] == [
        ("clara", 1, 1)
    ]
    assert [mismatch.name for mismatch in mismatches] == ["a_anna", "a_ben"]
    assert "outside the image" in mismatches[0].problem
    assert "knows background, tumor" in mismatches[1].problem


def test_a_case_that_cannot_be_read_costs_its_logs(case):
    case.images[0].write_bytes(b"no image")
    replayed, mismatches = study().replay(case, [log((1.0,)), log((1.0,), annotator="ben")])
    assert replayed == ()
    assert [mismatch.name for mismatch in mismatches] == ["a_anna", "a_ben"]


def test_efforts_know_the_lesions_of_the_label(case, tmp_path):
    logs = [log((1.0,), (2.0,), (3.0,)), log((1.0,), annotator="ben"), log(case="b")]
    (tmp_path / "b.nii").write_bytes(b"no label")
    efforts, mismatches = measure_efforts(logs, {"a": case.label, "b": tmp_path / "b.nii"}, LABELS)
    assert [effort.clicks_per_lesion for _, effort in efforts] == [1.5, 0.5]
    assert [mismatch.name for mismatch in mismatches] == ["b_anna"]


def test_a_log_stands_beside_the_final_mask_of_its_own():
    truth = np.zeros((4, 4, 4), dtype=np.uint8)
    truth[0] = 1
    scorer = CaseScorer(LabelMap(truth, np.eye(4), labels=LABELS))
    right = scorer.score({"tumor": truth == 1})
    wrong = scorer.score({"tumor": truth == 0})
    logs = [log(), log(annotator="ben"), log(case="b"), log(case="c")]
    efforts = [(one, Effort.of(one, 1)) for one in logs]
    table = logs_table(efforts, {"a": wrong, "a_ben": right, "b": wrong})
    # of two people's case, a mask of no one's name is nobody's
    assert list(table.dice.fillna(-1)) == [-1, 1, 0, -1]
    assert "dice" not in logs_table(efforts, {})


def made_up(case, annotator, user, dice, clicks=None, seconds=None, *, empty=False):
    """Rows of a people's table; other scores follow Dice."""
    count = len(dice)
    return pd.DataFrame(
        {
            "case": case,
            "annotator": annotator,
            "user": user.value,
            "step": range(count),
            "dice": dice,
            "nsd": dice,
            "fpv_ml": 0.0,
            "fnv_ml": 0.0,
            "empty_label": empty,
            "clicks": range(count) if clicks is None else clicks,
            "seconds": [0.5 * n for n in range(1, count + 1)] if seconds is None else seconds,
        }
    )


@pytest.fixture
def two_logs():
    """Anna clicks three times and takes one back, Ben clicks once; both on cases with lesions."""
    rows = [
        made_up("a", "anna", User.person, [0.2, 0.82, 0.88], [0, 1, 3], [0.0, 4.0, 10.0]),
        made_up("a", "anna", User.simulated, [0.2, 0.7, 0.92]),
        made_up("b", "ben", User.person, [0.4, 0.6], seconds=[0.0, 2.0]),
        made_up("b", "ben", User.simulated, [0.4, 0.8]),
    ]
    efforts = [
        (log((4.0,), (6.0, 7.0), (10.0,)), 2),
        (log((2.0,), case="b", annotator="ben"), 1),
    ]
    logs = logs_table([(one, Effort.of(one, lesions)) for one, lesions in efforts], {})
    return logs, pd.concat(rows, ignore_index=True)


def test_person_and_simulated_user_by_hand(two_logs):
    summary = summarise_people(*two_logs)
    assert (summary["logs"], summary["cases"], summary["annotators"]) == (2, 2, ["anna", "ben"])
    person, simulated = summary["person"], summary["simulated"]
    assert person["clicks"] == 2.0
    assert person["taken_back"] == 0.5
    assert person["clicks_per_lesion"] == pytest.approx((1.5 + 1) / 2)
    assert person["seconds_per_click"] == pytest.approx((4 + 2) / 2)  # of 4, 2, 4 and of 2
    assert person["seconds"] == 6.0
    # ben stops after one click and keeps his mask
    assert person["dice"] == pytest.approx([0.3, 0.71, 0.74])
    assert person["dice_std"] == pytest.approx([0.1, 0.11, 0.14])
    assert simulated["dice"] == pytest.approx([0.3, 0.75, 0.86])
    assert simulated["clicks_per_lesion"] == pytest.approx((2 / 2 + 1 / 1) / 2)
    assert simulated["seconds_per_click"] == 0.5
    assert simulated["seconds"] == pytest.approx((1.5 + 1.0) / 2)
    difference = summary["difference"]
    assert difference["dice"] == pytest.approx([0, (0.12 - 0.2) / 2, (-0.04 - 0.2) / 2])
    assert difference["dice_std"] == pytest.approx([0, 0.16, 0.08])
    assert difference["dice_mean"] == pytest.approx((0 - 0.04 - 0.12) / 3, abs=1e-4)


def test_clicks_and_seconds_until_a_dice_is_reached(two_logs):
    summary = summarise_people(*two_logs)
    # anna is there with her first click, ben never: his one click and 2 s are what it costs
    assert summary["person"]["number_of_clicks"]["0.80"] == {"noc": 1.0, "nof": 1, "seconds": 3.0}
    # the click that anna took back was work before the next one
    assert summary["person"]["number_of_clicks"]["0.85"] == {"noc": 2.0, "nof": 1, "seconds": 6.0}
    assert summary["person"]["number_of_clicks"]["0.90"]["nof"] == 2
    # two predictions and one click less or more: 1.5 s and 1 s of computing
    assert summary["simulated"]["number_of_clicks"]["0.90"] == {
        "noc": 1.5,
        "nof": 1,
        "seconds": 1.25,
    }


def test_a_step_without_a_click_is_no_time_per_click(two_logs):
    logs, table = two_logs
    more = made_up("a", "anna", User.simulated, [0.2, 1.0, 1.0], [0, 1, 1], [0.5, 1.5, 1.5])
    others = table.loc[(table.user == "person") | (table.case == "b")]
    summary = summarise_people(logs, pd.concat([others, more], ignore_index=True))
    assert summary["simulated"]["seconds_per_click"] == pytest.approx((1.0 + 0.5) / 2)
    assert summary["simulated"]["clicks"] == 1


def test_without_a_model_there_is_the_work_alone(two_logs):
    summary = summarise_people(two_logs[0], None)
    assert set(summary) == {"logs", "cases", "annotators", "mismatches", "person"}
    assert set(summary["person"]) == {
        "clicks",
        "taken_back",
        "clicks_per_lesion",
        "seconds_per_click",
        "seconds",
    }


def test_lesion_free_cases_stand_apart(two_logs, tmp_path):
    logs, table = two_logs
    free = log((3.0,), case="n", annotator="ben")
    more_logs = logs_table([(free, Effort.of(free, 0))], {})
    more = [
        made_up("n", "ben", User.person, [0.0, 1.0], seconds=[0.0, 3.0], empty=True),
        made_up("n", "ben", User.simulated, [0.0, 0.0], empty=True),
    ]
    alone = summarise_people(logs, table)
    summary = summarise_people(
        pd.concat([logs, more_logs], ignore_index=True),
        pd.concat([table, *more], ignore_index=True),
    )
    for key in ("person", "simulated", "difference"):
        assert summary[key] == alone[key]
    assert summary["lesion_free"]["logs"] == 1
    assert summary["lesion_free"]["person"]["clicks"] == 1
    assert summary["lesion_free"]["person"]["dice"] == [0, 1]
    assert summary["lesion_free"]["simulated"]["dice"] == [0, 0]
    nothing_else = summarise_people(more_logs, pd.concat(more, ignore_index=True))
    assert nothing_else["person"]["dice"] == []
    assert nothing_else["person"]["clicks"] is None
    assert nothing_else["lesion_free"] == summary["lesion_free"]
    plot_people(pd.concat(more, ignore_index=True), tmp_path / "people.png")
    assert picture.imread(tmp_path / "people.png").std() > 0


def test_nobody_clicked_at_all(tmp_path):
    """A log without clicks is a log of the first prediction."""
    rows = [made_up("a", "anna", user, [0.5], seconds=[0.0]) for user in User]
    logs = logs_table([(log(), Effort.of(log(), 1))], {})
    table = pd.concat(rows, ignore_index=True)
    summary = summarise_people(logs, table)
    assert summary["person"]["dice"] == summary["simulated"]["dice"] == [0.5]
    assert summary["person"]["number_of_clicks"]["0.80"] == {"noc": None, "nof": 0, "seconds": None}
    plot_people(table, tmp_path / "people.png")
    assert picture.imread(tmp_path / "people.png").std() > 0


def test_between_two_clicks_the_mask_of_the_first_stands(two_logs):
    _, table = two_logs
    moments, curves = dice_over_time(table.loc[table.user == "person"])
    assert moments.tolist() == [0, 2, 4, 10]
    assert curves.tolist() == [[0.2, 0.2, 0.82, 0.88], [0.4, 0.6, 0.6, 0.6]]


def test_the_figure_has_two_panels(two_logs, tmp_path):
    plot_people(two_logs[1], tmp_path / "people.png")
    drawn = picture.imread(tmp_path / "people.png")
    assert drawn.shape[:2] == (630, 1560)
    halves = np.split(drawn, 2, axis=1)
    assert all(half.std() > 0 for half in halves)
