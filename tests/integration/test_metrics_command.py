"""`voxclick metrics`, in process: files it leaves, refusals, exit codes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from voxclick import Click, LabelMap, read_clicks, read_label_map, write_label_map
from voxclick.cli.main import main
from voxclick.clicks.logs import ClickLog, TimedClick, write_click_log

CASE = "PHANTOM_003"


def metrics(*arguments):
    return main(["metrics", *map(str, arguments)])


def errors(capsys):
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def masks(phantom_folder, tmp_path):
    """Masks of the training cases: right, half, and none at all."""
    folder = tmp_path / "masks"
    for number, path in enumerate(sorted((phantom_folder / "labelsTr").iterdir())):
        label = read_label_map(path)
        voxels = label.voxels.copy()
        if number > 0:
            foreground = np.flatnonzero(voxels)
            voxels.ravel()[foreground[:: 3 - number]] = 0
        write_label_map(LabelMap(voxels, label.affine), folder / path.name)
    return folder


def timed(clicks, pace=2.5):
    return tuple(TimedClick(click, pace * n) for n, click in enumerate(clicks, start=1))


def test_scores_of_masks_from_elsewhere(masks, phantom_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert metrics(phantom_folder / "labelsTr", masks, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "NSD" in shown
    assert "masks: 3" in shown
    table = pd.read_csv(out / "scores.csv")
    assert list(table.case) == ["PHANTOM_000", "PHANTOM_001", "PHANTOM_002"]
    assert table.dice[0] == 1
    assert table.dice[1] == pytest.approx(2 / 3, abs=0.02)
    assert table.dice[2] == 0
    truth = read_label_map(phantom_folder / "labelsTr" / "PHANTOM_002.nii.gz")
    missed_ml = (truth.voxels > 0).sum() * truth.geometry.voxel_volume_ml
    assert table.fnv_ml[2] == pytest.approx(missed_ml)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["masks"] == 3
    assert summary["mismatches"] == []
    for metric in ("dice", "nsd", "fpv_ml", "lesion_recall"):
        assert summary[metric]["mean"] == pytest.approx(table[metric].mean(), abs=1e-4)
        assert summary[metric]["std"] == pytest.approx(table[metric].std(ddof=0), abs=1e-4)
        assert summary[metric]["median"] == pytest.approx(table[metric].median(), abs=1e-4)
    assert {path.name for path in out.iterdir()} == {"scores.csv", "summary.json"}


def test_mismatches_are_listed_and_the_rest_is_scored(masks, phantom_folder, tmp_path, capsys):
    (masks / "PHANTOM_000.nii.gz").rename(masks / "stray.nii.gz")
    label = read_label_map(masks / "PHANTOM_001.nii.gz")
    write_label_map(LabelMap(label.voxels[1:], label.affine), masks / "PHANTOM_001.nii.gz")
    out = tmp_path / "out"
    assert metrics(phantom_folder / "labelsTr", masks, "--out", out) == 1
    message = errors(capsys)
    assert "mismatches: 3; the rest is scored" in message
    assert "has no label of this name" in message
    assert "has no mask of this name" in message
    assert "lies on another grid" in message
    assert list(pd.read_csv(out / "scores.csv").case) == ["PHANTOM_002"]
    listed = json.loads((out / "summary.json").read_text())["mismatches"]
    assert {entry["name"] for entry in listed} == {"stray", "PHANTOM_000", "PHANTOM_001"}


def test_scores_of_an_earlier_run_do_not_stay(masks, phantom_folder, tmp_path):
    out = tmp_path / "out"
    assert metrics(phantom_folder / "labelsTr", masks, "--out", out) == 0
    for mask in masks.iterdir():
        mask.rename(mask.with_name(f"other_{mask.name}"))
    assert metrics(phantom_folder / "labelsTr", masks, "--out", out) == 1
    assert {path.name for path in out.iterdir()} == {"summary.json"}


def test_more_labels_are_named(masks, phantom_folder, tmp_path, capsys):
    label = read_label_map(masks / "PHANTOM_000.nii.gz")
    voxels = label.voxels * 2
    for folder in ("labels", "masks"):
        write_label_map(LabelMap(voxels, label.affine), tmp_path / folder / "both.nii.gz")
    both = (tmp_path / "labels" / "both.nii.gz", tmp_path / "masks" / "both.nii.gz")
    assert metrics(*both, "--out", tmp_path / "out") == 1
    assert "--labels background,tumor,NAME" in errors(capsys)
    named = ["--labels", "background,liver,tumor"]
    assert metrics(*both, "--out", tmp_path / "out", *named) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(table.case) == ["both"]
    assert (table.dice_tumor[0], table.has_liver[0], table.has_tumor[0]) == (1, False, True)


def test_the_work_of_people_without_a_model(masks, phantom_folder, tmp_path, capsys):
    logs, names = tmp_path / "logs", ("PHANTOM_000", "PHANTOM_001")
    clicks = [Click((n, 2, 2), "tumor") for n in range(4)]
    write_click_log(ClickLog(names[0], timed(clicks), "anna"), logs / "first.json")
    back = (TimedClick(clicks[0], 3.0), TimedClick(clicks[1], 4.0, removed=9.0))
    write_click_log(ClickLog(names[1], back), logs / f"{names[1]}_ben.json")
    (masks / f"{names[1]}.nii.gz").rename(masks / f"{names[1]}_ben.nii.gz")
    write_click_log(ClickLog("unknown", ()), logs / "unknown.json")
    out = tmp_path / "out"
    arguments = [phantom_folder / "labelsTr", masks, "--out", out, "--click-logs", logs]
    assert metrics(*arguments) == 1  # for the log of an unknown case
    captured = capsys.readouterr()
    assert "is a log of 'unknown'" in captured.err
    assert "mismatches: 1" in captured.err
    assert "clicks per lesion" in captured.out
    table = pd.read_csv(out / "logs.csv")
    assert list(table.annotator) == ["anna", "ben"]
    assert list(table.clicks) == [4, 2]
    assert list(table.taken_back) == [0, 1]
    assert list(table.seconds) == [10, 9]
    assert list(table.seconds_per_click) == [2.5, 2.0]
    assert list(table.clicks_per_lesion) == pytest.approx(list(table.clicks / table.lesions))
    assert table.dice[0] == 1
    scores = pd.read_csv(out / "scores.csv").set_index("case")
    assert table.dice[1] == scores.dice["PHANTOM_001_ben"]
    summary = json.loads((out / "people.json").read_text())
    assert "simulated" not in summary
    assert summary["person"]["clicks"] == 3
    assert [entry["name"] for entry in summary["mismatches"]] == ["unknown"]


@pytest.fixture
def evaluated(trained_run, phantom_folder, tmp_path):
    """A run of `evaluate`, whose clicks are the simulated user's."""
    out = tmp_path / "evaluated"
    model = str(trained_run / "model.safetensors")
    arguments = ["evaluate", str(phantom_folder), "--model", model, "--out", str(out)]
    assert main([*arguments, "--steps", "3", "--split", "all", "--no-baselines"]) == 0
    return out


