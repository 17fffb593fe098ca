"""Cross-validation: `train --folds`, and its models as one in `segment`, `evaluate` and `rank`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from voxclick import InteractiveSession, load_ensemble, read_label_map, read_volume
from voxclick.cli.main import main
from voxclick.model_files import read_model_settings, save_model
from voxclick.networks import NetworkSettings
from voxclick.training.loop import Trainer

PATIENTS = {"PHANTOM_000": "p", "PHANTOM_001": "q", "PHANTOM_002": "p", "PHANTOM_003": "r"}
SHORT = ["--set", "training.epochs=2", "--set", "training.steps_per_epoch=2"]


@dataclass(frozen=True)
class FoldsRun:
    """A finished run of two folds, and the (training, validation) cases that each was given."""

    data: Path
    path: Path
    splits: list[tuple[set[str], set[str]]]

    @property
    def models(self) -> list[Path]:
        return [self.path / f"fold-{number}" / "model.safetensors" for number in (0, 1)]


def train(data: Path, run: Path, config: Path, *more: str) -> int:
    return main(["train", str(data), "--out", str(run), "--config", str(config), *SHORT, *more])


@pytest.fixture(scope="module")
def patients(tmp_path_factory, phantom_folder) -> Path:
    """A list of four scans, two of which are of one patient."""
    lines = ["name,image_PET,label,group"]
    for name, patient in PATIENTS.items():
        part = "Ts" if name == "PHANTOM_003" else "Tr"
        files = (
            phantom_folder / f"{kind}{part}" / f"{name}.nii.gz" for kind in ("images", "labels")
        )
        lines.append(",".join([name, *map(str, files), patient]))
    path = tmp_path_factory.mktemp("patients") / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folds(tmp_path_factory, patients, config_file) -> FoldsRun:
    """Tests may read it and must not change it."""
    run = tmp_path_factory.mktemp("folds") / "run"
    splits = []
    fit = Trainer.fit

    def noted(self, training, validation, **options):
        splits.append(tuple({case.name for case in cases} for cases in (training, validation)))
        return fit(self, training, validation, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", noted)
        assert train(patients, run, config_file, "--folds", "2") == 0
    return FoldsRun(patients, run, splits)


def one_line(text: str) -> str:
    return " ".join(text.split())


# Training


def test_every_case_is_validated_in_one_fold_and_patients_stay_together(folds):
    assert len(folds.splits) == 2
    validated = [name for _, validation in folds.splits for name in validation]
    assert sorted(validated) == sorted(PATIENTS)
    for training, validation in folds.splits:
        assert training | validation == set(PATIENTS)
        assert not {PATIENTS[name] for name in training} & {PATIENTS[name] for name in validation}


def test_every_fold_is_a_run_of_its_own(folds):
    assert sorted(path.name for path in folds.path.iterdir()) == ["fold-0", "fold-1"]
    for number in (0, 1):
        fold = folds.path / f"fold-{number}"
        names = {"model.safetensors", "last.ckpt", "config.yaml", "tensorboard"}
        assert {path.name for path in fold.iterdir()} == names
        data = yaml.safe_load((fold / "config.yaml").read_text())["data"]
        assert (data["folds"], data["fold"]) == (2, number)


def test_a_fold_is_what_its_configuration_trains_by_itself(folds, config_file, tmp_path):
    alone = ["--set", "data.folds=2", "--set", "data.fold=1"]
    assert train(folds.data, tmp_path / "run", config_file, *alone) == 0
    assert_same_weights(tmp_path / "run", folds.path / "fold-1")


def test_each_fold_can_be_measured_on_what_it_held_back(folds, tmp_path):
    for number, (_, validation) in enumerate(folds.splits):
        out = tmp_path / str(number)
        arguments = ["--model", str(folds.path / f"fold-{number}"), "--split", "validation"]
        assert evaluate(folds.data, out, *arguments) == 0
        assert set(pd.read_csv(out / "scores.csv").case) == validation


def test_what_a_fold_has_learnt_is_not_measured_when_cases_came_or_went(
    folds, patients, tmp_path, capsys
):
    """Without the patient q the folds are drawn anew, from two patients."""
    kept = [line for line in patients.read_text().splitlines() if not line.endswith(",q")]
    changed = tmp_path / "cases.csv"
    changed.write_text("\n".join(kept) + "\n")
    arguments = ["--model", str(folds.path / "fold-0"), "--split", "validation"]
    assert evaluate(changed, tmp_path / "out", *arguments) == 1
    message = one_line(capsys.readouterr().err)
    assert "cases came or went since" in message
    assert not (tmp_path / "out").exists()


def test_a_fold_does_not_go_on_with_other_cases(folds, patients, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(folds.path / "fold-0", run)
    kept = [line for line in patients.read_text().splitlines() if not line.endswith(",q")]
    changed = tmp_path / "cases.csv"
    changed.write_text("\n".join(kept) + "\n")
    before = (run / "last.ckpt").read_bytes()
    assert main(["train", str(changed), "--out", str(run), "--resume"]) == 1
    message = one_line(capsys.readouterr().err)
    assert "expected the cases that this run has been learning and validating on" in message
    assert "PHANTOM_001" in message
    assert (run / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("checkpoints", [1, 3], ids=["in the first fold", "in the second"])
def test_an_interrupted_run_ends_with_the_same_bits(
    checkpoints, folds, config_file, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    save = Trainer._save_checkpoint
    saved = []

    def save_and_interrupt(self, *arguments):
        save(self, *arguments)
        saved.append(self.folder)
        if len(saved) == checkpoints:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_checkpoint", save_and_interrupt)
    assert train(folds.data, run, config_file, "--folds", "2") == 130
    assert (run / "fold-1").exists() == (checkpoints == 3)
    capsys.readouterr()
    assert segment(folds, tmp_path / "mask.nii.gz", "--model", run) == 1
    unfinished = {1: "fold-0, fold-1", 3: "fold-1"}[checkpoints]
    message = one_line(capsys.readouterr().err)
    assert f"expected 2 trained folds, but {unfinished} did not come to an end" in message
    assert not (tmp_path / "mask.nii.gz").exists()

    assert main(["train", str(folds.data), "--out", str(run), "--resume"]) == 0
    assert len(saved) == 4  # no epoch was done twice
    assert "2 folds, mean Dice" in capsys.readouterr().out
    for number in (0, 1):
        fold = f"fold-{number}"
        assert_same_weights(run / fold, folds.path / fold)
        assert (run / fold / "config.yaml").read_text() == (
            folds.path / fold / "config.yaml"
        ).read_text()
    # there is nothing left to do, and nothing is done
    assert main(["train", str(folds.data), "--out", str(run), "--resume", "--folds", "2"]) == 0
    assert len(saved) == 4


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_processes_train_one_fold_after_the_other(folds, config_file, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=29519", "-m", "voxclick", "train", str(folds.data)]
    command += ["--out", str(run), "--config", str(config_file), "--device", "cpu", *SHORT]
    command += ["--folds", "2", "--set", "training.epochs=1"]
    finished = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("1 epochs") == 2  # once a fold: only the first process speaks
    assert finished.stdout.count("2 folds, mean Dice") == 1
    assert all((run / f"fold-{number}" / "model.safetensors").exists() for number in (0, 1))


@pytest.mark.parametrize(
    ("folds_option", "changed", "message"),
    [
        ("2", ["data.folds=2", "data.fold=1"], "--folds 2 trains every fold, but data.fold says 1"),
        ("2", ["data.splits=splits_final.json"], "splits_final.json; leave one of the two away"),
        ("4", [], "4 folds need as many patients, got 3"),
    ],
)
def test_what_contradicts_the_folds_is_refused(
    folds_option, changed, message, patients, config_file, tmp_path, capsys
):
    more = [argument for setting in changed for argument in ("--set", setting)]
    assert train(patients, tmp_path / "run", config_file, "--folds", folds_option, *more) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_folder_is_refused(folds, trained_run, capsys):
    for run, more, message in [
        (folds.path, ["--folds", "2"], "holds a run already"),
        (folds.path, [], "holds a run already"),
        (folds.path / "nowhere", ["--resume"], "there is no run in"),
        (folds.path, ["--resume", "--folds", "3"], "holds a run of 2 folds, but --folds says 3"),
        (trained_run, ["--resume", "--folds", "2"], "holds one run without folds, but --folds"),
    ]:
        assert main(["train", str(folds.data), "--out", str(run), *more]) == 2
        assert message in one_line(capsys.readouterr().err)


# Their models as one


def segment(folds: FoldsRun, out: Path, *arguments: object) -> int:
    image = scan_of(folds)
    given = [str(image), "--out", str(out), "--click", "10,10,20:tumor", *map(str, arguments)]
    return main(["segment", *given])


def evaluate(data: Path, out: Path, *arguments: str) -> int:
    return main(
        ["evaluate", str(data), "--out", str(out), "--steps", "0", "--no-baselines", *arguments]
    )


def scan_of(folds: FoldsRun) -> Path:
    return Path(pd.read_csv(folds.data).image_PET.iloc[-1])


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_a_folder_and_its_models_by_name_segment_alike(ensemble, folds, tmp_path):
    by_name = [argument for model in folds.models for argument in ("--model", model)]
    masks = []
    for name, models in {"folder": ["--model", folds.path], "names": by_name}.items():
        out = tmp_path / f"{name}.nii.gz"
        assert segment(folds, out, *models, "--ensemble", ensemble) == 0
        masks.append(read_label_map(out, ("background", "tumor")).voxels)
    model = load_ensemble(folds.models, "cpu", combination=ensemble)
    session = InteractiveSession(model, read_volume(scan_of(folds)))
    *_, last = session.click((10, 10, 20), "tumor")
    assert last.kind == "exact"
    expected = session.predict().label_map.voxels
    assert 0 < expected.mean() < 1
    for mask in masks:
        assert np.array_equal(mask, expected)


@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_an_evaluation_says_which_models_answered_and_how(ensemble, folds, tmp_path, capsys):
    arguments = ["--model", str(folds.path), "--split", "train", "--limit", "1"]
    arguments += ["--save-masks", "last"]
    out = tmp_path / "out"
    assert evaluate(folds.data, out, *arguments, "--ensemble", ensemble) == 0
    summary = json.loads((out / "summary.json").read_text())
    model = load_ensemble(folds.models, "cpu", combination=ensemble)
    assert summary["model"] == [str(path) for path in folds.models]
    assert summary["ensemble"] == ensemble
    assert summary["model_fingerprint"] == model.fingerprint
    assert "an ensemble of 2 models" in (out / "report.html").read_text()
    case = pd.read_csv(folds.data).iloc[0]
    mask = read_label_map(out / "masks" / f"{case['name']}.nii.gz", ("background", "tumor"))
    session = InteractiveSession(model, read_volume(Path(case.image_PET)))
    assert np.array_equal(mask.voxels, session.predict().label_map.voxels)

    # the other way to answer is another evaluation
    capsys.readouterr()
    other = {"mean": "vote", "vote": "mean"}[ensemble]
    assert evaluate(folds.data, out, *arguments, "--ensemble", other) == 2
    message = one_line(capsys.readouterr().err)
    assert "holds an evaluation with another ensemble and model;" in message


@pytest.mark.parametrize("command", ["segment", "evaluate", "rank"])
def test_windows_that_a_later_member_does_not_take_are_refused(command, folds, tmp_path, capsys):
    """The first member, which takes windows of 4, cannot know."""
    options = {"filters": (4, 8, 8, 8), "strides": (1, 2, 2, 2)}
    deeper = read_model_settings(folds.models[0]).model_copy(
        update={"network": NetworkSettings(name="dynunet-light", options=options)}
    )
    other = tmp_path / "deeper.safetensors"
    save_model(other, deeper, deeper.build_network())
    data = folds.data if command == "evaluate" else scan_of(folds)
    out = tmp_path / {"segment": "x.nii.gz", "evaluate": "x", "rank": "x.csv"}[command]
    arguments = [str(data), "--out", str(out), "--set", "inference.window=[12,16,16]"]
    arguments += ["--model", str(folds.models[0]), "--model", str(other)]
    assert main([command, *arguments]) == 2
    assert "multiples of (8, 8, 8) voxels, got (12, 16, 16)" in one_line(capsys.readouterr().err)
    assert not out.exists()


def test_scans_are_ranked_by_the_doubt_of_all(folds, tmp_path):
    out = tmp_path / "ranking.csv"
    image = scan_of(folds)
    assert main(["rank", str(image), "--model", str(folds.path), "--out", str(out)]) == 0
    session = InteractiveSession(load_ensemble(folds.models, "cpu"), read_volume(image))
    assert pd.read_csv(out).uncertainty[0] == pytest.approx(session.uncertainty(), abs=1e-6)


def test_the_folder_of_a_single_run_is_its_model(trained_run, folds, tmp_path):
    masks = []
    for name, model in {"a": trained_run, "b": trained_run / "model.safetensors"}.items():
        out = tmp_path / f"{name}.nii.gz"
        assert segment(folds, out, "--model", model, "--ensemble", "vote") == 0
        masks.append(read_label_map(out, ("background", "tumor")).voxels)
    assert np.array_equal(*masks)


def test_models_lie_in_folders_of_folds_without_their_runs(folds, tmp_path):
    for model in folds.models:
        (tmp_path / model.parent.name).mkdir()
        shutil.copy(model, tmp_path / model.parent.name)
    assert segment(folds, tmp_path / "mask.nii.gz", "--model", tmp_path) == 0


def test_what_is_no_ensemble_is_refused(folds, trained_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    copied = tmp_path / "copied"
    shutil.copytree(folds.path, copied)
    shutil.rmtree(copied / "fold-1")
    first = folds.models[0]
    for models, code, message in [
        ([tmp_path / "empty"], 1, "empty: expected a model.safetensors in this folder, or folds"),
        ([copied], 1, "expected 2 trained folds, but fold-1 did not come to an end"),
        ([first, tmp_path / "nowhere"], 1, "nowhere: there is no such model file"),
        ([folds.path, first], 2, "model.safetensors: is named twice"),
    ]:
        arguments = [argument for model in models for argument in ("--model", model)]
        assert segment(folds, tmp_path / "mask.nii.gz", *arguments) == code
        assert message in one_line(capsys.readouterr().err)
    arguments = ["--model", str(folds.path), "--split", "validation"]
    assert evaluate(folds.data, tmp_path / "out", *arguments) == 2
    message = one_line(capsys.readouterr().err)
    assert "--split validation needs one --model, of folds one after the other" in message
    assert not (tmp_path / "out").exists()
