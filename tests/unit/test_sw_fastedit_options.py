"""SW-FastEdit's options: parsed as it parsed them, and what each comes to."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, PolynomialLR

from voxclick.cli.sw_fastedit.options import build_parser, parse_shape
from voxclick.cli.sw_fastedit.translation import (
    WITHOUT_MEANING,
    run_configuration,
    windows_of_crop,
)
from voxclick.config import RunConfig
from voxclick.training.optimization import learning_rate_factor

ROOT = Path(__file__).resolve().parents[2]


def configuration(*words: str, channels: tuple[str, ...] = ("PET",)) -> RunConfig:
    options = build_parser().parse_args(["-o", "out", *words])
    return RunConfig.model_validate(run_configuration(options, channels))


def test_every_option_is_in_the_documented_table():
    table = (ROOT / "docs/reference/sw-fastedit-options.md").read_text()
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {flag for row in rows for flag in re.findall(r"`(-[^`]+)`", row)}
    flags = {
        flag
        for action in build_parser()._actions
        if action.dest not in ("help", "set", "device")
        for flag in action.option_strings
    }
    assert documented == flags


def test_options_without_meaning_are_options_and_the_table_says_so():
    table = (ROOT / "docs/reference/sw-fastedit-options.md").read_text()
    options = vars(build_parser().parse_args(["-o", "out"]))
    for name in WITHOUT_MEANING:
        assert name in options
        rows = [line for line in table.splitlines() if line.startswith("| `")]
        (row,) = [row for row in rows if f"`--{name}`" in row.split("|")[1]]
        assert "no meaning" in row


@given(
    st.tuples(*[st.integers(1, 999)] * 3),
    st.sampled_from(["({},{},{})", "[{}, {}, {}]", "{},{},{}", "( {} , {} ,{},)"]),
)
def test_shapes_as_the_original_wrote_them(shape, form):
    assert parse_shape(form.format(*shape)) == shape


@pytest.mark.parametrize(
    "text", ["(1,2)", "(1,2,3,4)", "(0,1,2)", "(-1,2,3)", "__import__('os')", "(1.5,2,3)", "None"]
)
def test_anything_else_is_no_shape(text):
    with pytest.raises(argparse.ArgumentTypeError, match="three whole numbers"):
        parse_shape(text)


def test_the_defaults_are_the_originals():
    run = configuration()
    assert run.seed == 36
    assert run.data.validation_fraction == pytest.approx(0.2)
    assert run.preprocessing.spacing_mm == (2.03642011, 2.03642011, 3.0)
    assert run.preprocessing.intensity[0].model_dump() == {
        "kind": "percentile",
        "low": 0.05,
        "high": 99.95,
    }
    assert run.guidance is not None
    assert run.guidance.model_dump() == {"kind": "disk", "sigma": 1}
    assert run.network.name == "dynunet"
    assert run.inference.model_dump(include={"window", "overlap", "blending", "precision"}) == {
        "window": (128, 128, 128),
        "overlap": 0.25,
        "blending": "gaussian",
        "precision": "float32",
    }
    training = run.training
    assert (training.epochs, training.batch_size, training.crop) == (100, 8, (128, 128, 128))
    assert training.optimizer.model_dump() == {
        "name": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
    }
    assert training.loss.model_dump(include={"name", "include_background", "squared_dice"}) == {
        "name": "dice-ce",
        "include_background": True,
        "squared_dice": True,
    }
    assert training.simulation is not None
    assert training.simulation.strategy.name == "corrective"
    assert training.simulation.stopping.model_dump() == {"name": "max-steps", "max_steps": 10}
    assert training.validation.strategy.name == "corrective"
    assert training.validation.stopping.max_steps == 10
    assert training.validate_every == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-a", {"training.precision": "auto", "inference.precision": "auto"}),
        ("-x 0.9", {"data.validation_fraction": 0.1}),
        ("-t 3", {"data.limit": 3}),
        ("--train_on_all_samples", {"data.validation_fraction": 0.0}),
        ("-c cache", {"data.cache": "cache"}),
        ("--positive_crop_rate 0.25", {"training.augmentation.positive_fraction": 0.25}),
        ("--crop_foreground", {"training.augmentation.inside_body": True}),
        ("-n smalldynunet", {"network.name": "dynunet-small"}),
        ("-n bigdynunet", {"network.name": "dynunet-big"}),
        ("-n hugedynunet", {"network.name": "dynunet-huge"}),
        (
            "--sw_roi_size (64,64,32)",
            {"inference.window": [64, 64, 32], "training.crop": [64, 64, 32]},
        ),
        ("--val_sw_batch_size 32", {"inference.window_batch": 32}),
        ("--val_sw_overlap 0.75", {"inference.overlap": 0.75}),
        ("--sw_cpu_output", {"inference.stitching": "cpu"}),
        ("--num_workers 4", {"training.workers": 4}),
        (
            "--inferer SimpleInferer --train_crop_size (192,192,256) --val_crop_size (192,192,256)",
            {
                "inference.kind": "one-pass",
                "inference.centre_crop": [192, 192, 256],
                "training.crop": [192, 192, 256],
                "training.batch_size": 1,
            },
        ),
        ("-e 400 -f 10", {"training.epochs": 400, "training.validate_every": 10}),
        ("-lr 0.001", {"training.optimizer.learning_rate": 0.001}),
        ("--optimizer Novograd", {"training.optimizer.name": "novograd"}),
        ("--loss DiceLoss", {"training.loss.name": "dice"}),
        ("--loss_dont_include_background", {"training.loss.include_background": False}),
        ("--loss_no_squared_pred", {"training.loss.squared_dice": False}),
        (
            "--use_scale_intensity_ranged",
            {
                "preprocessing.intensity": [
                    {"kind": "range", "low": 0.0, "high": 43.0, "clip": True}
                ]
            },
        ),
        ("--non_interactive", {"guidance": None, "training.simulation": None}),
        (
            "-it 4 -iv 7",
            {
                "training.simulation.stopping.max_steps": 4,
                "training.validation.stopping.max_steps": 7,
            },
        ),
        ("--sigma 3 --disks", {"guidance": {"kind": "disk", "sigma": 3}}),
        ("--sigma 5", {"guidance": {"kind": "sw-fastedit", "sigma": 5.0}}),
        ("--no_disks --sigma 2", {"guidance": {"kind": "gaussian", "sigma": 2.0}}),
        ("-tcg 1", {"training.simulation.strategy.name": "non-corrective"}),
        ("-vcg 2", {"training.validation.strategy.name": "patch-corrective"}),
        (
            "-tcgsc 2 --train_iteration_probability 0.75",
            {
                "training.simulation.stopping": {
                    "name": "max-steps-or-probability",
                    "probability": 0.75,
                    "max_steps": 10,
                }
            },
        ),
        (
            "-tcgsc 3 --train_loss_stopping_threshold 0.2",
            {
                "training.simulation.stopping": {
                    "name": "max-steps-or-dice",
                    "dice_loss": 0.2,
                    "max_steps": 10,
                }
            },
        ),
        ("-tcgsc 4", {"training.simulation.stopping.name": "max-steps-probability-dice"}),
        ("-vcgsc 5", {"training.validation.stopping.name": "deepgrow-probability"}),
        (  # the original's thresholds are of the training
            "-vcgsc 3 --train_loss_stopping_threshold 0.2",
            {
                "training.validation.stopping": {
                    "name": "max-steps-or-dice",
                    "dice_loss": 0.1,
                    "max_steps": 10,
                }
            },
        ),
        (
            "-dpt 0.4",
            {
                "training.simulation.strategy": {
                    "name": "deepgrow",
                    "probability": 0.4,
                    "weighting": "uniform",
                },
                "training.simulation.stopping": {
                    "name": "deepgrow-probability",
                    "probability": 0.4,
                    "max_steps": 10,
                },
                "training.validation.strategy.name": "corrective",
            },
        ),
        ("-dpv 0.4", {"training.validation.strategy.name": "deepgrow"}),
        ("--dataset MSD_Spleen", {"preprocessing.spacing_mm": [1.58593798, 1.58593798, 5.0]}),
        ("--dataset HECKTOR", {"preprocessing.spacing_mm": [4.0, 4.0, 4.0]}),
    ],
)
def test_what_an_option_comes_to(words, expected):
    settings = configuration(*words.split()).model_dump(mode="json")
    for key, value in expected.items():
        found = settings
        for part in key.split("."):
            found = found[part]
        assert found == value, key


def test_of_ct_and_pet_the_pet_is_taken():
    assert configuration(channels=("CT", "PET")).data.channels == ("PET",)
    assert configuration(channels=("CT",)).data.channels is None


@pytest.mark.parametrize("crop", [128, 192, 224, 320, 416])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_step_learns_as_many_windows_as_monai_cuts_the_crop_into(crop, overlap):
    options = build_parser().parse_args(
        ["-o", "out", "--train_crop_size", f"({crop},224,128)", "--train_sw_overlap", str(overlap)]
    )
    shape, roi = (crop, 224, 128), (128, 128, 128)
    interval = _get_scan_interval(shape, roi, 3, (overlap,) * 3)
    assert windows_of_crop(options) == len(dense_patch_slices(shape, roi, interval))


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "PolynomialLR", "MultiStepLR"])
def test_schedules_are_those_of_pytorch_with_the_originals_parameters(name):
    epochs = 40
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = {
        "CosineAnnealingLR": lambda: CosineAnnealingLR(optimizer, T_max=epochs, eta_min=1e-8),
        "PolynomialLR": lambda: PolynomialLR(optimizer, total_iters=epochs, power=2),
        "MultiStepLR": lambda: MultiStepLR(optimizer, milestones=[10, 20, 30], gamma=0.333),
    }[name]()
    ours = configuration("--scheduler", name).training.schedule
    for epoch in range(epochs):
        factor = learning_rate_factor(epoch, epochs, ours)
        assert math.isclose(factor, theirs.get_last_lr()[0], abs_tol=1e-6), epoch
        optimizer.step()
        theirs.step()
