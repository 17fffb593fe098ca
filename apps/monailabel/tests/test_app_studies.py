"""What happens to saved labels: training, scoring, batches, and what to annotate next."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import voxclick
from app_server import GRIDS, write_model

requests = pytest.importorskip("requests", reason="comes with MONAI Label")

LIMIT_S = 300


def wait_for(read: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What is read, when it is as wanted."""
    end = time.monotonic() + LIMIT_S
    while not wanted(found := read()):
        assert time.monotonic() < end, found
        time.sleep(0.3)
    return found


def ended(task: dict[str, Any]) -> bool:
    return task["status"] in ("DONE", "ERROR", "STOPPED")


def save_label(client, server, image: str, *names: str, tag: str = "", values=None) -> dict:
    """A block for each name, as 3D Slicer saves segments."""
    geometry = nibabel.load(server.studies / f"{image}.nii.gz")
    voxels = np.zeros(geometry.shape, np.uint8)
    for number, _ in enumerate(names, start=1):
        block = slice(4 * number, 4 * number + 3)
        voxels[block, block, block] = number if values is None else values[number - 1]
    path = server.folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, geometry.affine), path)
    info = [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]
    return client.save_label(image, str(path), tag=tag, params={"label_info": info})


def run(server, url: str, params: dict[str, Any]) -> dict[str, Any]:
    """Start a task of MONAI Label and wait for its end."""
    started = requests.post(f"{server.url}{url}", json=params, timeout=60)
    assert started.status_code == 200, started.text
    status = f"{server.url}/{url.split('/')[1]}/"
    status = f"{server.url}/batch/infer/" if url.startswith("/batch") else status
    return wait_for(lambda: requests.get(status, timeout=60).json(), ended)


# Saved labels


def test_a_label_that_nobody_can_learn_is_kept_with_a_warning(server):
    client = server.client("saver")
    assert save_label(client, server, "ras", "tumor") == {"image": "ras", "label": "ras"}
    assert save_label(client, server, "ras", "liver", "tumor") == {"image": "ras", "label": "ras"}
    said = save_label(client, server, "ras", "Tumour")
    assert "saved, but no model can learn it" in said["warning"]
    assert "'Tumour'" in said["warning"]
    assert (server.studies / "labels/final/ras.nii.gz").is_file()


def test_an_image_has_one_label_whatever_its_format(server):
    client = server.client("formats")
    save_label(client, server, "flipped", "tumor")
    final = server.studies / "labels/final"
    first = (final / "flipped.nii.gz").read_bytes()
    mask, _ = client.infer("tiny", "flipped", {"result_extension": ".nrrd"})
    client.save_label("flipped", mask)
    assert [path.name for path in sorted(final.glob("flipped.*"))] == [
        "flipped.nii.gz.replaced",
        "flipped.nrrd",
    ]
    assert (final / "flipped.nii.gz.replaced").read_bytes() == first
    save_label(client, server, "flipped", "tumor")
    assert not (final / "flipped.nrrd").exists()
    assert (final / "flipped.nii.gz").read_bytes() == first


# Training


