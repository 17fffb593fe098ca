"""Segmentation through the real server and MONAI Label's own client, as 3D Slicer uses them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import voxclick
from app_server import GRIDS
from voxclick.cli.main import main
from voxclick.clicks import read_click_log
from voxclick.simulation import LargestError, MaxSteps, SimulatedUser
from voxclick.weights import PHANTOM_PET

requests = pytest.importorskip("requests", reason="comes with MONAI Label")

SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8", "label": "tumor"}
"""What 3D Slicer puts into every request of its."""

WORKING = ("phantom-pet", "tiny", "organs", "learns", "two", "sw-fastedit")
"""The models of the server, but for the one that is broken."""


def answer(client, model: str, image: str, clicks: dict, **more):
    """The mask as a client reads it, and the ``params`` beside it."""
    path, params = client.infer(model, image, SLICER | clicks | more)
    read = sitk.ReadImage(path)
    assert read.GetPixelID() == sitk.sitkUInt8
    return read, params


def voxels_of(read: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(read).T


def local_session(model: Path, image: Path) -> voxclick.InteractiveSession:
    return voxclick.InteractiveSession(
        voxclick.load_model(model, "cpu"), voxclick.read_volume(image)
    )


def clicks_of(session: voxclick.InteractiveSession) -> dict[str, list[list[int]]]:
    points: dict[str, list[list[int]]] = {name: [] for name in session.model.settings.labels}
    for click in session.clicks:
        points[click.label].append(list(click.index))
    return points


def refused(client, *words, **params) -> tuple[int, str]:
    """Status and sentence of a request that fails."""
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as caught:
        client.infer(*words, params)
    status, _, response = caught.value.msg.partition("; Response: ")
    return int(status.removeprefix("Status: ")), json.loads(response)["detail"]


# What there is


def test_info_is_what_slicer_looks_for(server):
    info = server.client().info()
    assert info["name"] == "voxclick"
    models = info["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        **dict.fromkeys(WORKING, "deepedit"),
        **dict.fromkeys((f"{name}_auto" for name in WORKING), "segmentation"),
    }
    # background last: Slicer numbers the segments that it saves by their place
    assert models["organs"]["labels"] == ["liver", "tumor", "background"]
    assert info["labels"] == ["tumor", "liver", "background"]
    assert {"phantom-pet", "organs"} <= info["trainers"].keys()
    assert info["strategies"].keys() == {"most_uncertain", "random"}
    assert info["scoring"].keys() == {"masks", "uncertainty"}
    assert "broken.safetensors: not a safetensors file" in server.log


# Clicks


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * np.logical_and(mask, truth).sum() / (mask.astype(bool).sum() + truth.sum()))


@pytest.mark.parametrize("scan", ["phantom", "patient"])
def test_ten_clicks_better_a_mask_and_cost_what_they_touch(scan, server, phantoms, request):
    """A simulated user clicks in a local session; the server is told the same clicks."""
    client = server.client(f"ten clicks on a {scan}")
    if scan == "phantom":
        image, truth = "PHANTOM_000", phantoms / "labelsTr/PHANTOM_000.nii.gz"
    else:
        pet_sts = request.getfixturevalue("data_root") / "pet-sts"
        image, truth = "STS_041", pet_sts / "labelsTs/STS_041.nii.gz"
        client.upload_image(str(next(pet_sts.glob("imagesTs/STS_041*"))), image)
    file = server.studies / f"{image}.nii.gz"
    label = voxclick.read_label_map(truth, ("background", "tumor"))
    session = local_session(PHANTOM_PET, file)
    user = SimulatedUser(LargestError(), MaxSteps(max_steps=10), seed=0)
    scores, windows = [], []
    for step in range(11):
        prediction = session.predict()
        read, params = answer(client, "phantom-pet", image, clicks_of(session))
        mask = voxels_of(read)
        # the same bits as in the process at hand, from as many windows
        assert np.array_equal(mask, prediction.label_map.voxels)
        assert params["windows"] == prediction.windows
        assert params["label_names"] == {"background": 0, "tumor": 1}
        latencies = params["latencies"]
        assert latencies.keys() == {"pre", "infer", "invert", "post", "write", "total"}
        steps = sum(took for step, took in latencies.items() if step != "total")
        assert steps <= latencies["total"] + 0.01
        scores.append(dice(mask, label.voxels))
        windows.append(params["windows"])
        shown = torch.from_numpy(prediction.label_map.voxels)
        chosen = user.next_clicks(torch.from_numpy(label.voxels), shown, label.spacing_mm)
        if chosen is None:
            assert step == 10
            break
        session.add([voxclick.Click(c.index, label.labels[c.label_index]) for c in chosen])
    assert scores[-1] > 0.8
    assert scores[-1] > scores[0] + 0.3
    assert max(windows[1:]) <= 8
    # told again, nothing runs; with some taken back, what they touched may
    assert answer(client, "phantom-pet", image, clicks_of(session))[1]["windows"] == 0
    assert answer(client, "phantom-pet", image, {})[1]["windows"] == 0


def test_clients_have_sessions_of_their_own(server):
    anna, ben = server.client("anna-own"), server.client("ben-own")
    _, first = answer(anna, "tiny", "ras", {"tumor": [[3, 4, 5]]})
    _, other = answer(ben, "tiny", "ras", {"tumor": [[20, 4, 5]]})
    _, again = answer(anna, "tiny", "ras", {"tumor": [[3, 4, 5]]})
    assert first["windows"] == other["windows"] > 1
    assert again["windows"] == 0


def test_segmenting_alone_takes_no_clicks_and_logs_none(server):
    client = server.client("alone")
    told = answer(client, "tiny_auto", "ras", {"tumor": [[3, 4, 5]]})[0]
    assert np.array_equal(voxels_of(told), voxels_of(answer(client, "tiny_auto", "ras", {})[0]))
    assert not (server.studies / "labels/clicks/ras_alone.json").exists()
    asked = answer(client, "tiny", "ras", {})[0]
    assert np.array_equal(voxels_of(told), voxels_of(asked))


# Geometry


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
@pytest.mark.parametrize("grid", GRIDS)
def test_app_command_and_python_make_the_same_mask(grid, suffix, server, tmp_path):
    """Clicks are voxels of the file, and masks lie on its grid, whatever its orientation."""
    image = server.studies / f"{grid}.nii.gz"
    clicks = {"tumor": [[3, 4, 5], [20, 17, 2]], "background": [[10, 11, 12]]}
    read, _ = answer(server.client("geometry"), "tiny", grid, clicks, result_extension=suffix)
    # on the image's own grid, as any ITK program sees the two
    reference = sitk.ReadImage(str(image))
    assert read.GetSize() == reference.GetSize()
    for one, two in (
        (read.GetOrigin(), reference.GetOrigin()),
        (read.GetSpacing(), reference.GetSpacing()),
        (read.GetDirection(), reference.GetDirection()),
    ):
        assert one == pytest.approx(two, abs=1e-5)
    model = server.folder / "models/tiny.safetensors"
    session = local_session(model, image)
    for label, points in clicks.items():
        session.add([voxclick.Click(tuple(point), label) for point in points])
    in_python = session.predict().label_map.voxels
    assert 0 < in_python.sum() < in_python.size
    assert np.array_equal(voxels_of(read), in_python)
    (tmp_path / "clicks.json").write_text(json.dumps(clicks))
    words = ["segment", image, "--model", model, "--device", "cpu"]
    words += ["--clicks", tmp_path / "clicks.json", "--out", tmp_path / "mask.nii.gz"]
    assert main([str(word) for word in words]) == 0
    by_command = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
    assert np.array_equal(by_command, in_python)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_click_is_where_slicer_shows_it(grid, server):
    """3D Slicer turns a place in the patient into a voxel as ITK does."""
    image = server.studies / f"{grid}.nii.gz"
    itk_image = sitk.ReadImage(str(image))
    session = local_session(server.folder / "models/tiny.safetensors", image)
    client = server.client("voxel")
    masks = []
    for voxel in ([3, 15, 5], [19, 2, 21]):
        x, y, z = itk_image.TransformIndexToPhysicalPoint(voxel)
        session.reset()
        for _ in session.click((-x, -y, z), "tumor", space="ras"):
            pass
        read, _ = answer(client, "tiny", grid, {"tumor": [voxel]})
        masks.append(voxels_of(read))
        assert np.array_equal(masks[-1], session.predict().label_map.voxels)
    assert not np.array_equal(*masks)


# Labels


def test_several_labels_by_name(server):
    client = server.client("organs")
    clicks = {"liver": [[3, 4, 5]], "tumor": [[20, 17, 2]], "background": []}
    read, params = answer(client, "organs", "lps", clicks)
    assert params["label_names"] == {"background": 0, "liver": 1, "tumor": 2}
    mask = voxels_of(read)
    assert set(np.unique(mask)) <= {0, 1, 2}
    for name, place in params["centroids"].items():
        where = np.argwhere(mask == params["label_names"][name])
        assert place == pytest.approx(where.mean(axis=0), abs=0.01)


def test_a_model_is_told_the_clicks_of_another_ones_labels(server):
    """3D Slicer sends the points of all labels, whatever the model."""
    client = server.client("many labels")
    both = {"tumor": [[20, 17, 2]], "liver": [[3, 4, 5]], "background": []}
    read, params = answer(client, "tiny", "lps", both)
    assert params["ignored"] == ["liver"]
    alone, params = answer(client, "tiny", "lps", {"tumor": [[20, 17, 2]]})
    assert "ignored" not in params
    assert np.array_equal(voxels_of(read), voxels_of(alone))


def test_foreground_and_background_are_a_mask_of_one_label(server):
    client = server.client("deepgrow")
    points = {"foreground": [[3, 4, 5]], "background": [[10, 11, 12]]}
    read, params = answer(client, "tiny", "ras", points, label="Segment_1")
    by_label = {"tumor": points["foreground"], "background": points["background"]}
    assert np.array_equal(voxels_of(read), voxels_of(answer(client, "tiny", "ras", by_label)[0]))
    assert params["label_names"] == {"background": 0, "tumor": 1}
    read, params = answer(client, "organs", "ras", points, label="tumor")
    by_label = {"tumor": points["foreground"], "background": points["background"]}
    of_all = voxels_of(answer(client, "organs", "ras", by_label)[0])
    assert np.array_equal(voxels_of(read), of_all == 2)
    assert params["label_names"] == {"background": 0, "tumor": 1}


# Where images come from


def test_an_image_that_changed_on_disk_is_noticed(server):
    client = server.client("changed")
    path = server.studies / "changing.nii.gz"
    shutil.copy(server.studies / "ras.nii.gz", path)
    client.upload_image(str(server.studies / "ras.nii.gz"), "changing")
    answer(client, "tiny", "changing", {})
    assert answer(client, "tiny", "changing", {})[1]["windows"] == 0
    time.sleep(0.01)
    shutil.copy(server.studies / "oblique.nii.gz", path)
    read, params = answer(client, "tiny", "changing", {})
    assert params["windows"] > 1
    assert read.GetOrigin() == pytest.approx(
        sitk.ReadImage(str(server.studies / "oblique.nii.gz")).GetOrigin(), abs=1e-4
    )


def test_an_image_of_a_session_and_one_that_is_sent_along(server):
    client = server.client("uploads")
    file = str(server.studies / "flipped.nii.gz")
    expected = voxels_of(answer(client, "tiny", "flipped", {"tumor": [[3, 4, 5]]})[0])
    session = client.create_session(file)["session_id"]
    params = SLICER | {"tumor": [[3, 4, 5]]}
    path, first = client.infer("tiny", "", dict(params), session_id=session)
    assert np.array_equal(voxels_of(sitk.ReadImage(path)), expected)
    assert first["windows"] > 1
    path, again = client.infer("tiny", "", dict(params), session_id=session)
    assert again["windows"] == 0
    log = read_click_log(server.studies / f"labels/clicks/sessions/{session}_uploads.json")
    assert len(log.clicks) == 1
    logs = sorted((server.studies / "labels/clicks").rglob("*.json"))
    # MONAI Label takes all that follows the first point for a suffix
    sent = shutil.copy(file, server.folder / "PET-1.2-thorax.nii.gz")
    for sent_file in (file, str(sent)):
        path, _ = client.infer("tiny", "", dict(params), file=sent_file)
        assert np.array_equal(voxels_of(sitk.ReadImage(path)), expected)
    assert sorted((server.studies / "labels/clicks").rglob("*.json")) == logs


def test_labels_are_saved_for_images_of_the_studies_alone(server):
    """A session's file may be called like an image of the studies."""
    client = server.client("namesake")
    final = server.studies / "labels/final/oblique.nii.gz"
    client.save_label("oblique", answer_file(client, "oblique"))
    before = final.read_bytes()
    session = client.create_session(str(server.studies / "oblique.nii.gz"))["session_id"]
    save = {"save_label": True, "label_tag": "final", "tumor": [[3, 4, 5]]}
    client.infer("tiny", "oblique", save, session_id=session)
    assert final.read_bytes() == before
    assert not (server.studies / "labels/clicks/oblique_namesake.json").exists()


