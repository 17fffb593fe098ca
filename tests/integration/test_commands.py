"""The commands, in process: files they leave, exit codes, messages."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import voxclick
from voxclick.cli.main import main
from voxclick.cli.options import CacheDtype, cache_settings
from voxclick.clicks import Click, write_clicks
from voxclick.sliding_window import CacheSettings
from voxclick.weights import PHANTOM_PET

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = [
    ["demo"],
    ["phantom"],
    ["train"],
    ["evaluate"],
    ["metrics"],
    ["segment"],
    ["rank"],
    ["bench", "click"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there(command, capsys):
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--seed" in shown
    assert "--device" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["unknown"], 2, "No such command"),
        (["phantom"], 2, "Missing argument"),
        (["evaluate", "nowhere", "--model", "m.safetensors", "--out", "x"], 1, "no such model"),
        (["train", "nowhere", "--out", "x"], 1, "nowhere: there is no such data set"),
        (["train", "x", "--out", "x", "--set", "training.epoch=3"], 2, "epoch: there is no such"),
        (["train", "x", "--out", "x", "--resume"], 2, "there is no run in x"),
        (["train", "x", "--out", "x", "--set", "seed"], 2, "expected key=value"),
        (["train", "x", "--out", "x", "--config", "no.yaml"], 2, "no.yaml: cannot be read"),
        (["segment", "a.nii", "--model", "m", "--out", "b.nii"], 1, "no such model file"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(
    arguments, code, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(voxclick.VoxclickError):
        main(["evaluate", "nowhere", "--debug", "--model", "m", "--out", "x"])


def windows_that_see(voxel, shape, window, reach):
    """How many windows a disk around a voxel meets: they begin every three quarters of their size,
    the last where it ends with the volume."""
    count = 1
    for x, size in zip(voxel, shape, strict=True):
        starts = {*range(0, size - window, window * 3 // 4), size - window}
        count *= sum(start <= x + reach and x - reach < start + window for start in starts)
    return count


def test_the_bench_of_a_click_leaves_its_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    shape = (40, 36, 44)
    small = ["--shape", *map(str, shape), "--window", "16", "--clicks", "3", "--seed", "4"]
    assert main(["bench", "click", *small, "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "click.json").read_text())
    assert figures["volume_shape"] == list(shape)
    assert figures["windows_total"] == 3 * 3 * 4
    voxels = [click["voxel"] for click in figures["clicks_each"]]
    assert len({tuple(voxel) for voxel in voxels}) == 3
    assert [click["label"] for click in figures["clicks_each"]] == ["tumor", "background", "tumor"]
    # the shipped model's disks have r² <= 18
    seen = [windows_that_see(voxel, shape, window=16, reach=4) for voxel in voxels]
    assert figures["windows_per_click_each"] == seen
    assert figures["windows_per_click"] == pytest.approx(sum(seen) / 3)
    assert figures["max_logit_difference"] < 1e-4
    assert figures["masks_differ_at"] == 0
    until_exact, exact, preview = (
        np.array(figures[f"seconds_{name}_each"]) for name in ("until_exact", "exact", "preview")
    )
    assert (exact > 0).all()
    assert (preview > 0).all()
    assert until_exact == pytest.approx(preview + exact)
    for name, seconds in [("until_exact", until_exact), ("exact", exact), ("preview", preview)]:
        assert figures[f"seconds_{name}"] == sorted(seconds)[1]
        assert sorted(seconds)[1] <= figures[f"seconds_{name}_p95"] <= max(seconds)
        ratio = figures["seconds_full"] / sorted(seconds)[1]
        assert figures[f"ratio_{name}"] == pytest.approx(ratio)
    assert {"ratio_first", "device", "cache_gib"} <= figures.keys()
    assert figures["peak_memory_bytes"] is None or figures["peak_memory_bytes"] < 2**30
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "click to exact answer, preview incl" in line)
    assert f"{figures['seconds_until_exact']:.3f}" in row
    assert "exact answer without the preview before it" in shown
    assert main(["bench", "click", "--network", "dynunet", "--window", "20"]) == 2
    assert main(["bench", "click", "--shape", "0", "10", "10"]) == 2
    assert main(["bench", "click", "--model", "m.safetensors", "--window", "64"]) == 2


def test_the_bench_of_one_window_has_no_preview(tmp_path, capsys):
    small = ["--shape", "16", "16", "16", "--window", "16", "--clicks", "2"]
    assert main(["bench", "click", *small, "--out", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "click.json").read_text())
    assert figures["windows_per_click_each"] == [1, 1]
    assert figures["seconds_preview"] is None
    assert figures["seconds_preview_each"] == []
    assert figures["seconds_until_exact_each"] == figures["seconds_exact_each"]
    assert "preview" not in capsys.readouterr().out


def test_segment_by_command_and_from_python_agree(trained_run, phantom_folder, tmp_path, capsys):
    image_path = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    model_path = trained_run / "model.safetensors"
    clicks = [Click((20, 12, 30), "tumor"), Click((3, 3, 3), "background")]
    write_clicks(clicks, tmp_path / "clicks.json", "points")
    common = ["segment", str(image_path), "--model", str(model_path)]
    from_file = [*common, "--clicks", str(tmp_path / "clicks.json")]
    typed = [*common, "--click", "3,3,3:background", "--click", "20,12,30:tumor"]
    assert main([*from_file, "--out", str(tmp_path / "file.nii.gz")]) == 0
    assert "clicks: 2" in capsys.readouterr().out
    assert main([*typed, "--out", str(tmp_path / "typed.mha")]) == 0

    image = voxclick.read_volume(image_path)
    session = voxclick.InteractiveSession(voxclick.load_model(model_path, "cpu"), image)
    session.click((20, 12, 30), "tumor")
    session.click((3, 3, 3), "background")
    mask = session.predict().label_map
    for name in ("file.nii.gz", "typed.mha"):
        written = voxclick.read_label_map(tmp_path / name)
        assert np.array_equal(written.voxels, mask.voxels)
        assert written.geometry.matches(image.geometry)


def test_a_mask_is_corrected_near_the_clicks_alone(trained_run, phantom_folder, tmp_path):
    image_path = next(iter(sorted((phantom_folder / "imagesTs").iterdir())))
    image = voxclick.read_volume(image_path)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[:4] = 1
    mask = voxclick.LabelMap(voxels, image.affine, labels=("background", "tumor"))
    voxclick.write_label_map(mask, tmp_path / "mask.nii.gz")
    model = str(trained_run / "model.safetensors")
    common = ["segment", str(image_path), "--model", model, "--out", str(tmp_path / "out.nii.gz")]
    common += ["--start-from", str(tmp_path / "mask.nii.gz")]
    assert main(common) == 0
    assert np.array_equal(voxclick.read_label_map(tmp_path / "out.nii.gz").voxels, voxels)
    assert main([*common, "--click", "2,12,10:background", "--radius-mm", "12"]) == 0
    corrected = voxclick.read_label_map(tmp_path / "out.nii.gz").voxels
    far = np.argwhere(corrected != voxels) - (2, 12, 10)
    assert (np.linalg.norm(far * image.spacing_mm, axis=1) <= 12).all()
    assert main([*common, "--radius-mm", "-1"]) == 2


WINDOW_GIB = 16**3 * 4 / 2**30
"""Of a window's result in float32."""


