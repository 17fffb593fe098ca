"""The original's command lines, run by our train.py on a small world."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from monai.networks.nets.dynunet import DynUNet

from voxclick.cli.main import main as voxclick
from voxclick.cli.sw_fastedit import main
from voxclick.config import load_config
from voxclick.datasets import read_dataset
from voxclick.guidance import SwFastEditGuidance
from voxclick.io import read_geometry
from voxclick.model_files import load_model
from voxclick.runs import split_of_run

ROOT = Path(__file__).resolve().parents[2]

SMALL_NETWORK = [
    *("--set", "network.options={filters: [4, 8, 8], strides: [1, 2, 2]}"),
    *("--set", "preprocessing.spacing_mm=[10, 10, 10]"),
    *("--sw_roi_size", "(16,16,16)", "--train_crop_size", "(28, 28, 16)"),
]
"""Extra options that cut the network and the volumes down."""


def run(line: str, **places: Path) -> int:
    return main(line.format(**places).split())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """As the original leaves it: its network, the image first, then tumor and background."""
    torch.manual_seed(0)
    network = DynUNet(
        spatial_dims=3,
        in_channels=3,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 8],
        norm_name="instance",
        deep_supervision=False,
        res_block=True,
    )
    path = tmp_path_factory.mktemp("original") / "18_checkpoint.pt"
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    torch.save(
        {"net": network.state_dict(), "opt": optimizer.state_dict(), "trainer": {"epoch": 18}}, path
    )
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "-a --disks --sigma 1 --inferer SlidingWindowInferer -i {data} -o {out} -c {cache} -ta "
            "-e 400",
            {"schedule": "cosine"},
        ),
        (
            "-a --disks --sigma 1 --inferer SlidingWindowInferer -i {data} -o {out} -c {cache} -ta "
            "-e 200 -f 10 --val_sw_batch_size 32 --scheduler PolynomialLR",
            {"schedule": "polynomial", "window_batch": 32},
        ),
        (
            "-a --disks --sigma 1 --inferer SlidingWindowInferer -i {data} -o {out} -c {cache} -ta "
            "-e 200 -f 10 --val_sw_batch_size 8 --scheduler CosineAnnealingLR "
            "--network ultradynunet",
            {"schedule": "cosine", "window_batch": 8, "network": "dynunet-huge"},
        ),
    ],
)
def test_command_lines_that_train(line, expected, phantom_folder, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    words = line.format(data=phantom_folder, out=out, cache=cache).split()
    cut = ["--set", "training.epochs=1", "--set", "training.steps_per_epoch=1"]
    assert main([*words, *SMALL_NETWORK, *cut, "-iv", "1", "-it", "2"]) == 0
    model = load_model(out / "model.safetensors", "cpu")
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["training"]["schedule"]["name"] == expected["schedule"]
    assert saved["network"]["name"] == expected.get("network", "dynunet")
    assert saved["inference"]["window_batch"] == expected.get("window_batch", 1)
    assert saved["training"]["batch_size"] == 4  # windows of 16³ in a crop of 28 x 28 x 16
    assert model.settings.guidance is not None
    assert list(cache.iterdir()) == []  # thrown away


def test_the_command_line_of_one_pass(phantom_folder, tmp_path):
    line = (
        "-a --disks --sigma 1 --inferer SimpleInferer -i {data} -o {out} -c {cache} -ta -e 1 -f 10 "
        "--val_crop_size (192,192,256)"
    )
    words = line.format(data=phantom_folder, out=tmp_path / "out", cache=tmp_path / "c").split()
    crop = [*SMALL_NETWORK, "--train_crop_size", "(16,16,16)", "--val_crop_size", "(16,16,24)"]
    assert main([*words, *crop, "-iv", "1", "-it", "1"]) == 0
    saved = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert saved["inference"]["kind"] == "one-pass"
    assert saved["inference"]["centre_crop"] == [16, 16, 24]
    assert saved["training"]["steps_per_epoch"] == 2  # of three cases one is validated on


@pytest.mark.parametrize(
    "line",
    [
        "-a --inferer=SlidingWindowInferer --disks --network dynunet --sigma 1 -o {out} -d {data} "
        "-c {cache} -e 1 -t 1 --eval_only --save_nifti --resume_from {checkpoint} -ta",
        "-a --disks --sigma 1 --inferer SlidingWindowInferer -i {data} -o {out} -c {cache} -ta "
        "--val_sw_batch_size 8 --dont_check_output_dir --resume_from {checkpoint} --eval_only "
        "-t 10",
    ],
)
def test_command_lines_that_evaluate(line, phantom_folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    places = {"data": phantom_folder, "out": out, "cache": tmp_path, "checkpoint": checkpoint}
    assert main([*line.format(**places).split(), *SMALL_NETWORK, "-iv", "2"]) == 0
    settings = load_model(out / "resumed-from/model.safetensors", "cpu").settings
    assert settings.preprocessing.spacing_mm == (10, 10, 10)  # not in the file: as the line says
    assert settings.guidance == SwFastEditGuidance(sigma=1)
    scores = pd.read_csv(out / "scores/scores.csv")
    assert sorted(scores["step"]) == [0, 1, 2]  # of three training cases one is held back
    (name,) = scores["case"].unique()
    masks = sorted((out / "scores").rglob("*.nii.gz"))
    if "--save_nifti" in line:
        assert len(masks) == 3
        image = phantom_folder / "imagesTr" / f"{name}.nii.gz"
        assert all(read_geometry(mask).matches(read_geometry(image)) for mask in masks)
    else:
        assert masks == []


def test_weights_of_the_original_are_trained_further(phantom_folder, checkpoint, tmp_path, capsys):
    line = "-i {data} -o {out} -e 1 --resume_from {checkpoint} --train_on_all_samples"
    places = {"data": phantom_folder, "out": tmp_path / "out", "checkpoint": checkpoint}
    rate = ["-lr", "1e-12", "-it", "1"]  # so small that the weights stay what they were
    assert main([*line.format(**places).split(), *SMALL_NETWORK, *rate]) == 0
    assert "optimizer" in capsys.readouterr().out
    trained = load_model(tmp_path / "out/model.safetensors", "cpu")
    assert trained.settings.guidance == SwFastEditGuidance(sigma=1)
    theirs = torch.load(checkpoint, weights_only=True)["net"]
    name = "bottleneck.conv1.conv.weight"
    assert torch.allclose(trained.network.state_dict()[name], theirs[name], atol=1e-6)


def test_weights_that_learnt_without_disks_are_refused(
    phantom_folder, checkpoint, tmp_path, capsys
):
    line = "-i {data} -o {out} --eval_only --no_disks --resume_from {checkpoint}"
    places = {"data": phantom_folder, "out": tmp_path, "checkpoint": checkpoint}
    assert run(line, **places) == 2
    assert "trained with disks" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_leaves_the_run_in_its_folder_as_it_is(phantom_folder, tmp_path, capsys):
    words = f"-i {phantom_folder} -o {tmp_path} -e 1 -it 1 -iv 1".split()
    assert main([*words, *SMALL_NETWORK]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    resumed = ["--resume_from", str(tmp_path / "model.safetensors"), "--eval_only", "-x", "0.5"]
    assert main([*words, *resumed, "--val_sw_overlap", "0.1"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    said = " ".join(capsys.readouterr().out.split())
    assert "--set inference.overlap=0.1" in said
    assert "inference.window" not in said  # the model's, as no option says another
    held_back = choose_held_back(phantom_folder, tmp_path)
    assert set(pd.read_csv(tmp_path / "scores/scores.csv")["case"]) == held_back
    assert "the split is that of the run" in said


def choose_held_back(data: Path, run_folder: Path) -> set[str]:
    _, validation = split_of_run(read_dataset(data), load_config(run_folder / "config.yaml"))
    return {case.name for case in validation}


def test_weights_of_ours_are_read_as_they_have_learnt(phantom_folder, checkpoint, tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    assert voxclick(["import-weights", str(checkpoint), "--out", str(model)]) == 0
    words = f"-i {phantom_folder} -o {tmp_path / 'out'} -e 1 -it 1 --train_on_all_samples".split()
    options = ["--resume_from", str(model), "--use_scale_intensity_ranged"]
    assert main([*words, *SMALL_NETWORK, *options]) == 0
    assert f"preprocessing and guidance are those of {model}" in " ".join(
        capsys.readouterr().out.split()
    )
    settings = load_model(tmp_path / "out/model.safetensors", "cpu").settings
    assert settings.guidance == SwFastEditGuidance(sigma=1)
    (scaling,) = settings.preprocessing.intensity
    assert scaling.kind == "percentile"


def test_a_checkpoint_goes_on_in_its_own_folder_alone(phantom_folder, tmp_path, capsys):
    words = f"-i {phantom_folder} -e 1 -it 1 -iv 1 -o".split()
    assert main([*words, str(tmp_path / "a"), *SMALL_NETWORK]) == 0
    resumed = ["--resume_from", str(tmp_path / "a/last.ckpt")]
    assert main([*words, str(tmp_path / "a"), *SMALL_NETWORK, *resumed, "-e", "9"]) == 0
    assert "the run goes on as" in capsys.readouterr().out
    for more in (["-o", str(tmp_path / "b")], ["--eval_only"]):
        assert main([*words, str(tmp_path / "a"), *more, *SMALL_NETWORK, *resumed]) == 2
        assert "model.safetensors beside it" in " ".join(capsys.readouterr().err.split())


def test_an_option_without_meaning_says_so(phantom_folder, tmp_path, capsys):
    assert run("-i {data} -o {out} --eval_only --gpu_size small", data=phantom_folder, out=tmp_path)
    said = capsys.readouterr()
    assert "--gpu_size has no meaning here" in said.out
    assert "--resume_from" in said.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-o {out}", "--input_dir"),
        ("-i {data} -o {out} --eval_only --resume_from nothing.pt", "there is no such file"),
        ("-i {data} -o {out} --save_nifti", "--eval_only"),
        ("-i {data} -o {out} --limit_gpu_memory_to 7", "from 0 to 1"),
    ],
)
def test_wrong_use_is_one_sentence(line, message, phantom_folder, tmp_path, capsys):
    assert run(line, data=phantom_folder, out=tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_sizes_are_parsed_never_run():
    code = "(__import__('pathlib').Path('run').touch(),1,1)"
    result = subprocess.run(
        [sys.executable, "train.py", "-o", "out", "--sw_roi_size", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "three whole numbers" in result.stderr
    assert not (ROOT / "run").exists()