def answer_file(client, image: str) -> str:
    return client.infer("tiny_auto", image, {"result_extension": ".nii.gz"})[0]


def test_no_file_of_the_server_is_read_for_a_path_in_a_request(server, phantoms):
    """MONAI Label lets the params of a request overwrite whatever it has put there itself."""
    client = server.client("curious")
    secret = str(next((phantoms / "imagesTr").iterdir()))
    named = shutil.copy(secret, server.folder / "tmpabcdefgh.nii.gz")
    for path in (secret, str(named)):
        for params in (
            {"image": path},
            {"session": {"image": path}},
            {"image": path, "session": {"image": path, "name": "x"}},
            {"session": {"name": "../../" + path}},
            {"image": [path]},
        ):
            assert refused(client, "tiny", "ras", **params)[0] == 404


def test_channels_lie_side_by_side(server):
    client = server.client("pair")
    read, _ = answer(client, "two", "pair_0000", {"tumor": [[3, 4, 5]]})
    pair = [voxclick.read_volume(server.studies / f"pair_000{n}.nii.gz") for n in (0, 1)]
    model = voxclick.load_model(server.folder / "models/two.safetensors", "cpu")
    session = voxclick.InteractiveSession(model, pair)
    session.add([voxclick.Click((3, 4, 5), "tumor")])
    assert np.array_equal(voxels_of(read), session.predict().label_map.voxels)
    assert refused(client, "two", "ras")[0] == 400
    assert "ask for the one that ends in _0000" in refused(client, "two", "pair_0001")[1]


