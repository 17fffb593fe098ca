"""Whole training runs: what they leave, that resuming is exact, that several processes agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from voxclick.cli.main import main
from voxclick.model_files import load_model
from voxclick.training.loop import Trainer
from voxclick.training.losses import SegmentationLoss


def train(data: Path, run: Path, config: Path, *more: str) -> int:
    return main(["train", str(data), "--out", str(run), "--config", str(config), *more])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_equal_bits(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_a_run_leaves_model_checkpoint_config_and_logs(trained_run):
    assert {path.name for path in trained_run.iterdir()} == {
        "model.safetensors",
        "last.ckpt",
        "config.yaml",
        "tensorboard",
    }
    assert list((trained_run / "tensorboard").glob("events.*"))
    resolved = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert resolved["training"]["epochs"] == 3
    assert resolved["training"]["optimizer"]["name"] == "adamw"  # a default, spelt out
    settings = load_model(trained_run / "model.safetensors", "cpu").settings
    assert settings.labels == ("background", "tumor")
    assert settings.channels == ("PET",)
    assert settings.preprocessing.spacing_mm == (10, 10, 10)


def test_the_same_seed_trains_the_same_weights(trained_run, phantom_folder, config_file, tmp_path):
    assert train(phantom_folder, tmp_path / "again", config_file) == 0
    assert_equal_bits(trained_run, tmp_path / "again")
    assert train(phantom_folder, tmp_path / "other", config_file, "--seed", "6") == 0
    assert not torch.equal(
        *(next(iter(weights(run).values())) for run in (trained_run, tmp_path / "other"))
    )


@pytest.mark.parametrize("pool", [None, 4])
def test_a_killed_run_resumes_to_the_same_bits(pool, phantom_folder, config_file, tmp_path):
    settings = ["--set", f"training.pool_size={'null' if pool is None else pool}"]
    settings += ["--set", "data.validation_fraction=0.34"]
    assert train(phantom_folder, tmp_path / "whole", config_file, *settings) == 0

    run = tmp_path / "killed"
    command = [sys.executable, "-m", "voxclick", "train", str(phantom_folder), "--out", str(run)]
    process = subprocess.Popen([*command, "--config", str(config_file), *settings])
    while not (run / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs_done = torch.load(run / "last.ckpt", weights_only=True)["epochs_done"]
    assert main(["train", str(phantom_folder), "--out", str(run), "--resume"]) == 0
    assert epochs_done < 3, "the run was not interrupted: the test showed nothing"
    assert_equal_bits(tmp_path / "whole", run)


def test_a_finished_run_is_not_overwritten(trained_run, phantom_folder, config_file, capsys):
    assert train(phantom_folder, trained_run, config_file) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_limit_trains_on_the_first_cases_by_name(phantom_folder, config_file, tmp_path, capsys):
    arguments = ["train", str(phantom_folder), "--config", str(config_file), "--limit", "1"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert "1 cases" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]["limit"] == 1


def test_cross_validation_and_a_run_without_clicks(phantom_folder, config_file, tmp_path):
    code = train(
        phantom_folder,
        tmp_path / "run",
        config_file,
        *("--set", "guidance=null", "--set", "training.simulation=null"),
        *("--set", "data.folds=3", "--set", "data.fold=1", "--set", "training.epochs=1"),
    )
    assert code == 0
    model = load_model(tmp_path / "run/model.safetensors", "cpu")
    assert model.settings.guidance is None
    assert model.settings.in_channels == 1


def test_a_loss_that_is_not_finite_ends_the_run_with_the_reason(
    phantom_folder, config_file, tmp_path, capsys
):
    code = train(
        phantom_folder,
        tmp_path / "run",
        config_file,
        *("--set", "training.optimizer.learning_rate=1e30", "--set", "training.gradient_clip=null"),
    )
    assert code == 1
    message = capsys.readouterr().err
    assert "the loss became" in message
    assert "PHANTOM_" in message
    assert "learning_rate" in message


def test_infinite_weights_are_never_saved(
    phantom_folder, config_file, tmp_path, monkeypatch, capsys
):
    """A root at zero is 0 and its slope infinite: the loss of this only step tells nothing."""

    def root_at_zero(self, output, label, to_correct):
        return torch.sqrt(output.mean() - output.mean().detach())

    monkeypatch.setattr(SegmentationLoss, "forward", root_at_zero)
    run = tmp_path / "run"
    assert train(phantom_folder, run, config_file, "--set", "training.steps_per_epoch=1") == 1
    assert "weights became infinite" in capsys.readouterr().err
    assert not (run / "last.ckpt").exists()
    assert not (run / "model.safetensors").exists()


def test_without_validation_every_epoch_leaves_its_model(
    phantom_folder, config_file, tmp_path, monkeypatch
):
    saved = []
    monkeypatch.setattr(Trainer, "_save_model", lambda self: saved.append(1))
    assert train(phantom_folder, tmp_path / "run", config_file) == 0
    assert len(saved) == 3


def test_a_checkpoint_of_another_network_is_refused(trained_run, phantom_folder, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.ckpt").write_bytes((trained_run / "last.ckpt").read_bytes())
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    config["network"]["options"]["filters"] = [4, 8, 16]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(phantom_folder), "--out", str(run), "--resume"]) == 1
    assert "does not fit this run's configuration" in capsys.readouterr().err


def train_in_two_processes(phantom_folder, config_file, run, *more):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_port=29517", "-m", "voxclick", "train", str(phantom_folder)]
    command += ["--out", str(run), "--config", str(config_file), "--device", "cpu", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_two_processes_train_one_network(phantom_folder, config_file, tmp_path):
    """Two processes with half the batch learn what one learns: gradients are averaged.

    Plain gradient descent would show equal weights; Adam's first step is the sign of the mean
    gradient, which two unsynchronised processes would not share either.
    """
    split = ["--set", "data.validation_fraction=0.34"]
    finished = train_in_two_processes(phantom_folder, config_file, tmp_path / "two", *split)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("Dice after 0, 1") + finished.stdout.count("3 epochs") > 0
    checkpoint = torch.load(tmp_path / "two/last.ckpt", weights_only=True)
    assert checkpoint["best_dice"] is not None
    assert train(phantom_folder, tmp_path / "one", config_file, *split) == 0
    alone = torch.load(tmp_path / "one/last.ckpt", weights_only=True)
    # another process took part: the weights are not those that the first one makes alone
    name = next(iter(alone["network"]))
    assert not torch.equal(alone["network"][name], checkpoint["network"][name])
    # and only the first process spoke
    assert finished.stdout.count("3 epochs") == 1


def test_a_wrong_number_of_processes_is_refused(phantom_folder, config_file, tmp_path):
    finished = train_in_two_processes(
        phantom_folder, config_file, tmp_path / "run", "--devices", "3"
    )
    assert finished.returncode != 0
    assert "2 processes were started, but --devices 3" in finished.stderr
    assert not (tmp_path / "run" / "last.ckpt").exists()