@pytest.mark.filterwarnings("always::UserWarning")
def test_the_cache_has_the_room_that_was_named(trained_run, phantom_folder, tmp_path, capsys):
    image = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    common = ["segment", str(image), "--model", str(trained_run / "model.safetensors")]
    common += ["--click", "20,12,30:tumor", "--click", "3,3,3:background"]
    four = ["--cache-gib", str(4 * WINDOW_GIB)]
    masks = {}
    for name, options, room in [
        ("usual", [], None),
        ("none", ["--cache-gib", "0"], 0),
        ("four", four, 4),
        ("half", [*four, "--cache-dtype", "float16"], 8),
        ("disk", [*four, "--cache-disk-gib", "1"], None),
    ]:
        out = tmp_path / f"{name}.nii.gz"
        assert main([*common, *options, "--out", str(out)]) == 0
        warned = capsys.readouterr().err
        assert f"room for {room} of" in warned if room is not None else "room" not in warned
        masks[name] = voxclick.read_label_map(out).voxels
    for name in ("none", "four", "disk"):
        assert np.array_equal(masks[name], masks["usual"])
    # rounded results may tip a voxel that is as good as undecided
    assert (masks["half"] == masks["usual"]).mean() > 0.9999


@pytest.mark.parametrize("budget", ["-1", "nan", "inf"])
def test_a_budget_is_a_finite_number(budget, tmp_path, capsys):
    arguments = ["segment", "a.nii", "--model", "m", "--out", str(tmp_path / "b.nii")]
    assert main([*arguments, "--cache-disk-gib", budget]) == 2
    assert "--cache-disk-gib" in capsys.readouterr().err