def test_the_two_other_forms_of_an_answer(server):
    url = f"{server.url}/infer/tiny?image=ras"
    bare = requests.post(f"{url}&output=json", data={"params": "{}"}, timeout=60).json()
    assert bare["label_names"] == {"background": 0, "tumor": 1}
    params = json.dumps({"result_extension": ".nii"})
    image = requests.post(f"{url}&output=image", data={"params": params}, timeout=60)
    assert int.from_bytes(image.content[:4], "little") == 348  # a NIfTI header, and no gzip


# Clicks are kept


def test_the_clicks_of_every_request_are_logged(server, tmp_path):
    client = server.client("writer")
    client.next_sample("random", {})
    one, two, three = [3, 4, 5], [20, 17, 2], [10, 11, 12]
    for clicks in (
        {"tumor": [one]},
        {"tumor": [one, two]},
        {"tumor": [two], "background": [three]},
    ):
        answer(client, "tiny", "lps", clicks)
    refused(client, "tiny", "lps", tumor=[[99, 99, 99]])
    log = read_click_log(server.studies / "labels/clicks/lps_writer.json")
    assert (log.case, log.annotator) == ("lps", "writer")
    assert [(list(t.click.index), t.click.label) for t in log.clicks] == [
        (one, "tumor"), (two, "tumor"), (three, "background"),
    ]  # fmt: skip
    assert [t.removed is None for t in log.clicks] == [False, True, True]
    times = [timed.seconds for timed in log.clicks]
    assert times == sorted(times)
    # `voxclick metrics` reads it, with the masks that were saved
    last = {"tumor": [two], "background": [three], "result_extension": ".nii.gz"}
    client.save_label("lps", client.infer("tiny", "lps", last)[0])
    logs = tmp_path / "logs"
    logs.mkdir()
    shutil.copy(server.studies / "labels/clicks/lps_writer.json", logs)
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(server.studies / "labels/final/lps.nii.gz", truth)
    words = ["metrics", truth, server.studies / "labels/final", "--click-logs", logs]
    main([str(word) for word in (*words, "--out", tmp_path / "scores")])
    people = json.loads((tmp_path / "scores/people.json").read_text())
    assert people["annotators"] == ["writer"]
    assert (tmp_path / "scores/logs.csv").read_text().splitlines()[1].startswith("lps,writer,3,1,")
    # and sets a simulated user beside the person
    cases = tmp_path / "cases.csv"
    cases.write_text(f"name,image,label\nlps,{server.studies}/lps.nii.gz,{truth}/lps.nii.gz\n")
    model = server.folder / "models/tiny.safetensors"
    words = ["metrics", "--click-logs", logs, "--model", model, "--images", cases]
    words += ["--device", "cpu", "--out", tmp_path / "people"]
    assert main([str(word) for word in words]) == 0
    people = json.loads((tmp_path / "people/people.json").read_text())
    # the clicks that stand make the mask that was saved
    assert people["person"]["dice"][-1] == 1
    assert len(people["simulated"]["dice"]) == len(people["person"]["dice"]) == 3


