"""`voxclick rank`, in process, with the small model."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import nibabel
import numpy as np
import pandas as pd
import pytest

import voxclick
from voxclick.cli.main import main
from voxclick.model_files import ModelSettings, save_model
from voxclick.networks import NetworkSettings, OpenVinoNetwork
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows

COLUMNS = ["case", "image", "uncertainty", "foreground_ml", "places", "voxel"]


def rank(run, out, *arguments):
    model = str(run / "model.safetensors")
    return main(["rank", *map(str, arguments), "--model", model, "--out", str(out)])


@pytest.fixture
def folder(phantom_folder, tmp_path):
    """A folder of four images, and nothing else that is one."""
    images = tmp_path / "scans"
    images.mkdir()
    for part in ("imagesTr", "imagesTs"):
        for path in (phantom_folder / part).iterdir():
            shutil.copy(path, images)
    (images / "notes.txt").touch()
    return images


def test_a_folder_of_images_is_ranked(folder, trained_run, tmp_path, capsys):
    out = tmp_path / "new" / "ranking.csv"
    assert rank(trained_run, out, folder) == 0
    assert f"4 cases -> {out}" in capsys.readouterr().out.replace("\n", "")
    table = pd.read_csv(out)
    assert list(table.columns) == COLUMNS
    assert sorted(table.case) == [f"PHANTOM_{number:03d}" for number in range(4)]
    assert table.uncertainty.is_monotonic_decreasing
    assert [path.name for path in out.parent.iterdir()] == ["ranking.csv"]

    # the same figures from Python, and a voxel that `segment` takes as it stands
    model = voxclick.load_model(trained_run / "model.safetensors", "cpu")
    for row in table.itertuples():
        session = voxclick.InteractiveSession(model, voxclick.read_volume(row.image))
        assert session.uncertainty() == pytest.approx(row.uncertainty, abs=1e-6)
        proposals = session.proposals(10**6)
        assert row.places >= len(proposals) > 0
        assert row.voxel == ",".join(map(str, proposals[0].index))
    arguments = ["segment", table.image[0], "--model", str(trained_run / "model.safetensors")]
    arguments += ["--click", f"{table.voxel[0]}:tumor", "--out", str(tmp_path / "mask.nii.gz")]
    assert main(arguments) == 0


def test_files_by_name_and_a_limit(folder, trained_run, tmp_path):
    files = [folder / "PHANTOM_002.nii.gz", folder / "PHANTOM_000.nii.gz"]
    assert rank(trained_run, tmp_path / "two.csv", *files) == 0
    assert sorted(pd.read_csv(tmp_path / "two.csv").case) == ["PHANTOM_000", "PHANTOM_002"]
    assert rank(trained_run, tmp_path / "one.csv", folder, "--limit", "1") == 0
    assert pd.read_csv(tmp_path / "one.csv").case.tolist() == ["PHANTOM_000"]


def test_only_what_has_no_label_is_ranked(phantom_folder, trained_run, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantom_folder, data)
    out = tmp_path / "ranking.csv"
    assert rank(trained_run, out, data) == 1
    assert "none of its 4 cases is without a label" in capsys.readouterr().err
    assert not out.exists()
    # an image among the training images may lack its label, and so may one of the test images
    (data / "labelsTr/PHANTOM_001.nii.gz").unlink()
    (data / "labelsTs/PHANTOM_003.nii.gz").unlink()
    assert rank(trained_run, out, data) == 0
    assert sorted(pd.read_csv(out).case) == ["PHANTOM_001", "PHANTOM_003"]
    assert rank(trained_run, out, data, "--all") == 0
    assert len(pd.read_csv(out)) == 4


def test_a_list_file_needs_images_alone(folder, trained_run, tmp_path, capsys):
    listed = tmp_path / "cases.csv"
    listed.write_text("image\nscans/PHANTOM_000.nii.gz\nscans/PHANTOM_003.nii.gz\n")
    assert rank(trained_run, tmp_path / "ranking.csv", listed) == 0
    assert len(pd.read_csv(tmp_path / "ranking.csv")) == 2
    assert rank(trained_run, listed, listed) == 2
    assert "is the list that goes in" in capsys.readouterr().err
    assert listed.read_text().startswith("image\n")


def test_another_way_through_the_network(folder, trained_run, tmp_path):
    for name, setting in [("a", "inference.overlap=0.25"), ("b", "inference.overlap=0.5")]:
        arguments = [folder, "--limit", "1", "--set", setting]
        assert rank(trained_run, tmp_path / f"{name}.csv", *arguments) == 0
    one, two = (pd.read_csv(tmp_path / f"{name}.csv").uncertainty[0] for name in "ab")
    assert one != two


@pytest.mark.filterwarnings("always::UserWarning")
def test_room_for_results_changes_nothing_but_the_time(folder, trained_run, tmp_path, capsys):
    assert rank(trained_run, tmp_path / "a.csv", folder, "--limit", "1") == 0
    assert "room" not in capsys.readouterr().err
    assert rank(trained_run, tmp_path / "b.csv", folder, "--limit", "1", "--cache-gib", "0") == 0
    assert "room for 0 of" in capsys.readouterr().err
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_another_backend_ranks_alike(folder, trained_run, tmp_path, monkeypatch):
    networks = []

    def load_and_remember(*arguments):
        model = voxclick.load_ensemble(*arguments)
        networks.append(model.network)
        return model

    monkeypatch.setattr("voxclick.cli.options.load_ensemble", load_and_remember)
    for backend in ("torch", "openvino"):
        arguments = [folder, "--limit", "1", "--backend", backend]
        assert rank(trained_run, tmp_path / f"{backend}.csv", *arguments) == 0
    assert [isinstance(network, OpenVinoNetwork) for network in networks] == [False, True]
    one, two = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("torch", "openvino"))
    assert one.case[0] == two.case[0]
    assert one.uncertainty[0] == pytest.approx(two.uncertainty[0], rel=1e-3)


def test_what_fails_is_told_at_the_end_and_the_others_are_ranked(
    folder, trained_run, tmp_path, capsys
):
    (folder / "A_damaged.nii.gz").write_bytes(b"no image")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9)), np.eye(4)), folder / "B_flat.nii.gz")
    out = tmp_path / "ranking.csv"
    assert rank(trained_run, out, folder) == 1
    message = capsys.readouterr().err
    assert "2 of 6 cases were not ranked" in message
    assert "A_damaged.nii.gz" in message
    assert "B_flat.nii.gz" in message
    assert len(pd.read_csv(out)) == 4


@pytest.mark.parametrize(
    ("data", "out", "code", "message"),
    [
        ("nowhere", "x.csv", 1, "nowhere: there is no such file or folder"),
        ("scans/notes.txt", "x.csv", 1, "notes.txt: neither a data set nor an image"),
        ("empty", "x.csv", 1, "empty: holds no image"),
        ("scans", "x.txt", 2, "expected the name of a .csv file"),
        ("scans", "scans/PHANTOM_000.nii.gz", 2, "expected the name of a .csv file"),
    ],
)
def test_wrong_use(data, out, code, message, folder, trained_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert rank(trained_run, tmp_path / out, tmp_path / data) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.csv").exists()


@pytest.fixture
def two_channel_run(tmp_path):
    scaling = RangeScaling(low=0, high=10)
    settings = ModelSettings(
        labels=("background", "tumor"),
        channels=("CT", "PET"),
        preprocessing=PreprocessingSettings(intensity=(scaling, scaling)),
        guidance=None,
        network=NetworkSettings(
            name="dynunet-light", options={"filters": [4, 8, 8], "strides": [1, 2, 2]}
        ),
        inference=SlidingWindows(window=(16, 16, 16), precision="float32"),
    )
    save_model(tmp_path / "model.safetensors", settings, settings.build_network())
    return tmp_path


def test_channels_are_told_by_their_numbers(folder, two_channel_run, tmp_path, capsys):
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for case, source in [("a", "PHANTOM_000"), ("b_0007", "PHANTOM_001")]:
        for channel in range(2):
            shutil.copy(folder / f"{source}.nii.gz", pairs / f"{case}_{channel:04d}.nii.gz")
    out = tmp_path / "ranking.csv"
    assert rank(two_channel_run, out, pairs) == 0
    table = pd.read_csv(out).sort_values("case")
    assert table.case.tolist() == ["a", "b_0007"]
    assert [path.rpartition("/")[2] for path in table.image] == [
        "a_0000.nii.gz",
        "b_0007_0000.nii.gz",
    ]

    (pairs / "a_0001.nii.gz").unlink()
    assert rank(two_channel_run, out, pairs) == 1
    assert "a: this model takes 2 image(s) per case (CT, PET), got 1" in capsys.readouterr().err
    assert pd.read_csv(out).case.tolist() == ["b_0007"]
    shutil.copy(pairs / "a_0000.nii.gz", pairs / "a_0002.nii.gz")
    assert rank(two_channel_run, out, pairs) == 1
    assert "pairs/a lacks channel(s) [1]" in capsys.readouterr().err


def test_channels_of_other_names_are_refused(phantom_folder, two_channel_run, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "imagesTs").mkdir(parents=True)
    for channel in range(2):
        shutil.copy(
            phantom_folder / "imagesTs/PHANTOM_003.nii.gz",
            data / f"imagesTs/x_{channel:04d}.nii.gz",
        )
    (data / "dataset.json").write_text(json.dumps({"channel_names": {"0": "PET", "1": "MR"}}))
    assert rank(two_channel_run, tmp_path / "ranking.csv", data) == 1
    assert "its channels are PET, MR, but the model expects CT, PET" in capsys.readouterr().err