def study(trained_run, phantom_folder, out, *more):
    model = trained_run
    return metrics("--out", out, "--model", model, "--images", phantom_folder, *more)


def test_who_clicks_as_the_simulated_user_gets_its_scores(
    evaluated, trained_run, phantom_folder, tmp_path, capsys
):
    logs, out = tmp_path / "logs", tmp_path / "out"
    for path in (evaluated / "clicks").iterdir():
        write_click_log(ClickLog(path.stem, timed(read_clicks(path)), "anna"), logs / path.name)
    short = timed(read_clicks(evaluated / "clicks" / f"{CASE}.json")[:1], pace=7)
    write_click_log(ClickLog(CASE, short), logs / f"{CASE}_ben.json")
    assert study(trained_run, phantom_folder, out, "--click-logs", logs) == 0
    assert "Dice, simulated" in capsys.readouterr().out

    table = pd.read_csv(out / "people.csv")
    person, simulated = (
        table.loc[table.user == user].set_index(["case", "annotator", "step"])
        for user in ("person", "simulated")
    )
    assert len(person) == 4 * 4 + 2
    pd.testing.assert_frame_equal(
        person.drop(columns=["user", "seconds"]), simulated.drop(columns=["user", "seconds"])
    )
    # and they are the scores that `evaluate` found
    scores = pd.read_csv(evaluated / "scores.csv").set_index(["case", "step"])
    anna = person.xs("anna", level="annotator")
    assert anna.dice.to_dict() == pytest.approx(scores.dice.to_dict())
    assert anna.seconds.loc[CASE].to_list() == [0, 2.5, 5, 7.5]

    summary = json.loads((out / "people.json").read_text())
    assert (summary["logs"], summary["cases"]) == (5, 4)
    assert summary["difference"]["dice"] == [0, 0, 0, 0]
    assert summary["person"]["dice"] == summary["simulated"]["dice"]
    assert summary["person"]["seconds_per_click"] == pytest.approx((4 * 2.5 + 7) / 5)
    assert summary["model_fingerprint"]
    assert (out / "people.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "scores.csv").exists()


def test_other_clicks_get_other_scores_and_a_bad_log_stands_alone(
    evaluated, trained_run, phantom_folder, tmp_path, capsys
):
    logs, out = tmp_path / "logs", tmp_path / "out"
    nowhere = [Click((1, 1, 1), "background")] * 2
    write_click_log(ClickLog(CASE, timed(nowhere), "anna"), logs / "anna.json")
    outside = [Click((999, 1, 1), "tumor")]
    write_click_log(ClickLog(CASE, timed(outside), "ben"), logs / "ben.json")
    shutil.copy(evaluated / "clicks" / f"{CASE}.json", logs / "clara.json")
    assert study(trained_run, phantom_folder, out, "--click-logs", logs) == 1
    message = errors(capsys)
    assert "lies outside the image" in message
    assert "has no time" in message
    table = pd.read_csv(out / "people.csv")
    assert set(table.annotator) == {"anna"}
    last = table.loc[table.step == 2].set_index("user").dice
    assert last["simulated"] != last["person"]
    # the work of the log that could not be replayed is known all the same
    assert list(pd.read_csv(out / "logs.csv").annotator) == ["anna", "ben"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected LABELS and PREDICTIONS, or --click-logs with --model and --images"),
        (["labels"], "PREDICTIONS is missing"),
        (["labels", "none"], "PREDICTIONS none: there is no such file or folder"),
        (["labels", "empty"], "PREDICTIONS empty: holds no image"),
        (["labels", "masks/a.nii"], "expected two folders or two files"),
        (["none", "masks"], "LABELS none: there is no such file or folder"),
        (["labels", "masks", "--labels", "tumor"], "expected different names"),
        (["labels", "masks", "--labels", "background,,tumor"], "expected different names"),
        (["labels", "masks", "--click-logs", "none"], "no such folder, or no .json file in it"),
        (["labels", "masks", "--model", "m"], "--images is missing"),
        (["--images", "m", "--click-logs", "logs"], "--model is missing"),
        (["--model", "m", "--images", "i"], "--click-logs is missing"),
        (["labels", "masks", "--set", "inference.overlap=0.5"], "--model is missing"),
        (["--click-logs", "logs"], "expected LABELS and PREDICTIONS, or --click-logs with"),
    ],
)
def test_wrong_use_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("labels", "masks", "logs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii").touch()
    (tmp_path / "empty").mkdir()
    assert metrics("--out", "out", *arguments) == 2
    assert message in errors(capsys)
    assert not (tmp_path / "out").exists()


def test_labels_are_the_models(trained_run, phantom_folder, tmp_path, capsys):
    logs = tmp_path / "logs"
    write_click_log(ClickLog(CASE, ()), logs / "a.json")
    arguments = ["--click-logs", logs, "--labels", "background,liver"]
    assert study(trained_run, phantom_folder, tmp_path / "out", *arguments) == 2
    assert "the labels of --model are background,tumor" in errors(capsys)


def test_a_model_without_clicks_replays_none(phantom_folder, config_file, tmp_path, capsys):
    run, logs = tmp_path / "run", tmp_path / "logs"
    settings = ["--set", "guidance=null", "--set", "training.simulation=null"]
    arguments = ["train", str(phantom_folder), "--out", str(run), "--config", str(config_file)]
    assert main([*arguments, *settings, "--set", "training.epochs=1"]) == 0
    write_click_log(ClickLog(CASE, ()), logs / "a.json")
    assert study(run, phantom_folder, tmp_path / "out", "--click-logs", logs) == 2
    assert "was trained without clicks" in errors(capsys)


def test_help_names_seed_and_device(capsys):
    assert metrics("--help") == 0
    shown = capsys.readouterr().out
    assert "--seed" in shown
    assert "--device" in shown
