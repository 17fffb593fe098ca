"""`voxclick evaluate`, in process: files, refusals, interruptions, processes side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings

import nibabel
import numpy as np
import pandas as pd
import pytest

from voxclick import Click, InteractiveSession, read_clicks, read_label_map, write_clicks
from voxclick.cli.main import main
from voxclick.evaluation.metrics import LabelScorer
from voxclick.evaluation.results import METRICS


def evaluate(data, run, out, *more):
    model = str(run / "model.safetensors")
    return main(["evaluate", str(data), "--model", model, "--out", str(out), *more])


@pytest.mark.parametrize("protocol", ["largest-error", "corrective"])
def test_evaluate_leaves_scores_summary_and_curve(protocol, trained_run, phantom_folder, tmp_path):
    arguments = ["--protocol", protocol, "--steps", "3", "--split", "all"]
    arguments += ["--save-masks", "last"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    assert list(table.columns[:3]) == ["case", "repeat", "step"]
    assert len(table) == 4 * 4
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["protocol"] == protocol
    assert summary["cases"] == 4
    assert summary["dice"] == pytest.approx(table.groupby("step").dice.mean(), abs=1e-4)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    for name in table.case.unique():
        assert (tmp_path / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(read_clicks(tmp_path / "clicks" / f"{name}.json")) == (
            table.loc[table.case == name].clicks.max()
        )
    assert summary["hardware"]["threads"] == 1
    assert "<svg" in (tmp_path / "report.html").read_text()

    # the saved mask is the last prediction, on the image's grid: its Dice can be recomputed
    case = table.case.iloc[-1]
    mask = nibabel.load(tmp_path / "masks" / f"{case}.nii.gz")
    label = nibabel.load(phantom_folder / "labelsTs" / f"{case}.nii.gz")
    assert np.allclose(mask.affine, label.affine)
    found, truth = np.asarray(mask.dataobj) > 0, np.asarray(label.dataobj) > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice == pytest.approx(table.dice.iloc[-1], abs=1e-6)


def test_an_evaluation_does_not_mix_with_another(trained_run, phantom_folder, tmp_path, capsys):
    more = ["--steps", "1", "--limit", "1"]
    for _ in range(2):  # the same again is fine
        assert evaluate(phantom_folder, trained_run, tmp_path / "out", *more) == 0
    other = [*more, "--protocol", "corrective"]
    capsys.readouterr()
    assert evaluate(phantom_folder, trained_run, tmp_path / "out", *other) == 2
    assert "holds an evaluation with another protocol" in " ".join(capsys.readouterr().err.split())
    assert (
        evaluate(
            phantom_folder, trained_run, tmp_path / "new", *more, "--set", "inference.overlp=0"
        )
        == 2
    )
    assert "inference.overlp: there is no such setting" in capsys.readouterr().err


def test_evaluate_another_way_through_the_network(trained_run, phantom_folder, tmp_path):
    ways = {
        "windows": ["--set", "inference.overlap=0.5"],
        "centre": ["--set", "inference.kind=one-pass", "--set", "inference.centre_crop=[8,8,8]"],
    }
    windows = {}
    for name, arguments in ways.items():
        out = tmp_path / name
        assert evaluate(phantom_folder, trained_run, out, "--steps", "0", *arguments) == 0
        windows[name] = pd.read_csv(out / "scores.csv").windows.iloc[0]
        assert json.loads((out / "summary.json").read_text())["inference"]["kind"] == (
            "one-pass" if name == "centre" else "sliding-windows"
        )
    assert windows["centre"] == 1 < windows["windows"]


def test_evaluate_refuses_settings_that_are_not_of_inference(trained_run, phantom_folder, tmp_path):
    arguments = ["--set", "training.epochs=3"]
    assert evaluate(phantom_folder, trained_run, tmp_path / "out", *arguments) == 2


def test_evaluation_repeats_itself(trained_run, phantom_folder, tmp_path):
    for name in ("one", "two"):
        arguments = ["--protocol", "corrective", "--steps", "2", "--seed", "3"]
        assert evaluate(phantom_folder, trained_run, tmp_path / name, *arguments) == 0
    one, two = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"))


def with_description(phantom_folder, folder, **description):
    folder.mkdir()
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).symlink_to(phantom_folder / part)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_labels_in_another_order_are_refused(trained_run, phantom_folder, tmp_path, capsys):
    data = with_description(
        phantom_folder, tmp_path / "data", labels={"background": 0, "liver": 1, "tumor": 2}
    )
    assert evaluate(data, trained_run, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "background, liver, tumor" in message
    assert "the model expects background, tumor" in message


def test_labels_that_were_renamed_in_training_are_named_again(
    trained_run, phantom_folder, tmp_path, capsys
):
    data = with_description(
        phantom_folder, tmp_path / "data", labels={"background": 0, "lesion": 1}
    )
    arguments = ["--steps", "0", "--no-baselines"]
    assert evaluate(data, trained_run, tmp_path / "out", *arguments) == 1
    assert "--labels background,tumor" in " ".join(capsys.readouterr().err.split())
    arguments += ["--labels", "background,tumor"]
    assert evaluate(data, trained_run, tmp_path / "out", *arguments) == 0
    assert evaluate(phantom_folder, trained_run, tmp_path / "same", *arguments) == 0
    pd.testing.assert_frame_equal(
        without_seconds(tmp_path / "out"), without_seconds(tmp_path / "same")
    )
    for others in ("background,liver,tumor", "background,lesion"):
        assert evaluate(data, trained_run, tmp_path / "others", "--labels", others) == 2
        assert "the labels of --model are background,tumor" in capsys.readouterr().err


def test_a_data_set_that_declares_nothing_is_taken_at_the_models_word(
    trained_run, phantom_folder, tmp_path
):
    data = with_description(phantom_folder, tmp_path / "data")
    assert evaluate(data, trained_run, tmp_path / "out", "--steps", "0") == 0


def test_a_model_without_clicks_is_evaluated(phantom_folder, config_file, tmp_path):
    settings = ["--set", "guidance=null", "--set", "training.simulation=null"]
    run = tmp_path / "run"
    arguments = ["train", str(phantom_folder), "--out", str(run), "--config", str(config_file)]
    assert main([*arguments, *settings, "--set", "training.epochs=1"]) == 0
    assert evaluate(phantom_folder, run, tmp_path / "out", "--steps", "3") == 0
    table = pd.read_csv(tmp_path / "out/scores.csv")
    assert table.dice.nunique() == 1
    assert table.clicks.sum() == 0
    assert (table.windows[1:] == 0).all()


def test_weighting_belongs_to_corrective(trained_run, phantom_folder, tmp_path, capsys):
    arguments = ["--weighting", "border-distance", "--steps", "1"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "weighting belongs to the protocols corrective" in shown
    arguments += ["--protocol", "corrective"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0


def test_evaluate_says_when_a_split_has_no_labels(trained_run, phantom_folder, tmp_path, capsys):
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for path in (phantom_folder / "imagesTs").iterdir():
        (tmp_path / "data/imagesTs" / path.name).write_bytes(path.read_bytes())
    assert evaluate(tmp_path / "data", trained_run, tmp_path / "out") == 1
    assert "holds no labelled case" in capsys.readouterr().err


def test_scores_are_those_of_the_saved_masks(trained_run, phantom_folder, tmp_path):
    arguments = ["--steps", "2", "--save-masks", "every", "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    name = table.case.iloc[0]
    truth = read_label_map(phantom_folder / "labelsTs" / f"{name}.nii.gz")
    scorer = LabelScorer(truth.voxels > 0, truth.spacing_mm)
    for _, row in table.iterrows():
        path = tmp_path / "masks" / name / f"step-{row.step:02d}.nii.gz"
        scores = scorer.score(read_label_map(path).voxels > 0)
        for metric in METRICS:
            assert getattr(scores, metric) == pytest.approx(row[metric], abs=1e-6, nan_ok=True)
    assert not (tmp_path / "baselines.csv").exists()


@pytest.mark.parametrize("protocol", ["cvpr2025", "autopet4", "autopet5"])
def test_challenges_have_figures_of_their_own(protocol, trained_run, phantom_folder, tmp_path):
    arguments = ["--protocol", protocol, "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == {"cvpr2025": 5, "autopet4": 10, "autopet5": 5}[protocol]
    assert summary["challenge"]
    record = json.loads(next((tmp_path / "cases").iterdir()).read_text())
    kinds = {prompt["kind"] for step in record["prompts"][0] for prompt in step}
    assert kinds <= {"box", "scribble", "click"}
    assert kinds


def test_clicks_that_a_run_has_left_can_be_replayed(trained_run, phantom_folder, tmp_path):
    arguments = ["--steps", "4", "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path / "one", *arguments) == 0
    arguments += ["--protocol", "recorded", "--clicks", str(tmp_path / "one/clicks")]
    assert evaluate(phantom_folder, trained_run, tmp_path / "two", *arguments) == 0
    one, two = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "recorded"], "needs --clicks FOLDER"),
        (["--clicks", "x"], "--clicks belongs to the protocols autopet4 and recorded"),
        (["--protocol", "recorded", "--clicks", "nowhere"], "nowhere: there is no such folder"),
        (["--protocol", "autopet5", "--steps", "3"], "autopet5 has 5 steps"),
        (["--no-baselines", "--baseline", "suv-2.5"], "say opposite things"),
        (["--stop-probability", "0.3"], "belong to --stopping"),
        (["--stopping", "max-steps", "--stop-dice-loss", "0.3"], "stopping.dice_loss: there is no"),
        (["--protocol", "autopet5", "--repeats", "2"], "repeats belongs to the protocols"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments, message, trained_run, phantom_folder, tmp_path, capsys
):
    assert evaluate(phantom_folder, trained_run, tmp_path / "out", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_user_may_stop_early(trained_run, phantom_folder, tmp_path):
    arguments = ["--steps", "4", "--stopping", "max-steps-or-dice", "--stop-dice-loss", "1"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    # any overlap at all is enough, or a click for every step until there is one
    table = pd.read_csv(tmp_path / "scores.csv")
    stopped = table.dice.shift(fill_value=0) > 0
    assert (table.windows[stopped] == 0).all()
    assert (table.windows[~stopped] > 0).all()


def test_repeats_differ_and_are_averaged(trained_run, phantom_folder, tmp_path):
    arguments = ["--protocol", "corrective", "--steps", "2", "--repeats", "3", "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    assert len(table) == 3 * 3
    assert table.loc[table.step == 0].dice.nunique() == 1
    record = json.loads(next((tmp_path / "cases").iterdir()).read_text())
    assert record["prompts"][0] != record["prompts"][1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["dice"] == pytest.approx(table.groupby("step").dice.mean(), abs=1e-4)
    assert len(summary["dice_std_over_repeats"]) == 3


def test_baselines_stand_beside_the_model(trained_run, phantom_folder, tmp_path):
    assert evaluate(phantom_folder, trained_run, tmp_path, "--steps", "2") == 0
    table = pd.read_csv(tmp_path / "baselines.csv")
    assert set(table.baseline) == {
        "no-clicks", "suvmax-41", "suvmax-50", "suv-2.5", "suv-4.0", "random-walker",
        "best-threshold",
    }  # fmt: skip
    scores = pd.read_csv(tmp_path / "scores.csv")
    without = table.loc[table.baseline == "no-clicks"].dice
    assert (without == scores.dice.iloc[0]).all()
    assert (table.loc[(table.step == 0) & (table.baseline == "suv-2.5")].dice == 0).all()
    arguments = ["--steps", "1", "--baseline", "random-walker"]
    assert evaluate(phantom_folder, trained_run, tmp_path / "one", *arguments) == 0
    table = pd.read_csv(tmp_path / "one/baselines.csv")
    assert set(table.baseline) == {"no-clicks", "random-walker"}


def test_rounded_results_are_another_evaluation(trained_run, phantom_folder, tmp_path, capsys):
    arguments = ["--steps", "1", "--no-baselines"]
    for more in ([], ["--cache-disk-gib", "1"]):  # where results lie changes nothing
        assert evaluate(phantom_folder, trained_run, tmp_path, *arguments, *more) == 0
    half = [*arguments, "--cache-dtype", "float16"]
    assert evaluate(phantom_folder, trained_run, tmp_path, *half) == 2
    assert "another cache_dtype" in " ".join(capsys.readouterr().err.split())


def test_changed_clicks_are_noticed(trained_run, phantom_folder, tmp_path):
    folder = tmp_path / "clicks"
    arguments = ["--protocol", "recorded", "--clicks", str(folder), "--steps", "1"]
    for index in ((3, 3, 3), (4, 4, 4)):
        write_clicks([Click(index, "tumor")], folder / "PHANTOM_003.json")
        assert evaluate(phantom_folder, trained_run, tmp_path / "out", *arguments) == 0
        record = json.loads((tmp_path / "out/cases/PHANTOM_003.json").read_text())
        assert record["prompts"][0][1][0]["voxels"] == [list(index)]


def test_recorded_clicks_that_are_too_many_are_said(trained_run, phantom_folder, tmp_path, capsys):
    folder = tmp_path / "clicks"
    said = [Click((index, 3, 3), "tumor") for index in range(3)]
    write_clicks(said, folder / "PHANTOM_003.json")
    arguments = ["--protocol", "recorded", "--clicks", str(folder), "--no-baselines", "--steps"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert evaluate(phantom_folder, trained_run, tmp_path / "two", *arguments, "2") == 0
        assert "3 clicks, of which the first 2" in " ".join(capsys.readouterr().err.split())
        assert evaluate(phantom_folder, trained_run, tmp_path / "three", *arguments, "3") == 0
        assert "of which" not in capsys.readouterr().err


def test_the_place_of_a_case_decides_on_its_scribbles(trained_run, phantom_folder, tmp_path):
    for split in ("test", "all"):  # the test case comes first, then last
        arguments = ["--protocol", "autopet5", "--no-baselines", "--split", split]
        assert evaluate(phantom_folder, trained_run, tmp_path / "one", *arguments) == 0
    assert evaluate(phantom_folder, trained_run, tmp_path / "two", *arguments) == 0
    pd.testing.assert_frame_equal(
        without_seconds(tmp_path / "one"), without_seconds(tmp_path / "two")
    )


def test_a_damaged_file_costs_its_case_alone(trained_run, phantom_folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantom_folder, data)
    damaged = sorted((data / "imagesTr").iterdir())[0]
    damaged.write_bytes(b"no image")
    arguments = ["--steps", "0", "--split", "all", "--no-baselines"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert evaluate(data, trained_run, tmp_path / "out", *arguments) == 1
    assert damaged.name in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "out/scores.csv").case.nunique() == 3


def without_seconds(folder):
    return pd.read_csv(folder / "scores.csv").drop(columns="seconds")


def test_an_interrupted_run_goes_on(trained_run, phantom_folder, tmp_path, monkeypatch, capsys):
    arguments = ["--steps", "2", "--split", "all", "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path / "whole", *arguments) == 0

    predict, predicted = InteractiveSession.predict, []

    def interrupted(session, on_window=None):
        predicted.append(session)
        if len(predicted) == 5:  # in the second of four cases
            raise KeyboardInterrupt
        return predict(session, on_window)

    monkeypatch.setattr(InteractiveSession, "predict", interrupted)
    assert evaluate(phantom_folder, trained_run, tmp_path / "halved", *arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "halved/scores.csv").exists()
    done = next((tmp_path / "halved/cases").iterdir()).read_bytes()
    predicted.clear()
    monkeypatch.setattr(InteractiveSession, "predict", predict)
    opened = []
    opening = InteractiveSession.__init__

    def opens(session, *arguments, **named):
        opened.append(session)
        opening(session, *arguments, **named)

    monkeypatch.setattr(InteractiveSession, "__init__", opens)
    assert evaluate(phantom_folder, trained_run, tmp_path / "halved", *arguments) == 0
    assert len(opened) == 3
    pd.testing.assert_frame_equal(
        without_seconds(tmp_path / "halved"), without_seconds(tmp_path / "whole")
    )
    assert any(path.read_bytes() == done for path in (tmp_path / "halved/cases").iterdir())


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_failing_case_is_recorded_and_tried_again(
    trained_run, phantom_folder, tmp_path, monkeypatch, capsys
):
    arguments = ["--steps", "1", "--split", "all", "--no-baselines"]
    predict, predicted = InteractiveSession.predict, []

    def fails_once(session, on_window=None):
        predicted.append(session)
        if len(predicted) == 2:
            raise MemoryError("no room")
        return predict(session, on_window)

    monkeypatch.setattr(InteractiveSession, "predict", fails_once)
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "has no scores (main memory is full;" in shown
    assert "8/8" in shown
    assert "1 of 4 cases have no scores" in shown
    assert "NotEnoughMemoryError: main memory is full;" in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["cases"], len(summary["failed"])) == (3, 1)
    assert evaluate(phantom_folder, trained_run, tmp_path, *arguments) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["cases"], summary["failed"]) == (4, {})


@pytest.mark.parametrize("split", ["all", "test"])  # four cases, and one for two processes
def test_processes_share_the_cases(split, trained_run, phantom_folder, tmp_path):
    arguments = ["--steps", "1", "--split", split, "--no-baselines"]
    assert evaluate(phantom_folder, trained_run, tmp_path / "one", *arguments) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "voxclick", "evaluate", str(phantom_folder), "--out", str(tmp_path / "two")]
    command += ["--model", str(trained_run / "model.safetensors"), *arguments]
    done = subprocess.run(
        [*launch, *command], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    pd.testing.assert_frame_equal(
        without_seconds(tmp_path / "one"), without_seconds(tmp_path / "two")
    )
