"""The container's entry point, as a process of its own on a folder as the challenge gives it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from voxclick import InteractiveSession, load_ensemble, load_model, read_volume
from voxclick.cli.main import main
from voxclick.clicks import Click
from voxclick.io import read_label_map, write_volume
from voxclick.model_files import read_model_settings, save_model

NAME = "psma_95b833d65be26d2f"
CLICKS = {"tumor": [[12, 10, 8]], "background": [[2, 3, 4], [30, 20, 10]]}


@pytest.fixture
def case_folder(phantom_folder, tmp_path) -> Path:
    """One PET, one CT and clicks, named as in the challenge."""
    folder = tmp_path / "input"
    image = read_volume(sorted((phantom_folder / "imagesTs").glob("*.nii.gz"))[0])
    write_volume(image, folder / "images/pet" / f"{NAME}.mha")
    write_volume(image, folder / "images/ct" / f"{NAME}.mha")
    points = [
        {"point": point, "name": label} for label, voxels in CLICKS.items() for point in voxels
    ]
    (folder / "lesion-clicks.json").write_text(
        json.dumps(
            {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points}
        )
    )
    return folder


def pet_of(folder: Path) -> Path:
    return folder / "images/pet" / f"{NAME}.mha"


def test_as_a_process_without_network_it_leaves_the_mask_of_a_session(
    case_folder, trained_run, tmp_path
):
    out = tmp_path / "output"
    models = tmp_path / "model"
    models.mkdir()
    (models / "model.safetensors").symlink_to(trained_run / "model.safetensors")
    folders = ("--input", case_folder, "--output", out, "--model", models, "--device", "cpu")
    # no way out: every proxy is a port where nobody listens
    closed = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    subprocess.run(
        [sys.executable, "-m", "voxclick", "challenge", *map(str, folders)],
        check=True,
        env=os.environ | closed,
    )
    mask = out / "images/tumor-lesion-segmentation" / f"{NAME}.mha"
    assert sorted(path for path in out.rglob("*") if path.is_file()) == [mask]

    model = load_model(trained_run / "model.safetensors", "cpu")
    session = InteractiveSession(model, read_volume(pet_of(case_folder)))
    for label, voxels in CLICKS.items():
        session.add([Click(tuple(voxel), label) for voxel in voxels])
    expected = session.predict().label_map
    assert np.array_equal(read_label_map(mask).voxels, expected.voxels)
    theirs, pet = sitk.ReadImage(str(mask)), sitk.ReadImage(str(pet_of(case_folder)))
    assert theirs.GetPixelID() == sitk.sitkUInt8
    assert theirs.GetSize() == pet.GetSize()
    assert np.allclose(theirs.GetOrigin(), pet.GetOrigin())
    assert np.allclose(theirs.GetDirection(), pet.GetDirection())
    assert np.allclose(theirs.GetSpacing(), pet.GetSpacing())


def test_without_clicks_there_is_a_mask_too(case_folder, trained_run, tmp_path):
    (case_folder / "lesion-clicks.json").unlink()
    folders = ("--input", case_folder, "--output", tmp_path / "out")
    model = trained_run / "model.safetensors"
    words = ["challenge", *map(str, folders), "--model", str(model), "--device", "cpu"]
    assert main([*words, "--edition", "autopet2"]) == 0
    assert (tmp_path / "out/images/automated-petct-lesion-segmentation" / f"{NAME}.mha").is_file()


@pytest.mark.parametrize("name", ["{}.safetensors", "run/fold-{}/model.safetensors"])
@pytest.mark.parametrize("ensemble", ["mean", "vote"])
def test_all_models_below_a_folder_answer_as_one(
    ensemble, name, case_folder, trained_run, tmp_path
):
    settings = read_model_settings(trained_run / "model.safetensors")
    models = [tmp_path / "model" / name.format(number) for number in range(3)]
    for seed, path in enumerate(models):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        save_model(path, settings, settings.build_network())
        (path.parent / f"._{path.name}").write_bytes(b"what macOS leaves in archives")
    folders = ("--input", case_folder, "--output", tmp_path / "out", "--model", tmp_path / "model")
    words = ["challenge", *map(str, folders), "--device", "cpu", "--ensemble", ensemble]
    assert main(words) == 0

    model = load_ensemble(models, "cpu", combination=ensemble)
    session = InteractiveSession(model, read_volume(pet_of(case_folder)))
    for label, voxels in CLICKS.items():
        session.add([Click(tuple(voxel), label) for voxel in voxels])
    mask = read_label_map(tmp_path / "out/images/tumor-lesion-segmentation" / f"{NAME}.mha")
    expected = session.predict().label_map.voxels
    assert 0 < expected.mean() < 1
    assert np.array_equal(mask.voxels, expected)


@pytest.mark.parametrize("below", [".", "packed/run"])
def test_folds_of_which_one_is_missing_are_refused(
    below, case_folder, trained_run, tmp_path, capsys
):
    models = tmp_path / "model"
    shutil.copytree(trained_run, models / below / "fold-1")
    assert main(["challenge", "--input", str(case_folder), "--model", str(models)]) == 1
    assert "fold-0 did not come to an end" in " ".join(capsys.readouterr().err.split())


def test_what_else_a_run_leaves_is_no_member(case_folder, trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for name in ("resumed-from/model.safetensors", "cache/case-abc.safetensors"):
        (run / name).parent.mkdir()
        (run / name).write_bytes(b"not a model that is asked for")
    for below in (run, run.parent):
        folders = ("--input", case_folder, "--output", tmp_path / "out", "--model", below)
        assert main(["challenge", *map(str, folders), "--device", "cpu"]) == 0


def test_a_folder_without_images_is_refused(trained_run, tmp_path, capsys):
    model = trained_run / "model.safetensors"
    assert main(["challenge", "--input", str(tmp_path), "--model", str(model)]) == 1
    assert "expected a PET" in capsys.readouterr().err


def test_a_model_folder_without_a_model_is_refused(case_folder, tmp_path, capsys):
    assert main(["challenge", "--input", str(case_folder), "--model", str(tmp_path / "none")]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["challenge", "--input", str(case_folder), "--model", str(tmp_path / "empty")]) == 1
    assert "model.safetensors" in capsys.readouterr().err