def test_training_ends_and_its_model_is_used(server):
    client = server.client("trainer")
    for image in GRIDS:
        save_label(client, server, image, "tumor")
    model = client.info()["models"]["learns"]
    before = client.infer("learns", "PHANTOM_001", {})[1]
    assert client.infer("learns", "PHANTOM_001", {})[1]["windows"] == 0
    options = client.info()["trainers"]["learns"]["config"]
    chosen = options | {"max_epochs": 3, "val_split": 0.25, "learning_rate": 0.01}
    task = run(server, "/train/learns", chosen)
    assert task["status"] == "DONE", "\n".join(task["details"])
    assert any("epoch 3/3: loss" in line for line in task["details"])
    info = client.info()
    assert next(iter(info["train_stats"])) == "learns"  # the latest, which Slicer shows
    stats = info["train_stats"]["learns"]
    assert (stats["epoch"], stats["total_epochs"], stats["labels"]) == (3, 3, 4)
    assert stats["total_time"]
    assert 0 <= stats["best_metric"] <= 1
    assert len(stats["val"]["dice"]) == 6
    assert info["models"]["learns"] == model | {
        "description": "voxclick: learns by clicks, trained further on saved labels"
    }
    # the server has loaded it, and opened the session anew
    path, after = client.infer("learns", "PHANTOM_001", {"result_extension": ".nii.gz"})
    assert after["windows"] == before["windows"]
    trained = server.app / "model/trained/learns/model.safetensors"
    session = voxclick.InteractiveSession(
        voxclick.load_model(trained, "cpu"),
        voxclick.read_volume(server.studies / "PHANTOM_001.nii.gz"),
    )
    expected = session.predict().label_map.voxels
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj), expected)
    source = voxclick.load_model(server.folder / "models/learns.safetensors", "cpu")
    assert session.model.fingerprint != source.fingerprint
    # it can be taken back: the source is as it was
    assert requests.delete(f"{server.url}/model/learns", timeout=60).status_code == 200
    assert client.info()["models"]["learns"] == model
    assert requests.delete(f"{server.url}/model/learns", timeout=60).status_code == 404


def test_training_can_be_stopped_and_leaves_the_model_as_it_was(server):
    client = server.client("stopper")
    save_label(client, server, "ras", "tumor")
    client.train_start("tiny", {"max_epochs": 100000, "val_split": 0})
    stats = wait_for(
        lambda: client.info()["train_stats"].get("tiny", {}),
        lambda stats: stats.get("epoch", 0) > 1,
    )
    assert (stats["total_epochs"], stats["best_metric"], stats["total_time"]) == (100000, 0, "")
    assert client.train_status(check_if_running=True)
    client.infer("tiny", "ras", {"tumor": [[3, 4, 5]]})  # the server goes on meanwhile
    client.train_stop()
    assert client.train_status()["status"] == "STOPPED"
    assert not client.train_status(check_if_running=True)
    assert not (server.app / "model/trained/tiny/model.safetensors").exists()


def test_training_that_betters_nothing_leaves_the_model_as_it_was(server):
    client = server.client("standing")
    for image in ("ras", "lps", "flipped", "oblique"):
        save_label(client, server, image, "tumor")
    client.infer("learns", "ras", {})
    options = {"max_epochs": 1, "val_split": 0.25, "learning_rate": 1e-30, "max_epoch": 7}
    task = run(server, "/train/learns", options)
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    assert "no epoch was better: learns stays as it was" in said
    assert "max_epoch: there is no such option here, so it is passed over" in said
    assert not (server.app / "model/trained/learns/model.safetensors").exists()
    assert client.infer("learns", "ras", {})[1]["windows"] == 0


def test_a_wrong_option_of_a_training_is_called_as_it_was_given(server):
    task = run(server, "/train/learns", {"max_epochs": "two"})
    assert task["status"] == "ERROR"
    assert "max_epochs: Input should be a valid integer" in "\n".join(task["details"])


def test_training_without_a_fitting_label_says_so(server):
    client = server.client("misfit")
    save_label(client, server, "lps", "Tumour")
    task = run(server, "/train/organs", {"max_epochs": 1})
    save_label(client, server, "lps", "tumor")
    assert task["status"] == "ERROR"
    said = "\n".join(task["details"])
    assert "saved label(s) cannot be learnt" in said
    assert "lps.nii.gz: holds 'Tumour', but the labels are background, liver, tumor" in said


