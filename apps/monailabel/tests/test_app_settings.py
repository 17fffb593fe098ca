"""What `--conf` says to the MONAI Label app, and which models it serves by it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from app_server import write_model
from lib.models import ServedModel, asked_model, find_models, other_labels
from lib.settings import AppSettings
from voxclick.errors import ModelFileError, UsageError
from voxclick.sliding_window import CacheSettings, SlidingWindows
from voxclick.weights import PHANTOM_PET

# Settings


def test_everything_has_a_default():
    settings = AppSettings.of_conf({})
    assert settings == AppSettings()
    assert settings.cache == CacheSettings()
    assert settings.inference_overrides == []


def test_all_is_given_as_text():
    conf = {
        "models": "a, b=/somewhere/b.safetensors",
        "device": "cuda:1",
        "backend": "openvino",
        "ensemble": "vote",
        "window": "96, 96,48",
        "overlap": "0.5",
        "skip_air": "true",
        "cache_dtype": "float16",
        "cache_gib": "0.5",
        "cache_gpu_gib": "0",
        "cache_disk_gib": "8",
        "sessions_gib": "2.5",
        "clicks": "/logs",
        "train_config": "mine.yaml",
        "uncertainty_seconds": "0",
        "auto_scoring": "yes",
        "server_mode": "true",  # MONAI Label's own
    }
    settings = AppSettings.of_conf(conf)
    assert settings.models == ("a", "b=/somewhere/b.safetensors")
    assert settings.window == (96, 96, 48)
    assert settings.skip_air is settings.auto_scoring is True
    assert settings.cache == CacheSettings(dtype="float16", host_gib=0.5, gpu_gib=0, disk_gib=8)
    assert settings.inference_overrides == [
        "inference.window=[96, 96, 48]",
        "inference.overlap=0.5",
    ]
    assert (settings.clicks, settings.train_config) == (Path("/logs"), Path("mine.yaml"))
    assert (settings.sessions_gib, settings.uncertainty_seconds) == (2.5, 0)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"modles": "a", "devise": "cpu"}, "modles, devise: there is no such setting; expected"),
        ({"window": "96,96"}, "window: expected three numbers, like 96,96,96"),
        ({"window": "96,96,big"}, "window.2: Input should be a valid integer.*got big"),
        ({"overlap": "1"}, r"overlap: Input should be less than 1 \(got 1\)"),
        ({"backend": "tensorrt"}, "backend: Input should be 'torch' or 'openvino'"),
        ({"sessions_gib": "inf"}, "sessions_gib: .*finite"),
        ({"skip_air": "perhaps"}, "skip_air"),
    ],
)
def test_what_is_wrong_is_named(conf, message):
    with pytest.raises(UsageError, match=message):
        AppSettings.of_conf(conf)


# Models


def found(folder: Path, *words: str) -> dict[str, Path]:
    models = find_models(AppSettings(models=words), folder)
    assert all(name == served.name for name, served in models.items())
    return {name: served.source for name, served in models.items()}


def test_without_names_all_of_the_folder_are_served(tmp_path):
    assert found(tmp_path / "none") == {"phantom-pet": PHANTOM_PET}
    write_model(tmp_path / "sw-fastedit.safetensors")
    write_model(tmp_path / "mine/model.safetensors")
    write_model(tmp_path / "folds/fold-0/model.safetensors")
    write_model(tmp_path / "trained/mine/model.safetensors")
    (tmp_path / "records").mkdir()
    assert found(tmp_path) == {
        "folds": tmp_path / "folds",
        "mine": tmp_path / "mine",
        "sw-fastedit": tmp_path / "sw-fastedit.safetensors",
    }


def test_the_model_that_comes_along_has_a_name(tmp_path):
    write_model(tmp_path / "mine.safetensors")
    expected = {"mine": tmp_path / "mine.safetensors", "phantom-pet": PHANTOM_PET}
    assert found(tmp_path, "mine", "phantom-pet") == expected


def test_models_by_name_and_by_path(tmp_path):
    folder = tmp_path / "model"
    short = write_model(folder / "sw-fastedit.safetensors")
    write_model(folder / "mine/model.safetensors")
    elsewhere = write_model(tmp_path / "runs/best/model.safetensors")
    words = ["mine", "sw-fastedit", str(elsewhere), str(elsewhere.parent.parent), f"x={elsewhere}"]
    write_model(elsewhere.parent.parent / "model.safetensors")
    assert found(folder, *words) == {
        "mine": folder / "mine",
        "sw-fastedit": short,
        "best": elsewhere,
        "runs": elsewhere.parent.parent,
        "x": elsewhere,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "no such file or folder, and no nothing.safetensors in"),
        (["a", "a"], "two models would have one name"),
        (["a/b={a}"], "'a/b' is no name"),
        (["={a}"], "'' is no name"),
        (["a={a}", "a_auto={a}"], "a_auto is what the model a is called where it segments alone"),
    ],
)
def test_models_that_cannot_be_served_together(words, message, tmp_path):
    model = write_model(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=message):
        find_models(AppSettings(models=tuple(w.format(a=model) for w in words)), tmp_path)


def served(path: Path, **settings: object) -> ServedModel:
    trained = path.parent / "trained/model.safetensors"
    return ServedModel("a", path, trained, AppSettings.model_validate(settings))


def touch(path: Path) -> None:
    """As if it was written a second later."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