# What is wrong


@pytest.mark.parametrize(
    ("model", "image", "status", "sentence"),
    [
        ("tiny", "nothing", 404, "there is no image 'nothing' in the studies"),
        # folders and files of the server's own, which MONAI Label would read
        ("tiny", "models", 404, "there is no image 'models'"),
        ("tiny", ".", 404, "there is no image '.'"),
        ("tiny", "studies/ras.nii.gz", 404, "there is no image 'studies/ras.nii.gz'"),
        ("nothing", "ras", 404, "there is no model 'nothing'; there are phantom-pet"),
        ("broken", "ras", 500, "broken.safetensors: not a safetensors file"),
    ],
)
def test_images_and_models_that_are_not_there(model, image, status, sentence, server):
    got, said = refused(server.client("lost"), model, image)
    assert got == status
    assert sentence in said


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"tumor": [[1, 1, 99]]}, "the click at voxel (1, 1, 99) (tumor) lies outside the image"),
        ({"tumor": [[-1, 1, 1]]}, "lies outside the image"),
        ({"kidney": [[1, 1, 1]]}, "there are clicks for 'kidney', which the model does not know"),
        ({"tumor": [[1, 1, 1]], "background": [[1, 1, 1]]}, "(1, 1, 1) is clicked as"),
        ({"tumor": [[1, 1]]}, "expected a voxel [i, j, k] for 'tumor'"),
        ({"result_extension": ".seg.nrrd"}, "result_extension says '.seg.nrrd'; expected one of"),
        ({"radius_mm": "far"}, "radius_mm says 'far'; expected a number of mm"),
        ({"radius_mm": -1}, "radius_mm says -1; expected a number of mm"),
        ({"save_label": "maybe"}, "save_label says 'maybe'; expected true or false"),
        ({"label_tag": "../../escaped"}, "label_tag says '../../escaped'; expected a tag"),
    ],
)
def test_requests_that_are_refused_change_nothing(params, sentence, server):
    client = server.client("wrong")
    before = voxels_of(answer(client, "tiny", "ras", {"tumor": [[3, 4, 5]]})[0])
    status, said = refused(client, "tiny", "ras", **params)
    assert status == 400
    assert sentence in said
    read, again = answer(client, "tiny", "ras", {"tumor": [[3, 4, 5]]})
    assert np.array_equal(voxels_of(read), before)
    assert again["windows"] == 0
    log = read_click_log(server.studies / "labels/clicks/ras_wrong.json")
    assert len(log.clicks) == 1