def test_what_was_learnt_is_never_validated_on():
    pytest.importorskip("monailabel")
    from lib.training import extend_split

    learnt, held_out, split = set(), set(), {"train": [], "val": []}
    for count in (1, 2, 5, 6, 7, 8, 10, 40):
        names = [f"case {number:02d}" for number in range(count)]
        split = extend_split(split, names, 0.2, seed=0)
        assert sorted((*split["train"], *split["val"])) == names
        assert not set(split["val"]) & learnt
        assert held_out <= set(split["val"])
        learnt |= set(split["train"])
        held_out |= set(split["val"])
    assert len(split["val"]) == 8
    # none at all, then all but one
    assert extend_split(split, ["a", "b", "c"], 0, seed=0)["val"] == []
    assert len(extend_split({"train": [], "val": []}, ["a", "b"], 0.9, seed=0)["train"]) == 1
    # a label that is gone, and fewer to look at
    fewer = extend_split(split, sorted(split["val"]), 0.5, seed=0)
    assert len(fewer["val"]) == 4


def test_old_runs_are_deleted(server):
    folder = server.app / "model/trained/learns"
    for number in range(8):
        (folder / f"run-2000010{number}-000000").mkdir(parents=True)
    client = server.client("tidy")
    save_label(client, server, "ras", "tumor")
    task = run(server, "/train/learns", {"max_epochs": 1, "val_split": 0})
    assert task["status"] == "DONE", "\n".join(task["details"])
    runs = sorted(path.name for path in folder.glob("run-*"))
    assert len(runs) == 5
    assert "run-20000107-000000" in runs
    kept = {path.name for path in (folder / runs[-1]).iterdir()}
    assert {"config.yaml", "model.safetensors", "cases.csv", "splits_final.json"} <= kept
    assert not kept & {"last.ckpt", "labels"}
    requests.delete(f"{server.url}/model/learns", timeout=60)


# Scoring and batches


def test_first_predictions_are_scored_against_final_labels(server):
    client = server.client("scorer")
    save_label(client, server, "ras", "tumor")
    save_label(client, server, "ras", "tumor", tag="original")
    save_label(client, server, "lps", "tumor")
    save_label(client, server, "lps", tag="original")
    task = run(server, "/scoring/masks", {"model": "tiny"})
    assert task["status"] == "DONE", "\n".join(task["details"])
    said = "\n".join(task["details"])
    assert "ras: Dice 1.0000" in said
    assert "lps: Dice 0.0000" in said
    result = json.loads(said.partition("Result: ")[2])
    assert result["masks"] == 2
    assert result["dice"]["mean"] == 0.5
    table = server.studies / "labels/scores/original-against-final.csv"
    assert table.read_text().splitlines()[1].startswith("lps,0.0")
    assert result["table"] == str(table)


def test_a_batch_leaves_first_predictions(server):
    client = server.client("batch")
    params = {"images": ["flipped", "oblique"]}
    task = run(server, "/batch/infer/tiny_auto", params)
    assert task["status"] == "DONE", "\n".join(task["details"])
    for image in params["images"]:
        path, _ = client.infer("tiny_auto", image, {"result_extension": ".nii.gz"})
        expected = np.asarray(nibabel.load(path).dataobj)
        found = nibabel.load(server.studies / f"labels/original/{image}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), expected)
        # 3D Slicer reads the names there, which another process has written
        label = client.datastore()["objects"][image]["labels"]["original"]
        assert list(label["info"]["params"]["label_names"]) == ["background", "tumor"]


def test_a_batch_goes_on_after_an_image_that_cannot_be_read(server):
    client = server.client("bad batch")
    for name in ("aaa", "zzz"):
        client.upload_image(str(server.studies / "ras.nii.gz"), name)
    (server.studies / "aaa.nii.gz").write_bytes(b"no image")
    # a model of two channels, by its name for clicks: none are logged, as nobody clicks
    images = ["aaa", "pair_0000", "pair_0001", "zzz"]
    task = run(server, "/batch/infer/two", {"images": images, "client_id": "bad batch"})
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    assert (server.studies / "labels/original/pair_0000.nii.gz").is_file()
    result = json.loads(said.partition("(__main__:61) - Result: ")[2].splitlines()[0])
    assert "error" in result["aaa"]
    assert "error" in result["zzz"]
    assert "label" in result["pair_0000"]
    assert "pair_0001" not in result
    assert not list((server.studies / "labels/clicks").glob("*bad batch*"))
    for name in ("aaa", "zzz"):
        requests.delete(f"{server.url}/datastore/image?id={name}", timeout=60)


# Several processes on one folder


@pytest.fixture
def label(tmp_path_factory):
    path = tmp_path_factory.mktemp("label") / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4)), path)
    return path