def test_a_model_is_loaded_once_and_again_when_it_changes(tmp_path):
    model = served(write_model(tmp_path / "a.safetensors"), device="cpu")
    first = model.load()
    assert model.load() is first
    touch(model.source)
    second = model.load()
    assert second is not first
    assert second.version != first.version


def test_what_was_trained_further_takes_the_models_place(tmp_path):
    model = served(write_model(tmp_path / "a.safetensors"), device="cpu")
    before = model.load()
    model.trained.parent.mkdir()
    model.take(write_model(tmp_path / "run/model.safetensors", seed=1))
    assert model.is_trained_further
    assert list(model.files) == [model.trained]
    after = model.load()
    assert after.model.fingerprint != before.model.fingerprint
    model.trained.unlink()
    assert not model.is_trained_further
    assert model.load().model.fingerprint == before.model.fingerprint


def test_another_model_under_the_name_is_not_replaced_by_what_the_old_one_became(tmp_path, caplog):
    model = served(write_model(tmp_path / "a.safetensors"), device="cpu")
    model.trained.parent.mkdir()
    model.take(write_model(tmp_path / "run/model.safetensors", seed=1))
    assert model.is_trained_further
    write_model(model.source, seed=2)
    touch(model.source)
    assert list(model.files) == [model.source]
    assert "it was trained from another file" in caplog.text
    # what somebody has put there is of no known origin, but must know the same labels
    model.trained.with_name("source.blake2b").unlink()
    assert list(model.files) == [model.trained]
    write_model(model.source, "liver", seed=2)
    touch(model.source)
    assert list(model.files) == [model.source]
    assert "it has other labels" in caplog.text


def test_windows_as_the_app_wants_them(tmp_path):
    path = write_model(tmp_path / "a.safetensors")
    loaded = served(path, device="cpu", window="32,16,8", overlap=0.5).load()
    assert loaded.inference == SlidingWindows(window=(32, 16, 8), overlap=0.5)
    with pytest.raises(UsageError, match="multiples of"):
        served(path, device="cpu", window="30,16,16").load()


def test_folds_answer_as_one(tmp_path):
    for fold in range(3):
        write_model(tmp_path / f"run/fold-{fold}/model.safetensors")
    model = served(tmp_path / "run", device="cpu", ensemble="vote")
    assert len(model.files) == 3
    assert model.settings().labels == ("background", "tumor")
    fingerprints = {model.load().model.fingerprint}
    fingerprints.add(served(tmp_path / "run", device="cpu").load().model.fingerprint)
    assert len(fingerprints) == 2


def test_a_model_that_is_mended_works_again(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not a model")
    model = served(path, device="cpu")
    for broken in (model.settings, model.load):
        with pytest.raises(ModelFileError, match="not a safetensors file"):
            broken()
    shutil.copy(write_model(tmp_path / "b.safetensors"), path)
    touch(path)
    assert model.load().model.settings == model.settings()
    path.unlink()
    with pytest.raises(ModelFileError, match="there is no such model file"):
        model.load()


def test_a_request_may_name_its_model(tmp_path):
    models = {
        "lesions": served(write_model(tmp_path / "a.safetensors")),
        "organs": served(write_model(tmp_path / "b.safetensors", "liver", "tumor", "spleen")),
    }
    assert asked_model({}, models) is asked_model({"model": "lesions"}, models)
    assert asked_model({"model": "organs"}, models) is models["organs"]
    with pytest.raises(UsageError, match="no model 'bones'; there are lesions, organs"):
        asked_model({"model": "bones"}, models)
    assert other_labels(models["lesions"], models) == ("liver", "spleen")
    assert other_labels(models["organs"], models) == ()
    models["lesions"].source.write_bytes(b"damaged")
    touch(models["lesions"].source)
    assert other_labels(models["organs"], models) == ()
    assert asked_model({}, models) is models["organs"]  # the first that can be read
    models["organs"].source.unlink()
    assert asked_model({}, models) is models["lesions"]
