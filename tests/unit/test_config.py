"""Configurations: defaults that are documented, files and overrides, mistakes that are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from voxclick.config import RunConfig, load_config, save_config
from voxclick.datasets import Dataset
from voxclick.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_defaults_are_the_defaults():
    text = (ROOT / "docs/reference/configuration.md").read_text()
    documented = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert RunConfig.model_validate(documented) == RunConfig()
    assert documented == RunConfig().model_dump(mode="json")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_are_valid(path):
    config = load_config(path)
    data = Dataset(path, (), (), ("background", "tumor"), ("PET",))
    assert config.model_settings(data).labels == ("background", "tumor")


def test_a_saved_configuration_reads_back_unchanged(tmp_path):
    config = load_config(ROOT / "configs/phantom-pet.yaml", ["seed=9", "data.cache=/some/where"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config.seed == 9


def test_one_scaling_serves_all_channels():
    data = Dataset(ROOT, (), (), ("background", "tumor"), ("CT", "PET"))
    assert len(RunConfig().model_settings(data).preprocessing.intensity) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=0"], "training.epochs"),
        (["training.optimiser.name=adam"], "training.optimiser"),
        (["guidance=null"], "must both be"),
        (["data.folds=3", "data.fold=3"], "0…2"),
        (["network.name=nothing"], "no network named"),
        (["inference.window=[100,128,128]"], "multiples of"),
        (["guidance.kind=star"], "guidance"),
        (["training.augmentation.zoom=[1.3,0.75]"], "zoom: the smaller limit comes first"),
        (["training.augmentation.zoom=[0,1]"], "zoom"),
        (["training.augmentation.intensity_scale=[-1,1]"], "intensity_scale"),
        (["training.augmentation.gamma=[0,1]"], "gamma"),
        (["training.augmentation.blur_sigma=[-0.5,1]"], "blur_sigma"),
        (["inference.kind=one-pass", "inference.centre_crop=[0,8,8]"], "centre_crop"),
    ],
)
def test_mistakes_are_named(overrides, message):
    data = Dataset(ROOT, (), (), ("background", "tumor"), ("PET",))
    with pytest.raises(UsageError, match=message):
        load_config(None, overrides).model_settings(data)


def test_a_blur_may_be_none():
    config = load_config(None, ["training.augmentation.blur_sigma=[0,0]"])
    assert config.training.augmentation.blur_sigma == (0, 0)


def test_overrides_change_a_part_or_exchange_it():
    config = load_config(None, ["inference.window=[64,64,64]", "guidance.sigma=2"])
    assert config.inference.window == (64, 64, 64)
    assert config.inference.overlap == 0.25
    assert config.guidance.sigma == 2
    exchanged = load_config(None, ["guidance.kind=distance", "guidance.radius=7"])
    assert exchanged.guidance.radius == 7


@pytest.mark.parametrize(
    "setting",
    [
        "network.options.strides=[1,0,2]",
        "network.options.filters=[4,0,8]",
        "network.options.dropout=2",
        "training.crop=[0,16,16]",
        "guidance.sigma=.inf",
        "training.optimizer.learning_rate=.inf",
    ],
)
def test_numbers_that_no_network_and_no_training_can_have(setting):
    network = "network={name: dynunet, options: {strides: [1, 2, 2]}}"
    data = Dataset(ROOT, (), (), ("background", "tumor"), ("PET",))
    with pytest.raises(UsageError, match=setting.partition("=")[0].rpartition(".")[2]):
        load_config(None, [network, "guidance.kind=gaussian", setting]).model_settings(data)


def test_files_that_are_no_configuration(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "broken.yaml").write_text("a: [1,\n")
    for name, message in (("list.yaml", "key: value"), ("broken.yaml", "not valid YAML")):
        with pytest.raises(UsageError, match=message):
            load_config(tmp_path / name)