def recorded_labels(studies, folder: Path) -> dict[str, list[str]]:
    """Whose labels the list on disk has, as this process and as a later one reads it."""
    studies.reload()
    found = studies.json()["objects"]
    assert found == type(studies)(str(folder)).json()["objects"]
    return {
        name: [label["info"]["saved_by"] for label in image["labels"].values()]
        for name, image in found.items()
    }


def test_no_process_forgets_what_another_has_saved(studies, tmp_path, label):
    server, batch = studies, type(studies)(str(tmp_path))
    server.save_label("a", str(label), "final", {"saved_by": "server"})
    batch.save_label("b", str(label), "final", {"saved_by": "batch"})
    batch.save_label("a", str(label), "original", {"saved_by": "batch"})
    server.update_label_info("b", "final", {"seen": True})
    expected = {"a": ["server", "batch"], "b": ["batch"], "c": []}
    assert recorded_labels(server, tmp_path).items() >= expected.items()
    assert recorded_labels(batch, tmp_path).items() >= expected.items()
    batch.remove_label("a", "original")
    server.add_image("d", server.get_image_uri("c"), {})
    assert recorded_labels(batch, tmp_path).items() >= {"a": ["server"], "d": []}.items()


def test_labels_saved_at_the_same_time_are_all_recorded(studies, tmp_path, label):
    def save(number: int) -> None:
        process = type(studies)(str(tmp_path))
        for image in ("a", "b", "c"):
            process.save_label(image, str(label), f"tag{number}", {"saved_by": number})
            process.refresh()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(save, range(6)))
    recorded = recorded_labels(studies, tmp_path)
    assert [sorted(recorded[image]) for image in ("a", "b", "c")] == [list(range(6))] * 3


def test_a_label_that_cannot_be_copied_leaves_the_older_one(studies, tmp_path, label):
    studies.save_label("a", str(label), "final", {"saved_by": "anna"})
    path = Path(studies.get_label_uri("a", "final"))
    before = path.read_bytes()
    with pytest.raises(OSError, match="missing"):
        studies.save_label("a", str(tmp_path / "missing.nii.gz"), "final", {"saved_by": "otto"})
    assert path.read_bytes() == before
    assert recorded_labels(studies, tmp_path)["a"] == ["anna"]
    assert [file.name for file in path.parent.iterdir()] == ["a.nii.gz"]


def test_who_reads_while_another_thread_writes_sees_a_whole_list(studies, tmp_path, label):
    expected = studies.get_image_uri("a")
    stops = threading.Event()

    def save() -> None:
        while not stops.is_set():
            studies.save_label("b", str(label), "final", {"saved_by": "anna"})

    with ThreadPoolExecutor(1) as threads:
        saving = threads.submit(save)
        found = {studies.get_image_uri("a") for _ in range(20000)}
        stops.set()
        saving.result()
    assert found == {expected}


def test_a_list_that_cannot_be_written_leaves_mask_and_list_as_they_were(
    studies, tmp_path, label, monkeypatch
):
    studies.save_label("a", str(label), "final", {"saved_by": "anna"})
    path = Path(studies.get_label_uri("a", "final"))
    before = path.read_bytes()
    other = label.with_name("other.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20), np.uint8), np.eye(4)), other)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", failing_for_want_of_room)
        with pytest.raises(OSError, match="No space left"):
            studies.save_label("a", str(other), "final", {"saved_by": "otto"})
    assert path.read_bytes() == before
    assert studies.get_label_info("a", "final")["saved_by"] == "anna"
    assert recorded_labels(studies, tmp_path)["a"] == ["anna"]
    assert [file.name for file in path.parent.iterdir()] == ["a.nii.gz"]