def test_all_options_of_the_cache_reach_it():
    settings = cache_settings(CacheDtype.float16, host_gib=0.5, gpu_gib=2, disk_gib=3)
    expected = CacheSettings(dtype="float16", host_gib=0.5, gpu_gib=2, disk_gib=3)
    assert settings == expected


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_both_backends_segment_and_evaluate(trained_run, phantom_folder, tmp_path):
    image_path = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    masks = {}
    for backend in ("torch", "openvino"):
        out = tmp_path / f"{backend}.nii.gz"
        arguments = ["segment", str(image_path), "--model", str(trained_run / "model.safetensors")]
        arguments += ["--click", "20,12,30:tumor", "--out", str(out), "--backend", backend]
        assert main([*arguments, "--set", "inference.precision=float32"]) == 0
        masks[backend] = voxclick.read_label_map(out).voxels
    assert (masks["torch"] == masks["openvino"]).mean() > 0.9999
    arguments = ["evaluate", str(phantom_folder), "--model", str(trained_run / "model.safetensors")]
    arguments += ["--steps", "1", "--backend", "openvino", "--out", str(tmp_path / "scores")]
    assert main(arguments) == 0


def test_clicks_in_millimetres_hit_the_same_voxel(trained_run, phantom_folder, tmp_path):
    image_path = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    x, y, z = voxclick.read_volume(image_path).geometry.to_mm((20, 12, 30))
    masks = []
    for number, (click, space) in enumerate(
        [("20,12,30", "voxel"), (f"{x},{y},{z}", "ras"), (f"{-x},{-y},{z}", "lps")]
    ):
        out = tmp_path / f"{number}.nii.gz"
        arguments = ["segment", str(image_path), "--model", str(trained_run / "model.safetensors")]
        arguments += ["--click", f"{click}:tumor", "--space", space, "--out", str(out)]
        assert main(arguments) == 0
        masks.append(voxclick.read_label_map(out).voxels)
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("click", "code", "message"),
    [
        ("1,2:tumor", 2, "expected X,Y,Z:label"),
        ("1,2,3", 2, "the label is missing"),
        ("1.5,2,3:tumor", 2, "whole numbers"),
        ("1,2,3:liver", 1, "knows background, tumor"),
        ("999,2,3:tumor", 1, "outside the image"),
    ],
)
def test_wrong_clicks_are_refused(
    click, code, message, trained_run, phantom_folder, tmp_path, capsys
):
    image = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    model = trained_run / "model.safetensors"
    arguments = ["segment", str(image), "--model", str(model), "--click", click]
    assert main([*arguments, "--out", str(tmp_path / "mask.nii.gz")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_path_is_shown_as_it_is(tmp_path, capsys):
    for name in ("m[final].safetensors", "m[/x].safetensors", "m:x:.safetensors"):
        arguments = ["segment", "a.nii", "--model", name, "--out", str(tmp_path / "b.nii")]
        assert main(arguments) == 1
        assert name in capsys.readouterr().err


def test_a_mask_never_replaces_the_scan(trained_run, phantom_folder, tmp_path, capsys):
    image = tmp_path / "image.nii.gz"
    content = (phantom_folder / "imagesTs/PHANTOM_003.nii.gz").read_bytes()
    image.write_bytes(content)
    (tmp_path / "link.nii.gz").symlink_to(image)
    model = str(trained_run / "model.safetensors")
    for out in ("image.nii.gz", "link.nii.gz"):
        arguments = ["segment", str(image), "--model", model, "--out", str(tmp_path / out)]
        assert main(arguments) == 2
        assert "is an image that goes in" in capsys.readouterr().err
    assert image.read_bytes() == content
    assert main(["segment", str(image), "--model", "none", "--out", "mask.tif"]) == 2
    assert "unknown image format" in capsys.readouterr().err


def test_a_sheared_mask_needs_a_format_that_can_store_it(
    trained_run, phantom_folder, tmp_path, capsys, monkeypatch
):
    source = nibabel.load(phantom_folder / "imagesTs/PHANTOM_003.nii.gz")
    shear = np.eye(4)
    shear[1, 2] = 0.3
    image = nibabel.Nifti1Image(np.asarray(source.dataobj), None)
    image.set_sform(source.affine @ shear, code="scanner")
    nibabel.save(image, tmp_path / "image.nii.gz")
    arguments = ["segment", str(tmp_path / "image.nii.gz")]
    arguments += ["--model", str(trained_run / "model.safetensors"), "--out"]
    assert main([*arguments, str(tmp_path / "mask.nii.gz")]) == 0
    # and it is said before the network runs
    monkeypatch.setattr(voxclick.InteractiveSession, "predict", None)
    assert main([*arguments, str(tmp_path / "mask.mha")]) == 2
    assert "only NIfTI can store" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting", ["window=[15,15,15]", "centre_crop=[8,8,8]", "window=[0,16,16]", "overlap=1.5"]
)
def test_settings_that_do_not_fit_the_network_are_refused(
    setting, trained_run, phantom_folder, tmp_path, capsys
):
    arguments = ["evaluate", str(phantom_folder), "--model", str(trained_run / "model.safetensors")]
    assert main([*arguments, "--out", str(tmp_path), "--set", f"inference.{setting}"]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err


def test_faults_of_the_system_are_one_sentence(phantom_folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["phantom", str(tmp_path / "file" / "below"), "--cases", "1"]) == 1
    shown = capsys.readouterr().err
    assert "file/below" in shown
    assert "fault of voxclick" not in shown
    assert main(["phantom", str(tmp_path / "p"), "--seed", "-1"]) == 2


def test_demo_leaves_a_table_a_picture_and_the_mask(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path = tmp_path / "voxclick-demo"
    assert main(["demo", "--steps", "1"]) == 0
    assert "9 lesions" in capsys.readouterr().out
    image = nibabel.load(tmp_path / "image.nii.gz")
    for name in ("mask.nii.gz", "truth.nii.gz"):
        mask = nibabel.load(tmp_path / name)
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) == {0, 1}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.nii.gz"
    clicks = ["--clicks", str(tmp_path / "clicks.json"), "--model", str(PHANTOM_PET)]
    assert main(["segment", str(tmp_path / "image.nii.gz"), *clicks, "--out", str(again)]) == 0
    masks = [nibabel.load(path).get_fdata() for path in (again, tmp_path / "mask.nii.gz")]
    assert np.array_equal(*masks)

    # README: two clicks outline one of nine lesions, a third takes out a place that is none
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(x for x in readme.splitlines() if x.startswith("voxclick segment voxclick-demo/"))
    words = line.replace(f"src/voxclick/weights/{PHANTOM_PET.name}", str(PHANTOM_PET)).split()
    assert main(words[1:]) == 0
    found = nibabel.load("mask.nii.gz").get_fdata() > 0
    truth = nibabel.load(tmp_path / "truth.nii.gz").get_fdata() > 0
    lesions, _ = ndimage.label(truth, np.ones((3, 3, 3)))
    answers, _ = ndimage.label(found, np.ones((3, 3, 3)))
    lesion, answer = (parts == parts[74, 32, 159] for parts in (lesions, answers))
    assert 2 * (lesion & answer).sum() / (lesion.sum() + answer.sum()) > 0.85
    assert not found[53, 35, 70]
