"""Runs that start from a model file, and what they take from the data set and its validation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torch import nn

import voxclick
from voxclick.cli.main import main
from voxclick.config import load_config
from voxclick.datasets import read_dataset
from voxclick.guidance import GaussianGuidance
from voxclick.model_files import load_model, read_model_settings
from voxclick.runs import Split, choose_cases, load_run, split_of_run
from voxclick.simulation import SimulatedUser
from voxclick.training.loop import Trainer
from voxclick.training.run_folder import RunFolder
from voxclick.training.settings import ValidationSettings

SHORT = ["--set", "training.epochs=1", "--set", "training.steps_per_epoch=1"]

STANDING = ["--set", "training.optimizer.learning_rate=1e-30"]
"""Too small to change a float32: the weights stay what they were in the beginning."""


def train(data: Path, run: Path, *more: object) -> int:
    return main(["train", str(data), "--out", str(run), *map(str, more)])


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run / "model.safetensors", "cpu").network.state_dict()


def assert_equal_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_what_is_not_said_is_the_models(trained_run, phantom_folder, tmp_path):
    weights, run = trained_run / "model.safetensors", tmp_path / "run"
    assert train(phantom_folder, run, "--weights", weights, "--seed", 6, *SHORT, *STANDING) == 0
    before, after = load_model(weights, "cpu"), load_model(run / "model.safetensors", "cpu")
    assert after.settings == before.settings.model_copy(
        update={"air_below": after.settings.air_below}  # of the cases that were learnt
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["crop"] == [16, 16, 16]  # its windows
    assert config["training"]["epochs"] == 1
    # the first step's network is the file's, and this step has changed nothing
    assert_equal_bits(before.network.state_dict(), after.network.state_dict())


def test_what_is_said_counts(trained_run, phantom_folder, tmp_path):
    config = tmp_path / "config.yaml"
    said = {"weights": str(trained_run / "model.safetensors"), "guidance": {"kind": "gaussian"}}
    config.write_text(yaml.safe_dump({**said, "training": {"crop": [16, 16, 8]}}))
    more = ["--set", "inference.overlap=0.5", *SHORT]
    assert train(phantom_folder, tmp_path / "run", "--config", config, *more) == 0
    settings = load_model(tmp_path / "run/model.safetensors", "cpu").settings
    assert settings.guidance == GaussianGuidance()
    assert settings.inference.overlap == 0.5
    assert settings.inference.window == (16, 16, 16)
    assert settings.preprocessing.spacing_mm == (10, 10, 10)
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["training"]["crop"] == [16, 16, 8]


def test_a_model_without_clicks_stays_one(phantom_folder, config_file, tmp_path):
    none = ["--set", "guidance=null", "--set", "training.simulation=null"]
    first = tmp_path / "run #2: a 😀 😀"  # to YAML, a comment and a mapping
    assert train(phantom_folder, first, "--config", config_file, *none, *SHORT) == 0
    weights = first / "model.safetensors"
    assert train(phantom_folder, tmp_path / "b", "--weights", weights, *SHORT) == 0
    saved = yaml.safe_load((tmp_path / "b/config.yaml").read_text())
    assert saved["guidance"] is saved["training"]["simulation"] is None


SAME_NETWORK = "{name: dynunet, options: {filters: [4, 8, 8], strides: [1, 2, 2]}}"
OTHER_NETWORK = "{name: dynunet, options: {filters: [4, 8, 16], strides: [1, 2, 2]}}"


def test_one_network_may_be_named_in_two_ways(trained_run, phantom_folder, tmp_path):
    weights = trained_run / "model.safetensors"
    more = ["--weights", weights, "--set", f"network={SAME_NETWORK}", *SHORT]
    assert train(phantom_folder, tmp_path / "run", *more) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"network={OTHER_NETWORK}"], "weights for the network"),
        (["data.labels=[background, lesion]"], "'tumor') cannot be trained further with"),
        (["guidance=null", "training.simulation=null"], "is a model with clicks, but guidance"),
    ],
)
def test_a_configuration_that_contradicts_the_model_is_refused(
    settings, message, trained_run, phantom_folder, tmp_path, capsys
):
    more = ["--weights", trained_run / "model.safetensors"]
    for setting in settings:
        more += ["--set", setting]
    assert train(phantom_folder, tmp_path / "run", *more) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "model.safetensors" in error
    assert not (tmp_path / "run").exists()


def with_files_of(phantom_folder: Path, folder: Path, *channels: str) -> Path:
    """The phantoms with their labels as more channels beside the PET."""
    (folder / "labelsTr").parent.mkdir(parents=True)
    (folder / "labelsTr").symlink_to(phantom_folder / "labelsTr")
    (folder / "imagesTr").mkdir()
    for label in (phantom_folder / "labelsTr").iterdir():
        for number, channel in enumerate(channels):
            part = "imagesTr" if channel == "PET" else "labelsTr"
            name = label.name.replace(".nii.gz", f"_{number:04d}.nii.gz")
            (folder / "imagesTr" / name).symlink_to(phantom_folder / part / label.name)
    names = {str(number): channel for number, channel in enumerate(channels)}
    labels = {"background": 0, "tumor": 1}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": labels}))
    return folder


def test_channels_that_are_not_the_models_are_refused(
    trained_run, phantom_folder, tmp_path, capsys
):
    data = with_files_of(phantom_folder, tmp_path / "data", "CT")
    assert train(data, tmp_path / "run", "--weights", trained_run / "model.safetensors") == 2
    assert "('PET',) cannot be trained further with ('CT',)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_channels_are_taken_by_their_names(trained_run, phantom_folder, config_file, tmp_path):
    data = with_files_of(phantom_folder, tmp_path / "data", "CT", "PET")
    run = tmp_path / "run"
    assert train(data, run, "--config", config_file, "--set", "data.channels=[PET]") == 0
    assert load_model(run / "model.safetensors", "cpu").settings.channels == ("PET",)
    # as if the others were not there, in training …
    assert_equal_bits(state(run), state(trained_run))
    # … and where the model is used
    scores = []
    for name, folder in (("both", data), ("alone", phantom_folder)):
        words = ["evaluate", folder, "--model", run / "model.safetensors", "--split", "train"]
        words += ["--out", tmp_path / name, "--steps", 1, "--limit", 1, "--no-baselines"]
        assert main([str(word) for word in words]) == 0
        scores.append(pd.read_csv(tmp_path / name / "scores.csv").drop(columns="seconds"))
    pd.testing.assert_frame_equal(*scores)


@pytest.mark.parametrize("interrupted_after", [0, 1])
def test_a_resumed_run_needs_its_first_weights_no_more(
    interrupted_after, trained_run, phantom_folder, tmp_path, monkeypatch
):
    weights = tmp_path / "first.safetensors"
    weights.write_bytes((trained_run / "model.safetensors").read_bytes())
    more = ["--weights", weights, "--set", "training.epochs=2"]
    assert train(phantom_folder, tmp_path / "whole", *more) == 0

    class InterruptedTrainer(Trainer):
        def _save_checkpoint(self, schedule, epochs_done):
            super()._save_checkpoint(schedule, epochs_done)
            if epochs_done == interrupted_after:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("voxclick.cli.train.Trainer", InterruptedTrainer)
        assert train(phantom_folder, tmp_path / "run", *more) != 0
    progress = RunFolder(tmp_path / "run").progress()
    assert progress is not None
    assert progress.epochs_done == interrupted_after
    weights.unlink()
    assert train(phantom_folder, tmp_path / "run", "--resume") == 0
    assert_equal_bits(state(tmp_path / "run"), state(tmp_path / "whole"))
    assert train(phantom_folder, tmp_path / "new", *more) == 1  # only to start does one need them


def test_training_that_makes_a_model_worse_leaves_it_as_it_was(
    trained_run, phantom_folder, tmp_path
):
    weights, run = trained_run / "model.safetensors", tmp_path / "run"
    too_fast = ["--set", "training.optimizer.learning_rate=100", "--set", "training.epochs=2"]
    assert train(phantom_folder, run, "--weights", weights, *SHORT[2:], *too_fast) == 0
    assert_equal_bits(state(run), load_model(weights, "cpu").network.state_dict())
    progress = RunFolder(run).progress()
    assert progress is not None
    assert progress.epochs_done == 2
    assert progress.best_dice is not None


def test_a_trainer_tells_of_every_epoch(trained_run, phantom_folder, tmp_path):
    weights = trained_run / "model.safetensors"
    given = [f"weights={weights}", "training.epochs=3", "training.validate_every=2"]
    config = load_config(None, [*given, "training.steps_per_epoch=2"])
    dataset = read_dataset(phantom_folder)
    folder, told = RunFolder(tmp_path / "run"), []
    trainer = Trainer(
        config.training, config.model_settings(dataset), folder, weights=weights, device="cpu"
    )

    def on_epoch(end):
        progress = folder.progress()
        assert progress is not None
        assert (progress.epochs_done, progress.best_dice) == (end.epochs_done, end.best_dice)
        told.append(end)

    result = trainer.fit(*split_of_run(dataset, config), on_epoch=on_epoch)
    assert [(end.epochs_done, end.epochs) for end in told] == [(1, 3), (2, 3), (3, 3)]
    assert all(end.loss > 0 for end in told)
    steps = config.training.validation.stopping.max_steps
    assert [end.dice and len(end.dice) for end in told] == [None, steps + 1, steps + 1]
    assert told[0].best_dice is not None  # that of the weights which the run began with
    assert told[-1].best_dice == result.best_dice
    assert result.best_epoch in (0, 2, 3)


def splits_final(path: Path, *folds: tuple[str, str]) -> Path:
    def names(part: str) -> list[str]:
        return [f"PHANTOM_00{number}" for number in part]

    path.write_text(json.dumps([{"train": names(a), "val": names(b)} for a, b in folds]))
    return path


def test_published_folds_are_trained_and_evaluated(phantom_folder, config_file, tmp_path, capsys):
    path = splits_final(tmp_path / "splits_final.json", ("01", "2"), ("2", "01"))
    more = ["--config", config_file, "--set", f"data.splits={path}", *SHORT]
    assert train(phantom_folder, tmp_path / "run", *more, "--set", "data.fold=1") == 0
    assert "1 cases" in capsys.readouterr().out
    words = ["evaluate", phantom_folder, "--model", tmp_path / "run/model.safetensors"]
    words += ["--split", "validation", "--steps", 0, "--no-baselines", "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    cases = pd.read_csv(tmp_path / "out/scores.csv")["case"]
    assert list(cases) == ["PHANTOM_000", "PHANTOM_001"]
    assert train(phantom_folder, tmp_path / "none", *more, "--set", "data.fold=2") == 2
    assert "holds 2 folds, but data.fold says 2" in " ".join(capsys.readouterr().err.split())


def test_every_case_is_evaluated_by_the_fold_that_did_not_learn_it(
    phantom_folder, config_file, tmp_path
):
    more = ["--config", config_file, "--folds", 3, *SHORT]
    assert train(phantom_folder, tmp_path / "run", *more) == 0
    cases = []
    for fold in range(3):
        model = tmp_path / f"run/fold-{fold}/model.safetensors"
        run, settings = load_run([model]), read_model_settings(model)
        held_back = choose_cases(phantom_folder, Split.validation, settings, run)
        learnt, _ = split_of_run(read_dataset(phantom_folder), run)
        assert not {case.name for case in learnt} & {case.name for case in held_back}
        cases += [case.name for case in held_back]
    assert sorted(cases) == ["PHANTOM_000", "PHANTOM_001", "PHANTOM_002"]


@pytest.mark.parametrize("models", [1, 2])
def test_only_a_run_knows_what_it_held_back(models, trained_run, phantom_folder, tmp_path, capsys):
    words = ["evaluate", str(phantom_folder), "--out", str(tmp_path / "scores")]
    for number in range(models):
        model = tmp_path / f"{number}/model.safetensors"
        model.parent.mkdir()
        model.write_bytes((trained_run / "model.safetensors").read_bytes())
        words += ["--model", str(model)]
    assert main([*words, "--split", "validation"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "needs one --model, of folds one after the other, with the config.yaml" in message


class BrightOrClicked(nn.Conv3d):
    """Tumor is what is brighter than a half, or clicked as such and not as background."""

    def __init__(self, inputs: int, labels: int) -> None:
        super().__init__(inputs, labels, 1)
        with torch.no_grad():
            self.bias.copy_(torch.tensor([0.5, 0.0]))
            # columns: image, clicks on background, clicks on tumor
            self.weight.copy_(torch.tensor([[0.0, 2, 0], [1, 0, 2]])[..., None, None, None])


@pytest.fixture
def bright_network(monkeypatch) -> str:
    monkeypatch.setattr("voxclick.networks.registry._own_networks", {})
    voxclick.register_network("bright-or-clicked", BrightOrClicked, window_multiple=(1, 1, 1))
    return "bright-or-clicked"


@pytest.fixture(scope="module")
def bright_folder(tmp_path_factory) -> Path:
    """Two cases with lesions of which some are not bright, and with bright places beside them."""
    folder = tmp_path_factory.mktemp("bright")
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    rng = np.random.default_rng(8)
    for name in ("a", "b"):
        image = rng.uniform(0, 0.4, size=(24, 20, 18))
        label = np.zeros(image.shape, np.uint8)
        for _ in range(5):
            i, j, k = rng.integers(0, (18, 14, 12))
            blob = (slice(i, i + 5), slice(j, j + 5), slice(k, k + 5))
            label[blob] = rng.uniform() < 0.7
            image[blob] = rng.uniform(0.2, 1.0, size=image[blob].shape)
        for part, voxels in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            file = nibabel.Nifti1Image(voxels, np.diag([4.0, 3.0, 5.0, 1.0]))
            nibabel.save(file, folder / part / f"{name}.nii.gz")
    return folder


def dice_of_a_session(
    model: Path, data: Path, case: str, settings: ValidationSettings, seed: int
) -> list[float]:
    """Dice after each step, clicked in a session on the file, whose last stands for those left."""
    image, label = (
        nibabel.load(data / part / f"{case}.nii.gz") for part in ("imagesTr", "labelsTr")
    )
    truth = np.asarray(label.dataobj)
    session = voxclick.InteractiveSession(
        voxclick.load_model(model, "cpu"), voxclick.read_volume(image.get_filename())
    )
    user = SimulatedUser(settings.strategy, settings.stopping, seed)
    dice: list[float] = []
    while True:
        found = session.predict().label_map.voxels
        both = np.logical_and(found, truth).sum()
        dice.append(float(2 * both / (found.sum() + truth.sum())))
        shown = torch.from_numpy(truth), torch.from_numpy(found)
        clicks = user.next_clicks(*shown, label.header.get_zooms())
        if clicks is None:
            return dice + dice[-1:] * (settings.stopping.max_steps + 1 - len(dice))
        session.add(
            [voxclick.Click(c.index, ("background", "tumor")[c.label_index]) for c in clicks]
        )


USERS = {
    "largest error": "{stopping: {name: max-steps, max_steps: 4}}",
    "corrective": "{strategy: {name: corrective}, stopping: {name: max-steps, max_steps: 3}}",
    "non-corrective": "{strategy: {name: non-corrective}, "
    "stopping: {name: max-steps-or-probability, max_steps: 6, probability: 0.7}}",
    "patch": "{strategy: {name: patch-corrective, patch_size: 8}, "
    "stopping: {name: max-steps-or-dice, max_steps: 9, dice_loss: 0.2}}",
    "deepgrow": "{strategy: {name: deepgrow, probability: 0.6}, "
    "stopping: {name: deepgrow-probability, max_steps: 4, probability: 0.9}}",
}


@pytest.mark.parametrize("user", USERS)
def test_validation_is_what_the_same_user_sees_in_a_session(
    user, bright_folder, bright_network, tmp_path
):
    splits = tmp_path / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    config = {
        "seed": 4,
        "data": {"splits": str(splits)},
        "preprocessing": {"intensity": [{"kind": "range", "low": 0, "high": 1}]},
        "network": {"name": bright_network},
        "inference": {"kind": "sliding-windows", "window": [16, 16, 16], "precision": "float32"},
        "training": {"crop": [16, 16, 16], "precision": "float32"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run, who = RunFolder(tmp_path / "run"), f"training.validation={USERS[user]}"
    more = ["--config", tmp_path / "config.yaml", "--set", who, *SHORT, *STANDING]
    assert train(bright_folder, run.path, *more) == 0
    progress = run.progress()
    assert progress is not None
    settings = TypeAdapter(ValidationSettings).validate_python(yaml.safe_load(USERS[user]))
    dice = dice_of_a_session(run.model, bright_folder, "b", settings, seed=4)
    assert progress.best_dice == pytest.approx(np.mean(dice), abs=1e-9)
    assert dice[0] > 0.5
    assert len(set(dice)) > 1  # clicks were heard