def failing_for_want_of_room(*arguments, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_list_with_the_time_of_the_one_before_is_read(studies, tmp_path, label):
    listed = tmp_path / "datastore_v2.json"
    time_before = listed.stat().st_mtime_ns
    other = type(studies)(str(tmp_path))
    other.save_label("a", str(label), "final", {"saved_by": "otto"})
    os.utime(listed, ns=(time_before, time_before))
    assert recorded_labels(studies, tmp_path)["a"] == ["otto"]


def test_masks_of_all_formats_that_are_answered_can_be_saved(studies, label):
    import SimpleITK as sitk

    mask = label.with_name("mask.mha")
    sitk.WriteImage(sitk.ReadImage(str(label)), str(mask))
    studies.save_label("a", str(mask), "final", {})
    assert studies.get_label_uri("a", "final").endswith("a.mha")


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("label.nii.gz", "../../outside", "tag '../../outside'"),
        ("label.nii.gz", "/tmp", "tag '/tmp'"),
        ("label.nii.gz", "..", "tag '..'"),
        ("label.py", "final", r"label.py: expected a file of one of \.nii\.gz"),
    ],
)
def test_nothing_is_written_outside_the_studies(name, tag, message, studies, tmp_path, label):
    from fastapi import HTTPException

    file = label.rename(label.with_name(name))
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(HTTPException, match=message):
        studies.save_label("a", str(file), tag, {})
    for image in ("../b", ".b", "x/../../b", "c\\b"):
        with pytest.raises(HTTPException, match="expected"):
            studies.add_image(image, str(file), {})
    assert sorted(tmp_path.parent.rglob("*")) == before


# What to annotate next