def test_a_log_that_cannot_be_written_stops_nobody(server, tmp_path):
    from lib.clicks import ClickRecorder
    from lib.infer import RequestedImage, SegmentationTask, Sessions
    from lib.models import ServedModel
    from lib.settings import AppSettings

    settings = AppSettings(device="cpu")
    served = ServedModel(
        "tiny", server.folder / "models/tiny.safetensors", tmp_path / "t", settings
    )
    task = SegmentationTask(served, {"tiny": served}, Sessions(settings), interactive=True)
    (tmp_path / "clicks").write_text("a file where the folder should be")
    image = RequestedImage(server.studies / "ras.nii.gz", "ras", in_studies=True)
    request = {"image": image, "tumor": [[3, 4, 5]]}
    path, params = task(request, ClickRecorder(tmp_path / "clicks"))
    assert voxels_of(sitk.ReadImage(path)).any()
    assert "the clicks are not logged" in params["warning"]
    assert "warning" not in task(request, ClickRecorder(tmp_path / "others"))[1]


def test_a_file_that_is_no_image(server):
    (server.studies / "text.nii.gz").write_text("no image")
    client = server.client("text")
    client.upload_image(str(server.studies / "text.nii.gz"), "text")
    status, said = refused(client, "tiny", "text")
    assert status == 400
    assert "text.nii.gz: the file is damaged or is not NIfTI" in said
    requests.delete(f"{server.url}/datastore/image?id=text", timeout=60)