@pytest.fixture
def studies(tmp_path):
    """A folder of five images; the third is large and most uncertain."""
    pytest.importorskip("monailabel")
    from lib.studies import Studies

    rng = np.random.default_rng(2)
    for name in ("a", "b", "c", "pair_0000", "pair_0001"):
        voxels = rng.uniform(size=(20, 20, 20)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return Studies(str(tmp_path))


@pytest.fixture
def annotating(tmp_path):
    """Models, and what finds their uncertainty."""
    pytest.importorskip("monailabel")
    from lib.active_learning import Uncertainty
    from lib.infer import Sessions
    from lib.models import ServedModel
    from lib.settings import AppSettings

    settings = AppSettings(device="cpu")
    folder = tmp_path / "models"
    models = {
        name: ServedModel(
            name,
            write_model(folder / f"{name}.safetensors", seed=seed),
            folder / name / "model.safetensors",
            settings,
        )
        for seed, name in enumerate(("one", "two"))
    }
    sessions = Sessions(settings)
    return models, Uncertainty(tmp_path / "uncertainty", sessions), sessions


def true_uncertainty(model: Path, studies) -> dict[str, float]:
    loaded = voxclick.load_model(model, "cpu")
    return {
        name: voxclick.InteractiveSession(
            loaded, voxclick.read_volume(studies.get_image_uri(name))
        ).uncertainty()
        for name in ("a", "b", "c", "pair_0000")
    }


@pytest.mark.parametrize("model", ["one", "two"])
def test_the_most_uncertain_image_comes_first(model, studies, annotating):
    from lib.active_learning import FindUncertainty, MostUncertain

    models, uncertainty, sessions = annotating
    expected = true_uncertainty(models[model].source, studies)
    strategy = MostUncertain(models, uncertainty, sessions, seconds=60)
    sample = strategy({"model": model, "client_id": "anna"}, studies)
    best = max(expected, key=expected.__getitem__)
    assert sample == {"id": best, "weight": expected[best], "unknown": 0}
    assert FindUncertainty(models, uncertainty)({"model": model}, studies) == expected
    # an image with a final label is done
    label = Path(studies.get_image_uri(best))
    studies.save_label(best, str(label), "final", {})
    left = {name: value for name, value in expected.items() if name != best}
    sample = strategy({"model": model}, studies)
    assert sample["id"] == max(left, key=left.__getitem__)


def test_an_image_that_memory_does_not_hold_is_passed_over_and_not_all_of_them(
    studies, annotating, monkeypatch
):
    from lib.active_learning import FindUncertainty, MostUncertain
    from voxclick.errors import NotEnoughMemoryError

    models, uncertainty, sessions = annotating
    opening, too_large = type(sessions).open, {"a"}

    def opens(self, served, image, radius_mm=0.0):
        if image.name.removesuffix(".nii.gz") in too_large:
            raise MemoryError
        return opening(self, served, image, radius_mm)

    monkeypatch.setattr(type(sessions), "open", opens)
    looks = [MostUncertain(models, uncertainty, sessions, 60), FindUncertainty(models, uncertainty)]
    sample, found = (look({"model": "one"}, studies) for look in looks)
    assert sample["id"] in ("b", "c", "pair_0000")
    assert sorted(found) == ["b", "c", "pair_0000"]
    too_large |= {"b", "c", "pair_0000"}
    for look in looks:
        with pytest.raises(NotEnoughMemoryError, match="main memory is full"):
            look({"model": "two"}, studies)


def test_without_time_only_what_is_known_counts(studies, annotating):
    from lib.active_learning import MostUncertain

    models, uncertainty, sessions = annotating
    hasty = MostUncertain(models, uncertainty, sessions, seconds=0)
    assert hasty({}, studies) == {"id": "a", "weight": None, "unknown": 4}
    path = Path(studies.get_image_uri("b"))
    found, _ = uncertainty.find(models["one"], "b", path)
    assert hasty({}, studies) == {"id": "b", "weight": found, "unknown": 3}
    # another model has not looked at it, and nobody at the image as it is now
    assert hasty({"model": "two"}, studies)["weight"] is None
    path.write_bytes(Path(studies.get_image_uri("c")).read_bytes())
    assert hasty({}, studies)["unknown"] == 4


def test_images_that_cannot_be_read_are_passed_over(studies, annotating):
    from lib.active_learning import MostUncertain

    models, uncertainty, sessions = annotating
    strategy = MostUncertain(models, uncertainty, sessions, seconds=60)
    for name in ("a", "b", "c"):
        Path(studies.get_image_uri(name)).write_bytes(b"no image")
    assert strategy({}, studies)["id"] == "pair_0000"
    Path(studies.get_image_uri("pair_0000")).write_bytes(b"no image")
    assert strategy({}, studies) is None


def test_any_image_is_one_that_nobody_was_given(studies):
    from lib.active_learning import AnyImage

    strategy, given = AnyImage(), set()
    for _ in range(4):
        name = strategy({}, studies)["id"]
        given.add(name)
        studies.update_image_info(name, {"strategy": {"random": {"ts": 1}}})
    assert given == {"a", "b", "c", "pair_0000"}  # the other channel is no image of its own
    assert strategy({}, studies)["id"] in given
    for name in given:
        studies.save_label(name, studies.get_image_uri(name), "final", {})
    assert strategy({}, studies) is None


def test_next_sample_through_the_server(server):
    client = server.client("next")
    sample = client.next_sample("most_uncertain", {"model": "organs"})
    assert (server.studies / f"{sample['id']}.nii.gz").samefile(sample["path"])
    # whoever was given it has its first prediction already
    assert client.infer("organs", sample["id"], {})[1]["windows"] == 0
    for strategy, params, status, sentence in (
        ("first", {}, 404, "there is no strategy 'first'; there are most_uncertain, random"),
        ("most_uncertain", {"model": "nothing"}, 400, "there is no model 'nothing'; there are"),
        ("random", {"client_id": 5}, 400, "client_id says 5; expected a name"),
    ):
        response = requests.post(f"{server.url}/activelearning/{strategy}", json=params, timeout=60)
        assert response.status_code == status
        assert sentence in response.json()["detail"]
    broken = requests.post(
        f"{server.url}/activelearning/most_uncertain", json={"model": "broken"}, timeout=60
    )
    assert broken.status_code == 500
    assert "not a safetensors file" in broken.json()["detail"]