def test_a_radius_keeps_a_click_near(server):
    client = server.client("near")
    alone = voxels_of(answer(client, "phantom-pet", "ras", {})[0])
    far = {"tumor": [[3, 15, 5]]}
    near = voxels_of(answer(client, "phantom-pet", "ras", far, radius_mm=6)[0])
    session = voxclick.InteractiveSession(
        voxclick.load_model(PHANTOM_PET, "cpu"),
        voxclick.read_volume(server.studies / "ras.nii.gz"),
        radius_mm=6,
    )
    session.add([voxclick.Click((3, 15, 5), "tumor")])
    assert np.array_equal(near, session.predict().label_map.voxels)
    away = np.argwhere(near != alone) - [3, 15, 5]
    assert (np.linalg.norm(away * [2, 3, 4], axis=1) <= 6).all()


def test_imported_weights_of_sw_fastedit_are_served(server):
    """Whose clicks of a label change each other's places when they come near: all count anew."""
    model = server.folder / "models/sw-fastedit.safetensors"
    client = server.client("sw-fastedit")
    session = local_session(model, server.studies / "oblique.nii.gz")
    for points in ([[3, 4, 5]], [[3, 4, 5], [4, 4, 5]], [[3, 4, 5], [4, 4, 5], [20, 17, 2]]):
        session.set_clicks([voxclick.Click(tuple(point), "tumor") for point in points])
        read, params = answer(client, "sw-fastedit", "oblique", {"tumor": points})
        expected = session.predict()
        assert np.array_equal(voxels_of(read), expected.label_map.voxels)
        assert params["windows"] == expected.windows
