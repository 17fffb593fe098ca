"""Sessions with a network whose answer is known: a voxel is tumour where its channel is set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from voxclick import Click, InteractiveSession, LabelMap, Volume
from voxclick.errors import ClickError, GeometryError, SessionFileError, UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import CacheSettings, SlidingWindows, VolumeInference

SHAPE = (20, 24, 28)


class ClicksAreTheAnswer(nn.Module):
    """Image above a half is tumour, a tumour click makes tumour, a background click takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0
        self.fails_after: int | None = None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if self.fails_after is not None and self.windows >= self.fails_after:
            raise torch.OutOfMemoryError("no room")
        self.windows += len(windows)
        image, background, tumor = windows.unbind(dim=1)
        score = (image > 0.5).float() + 4 * tumor - 4 * background
        return torch.stack([torch.full_like(score, 0.5), score], dim=1)


class OneClickFlipsTheWindow(nn.Module):
    """A window with any tumour click in it is tumour throughout: a correction that goes far."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        tumor = windows[:, 2].amax(dim=(1, 2, 3), keepdim=True).expand_as(windows[:, 2])
        return torch.stack([torch.full_like(tumor, 0.5), tumor], dim=1)


def session(
    shape=SHAPE, affine=None, channels=("PET",), guidance=True, network=None, air=None, **options
):
    settings = ModelSettings(
        labels=("background", "tumor"),
        channels=channels,
        preprocessing=PreprocessingSettings(
            intensity=tuple(RangeScaling(low=0, high=1) for _ in channels)
        ),
        guidance=DiskGuidance() if guidance else None,
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=(16, 16, 16), overlap=0.25),
        air_below=air,
    )
    voxels = np.zeros(shape, dtype=np.float32)
    voxels[2:5, 2:5, 2:5] = 1
    volume = Volume(voxels, np.eye(4) if affine is None else affine)
    model = Model(settings, network or ClicksAreTheAnswer(), torch.device("cpu"))
    return InteractiveSession(model, [volume] * len(channels), **options)


def mask_of(opened):
    return opened.predict().label_map.voxels


def click(opened, index, label):
    *_, update = opened.click(index, label)
    assert update.kind == "exact"
    return update


def ball(shape, centre, squared_radius=4):
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return (grid**2).sum(axis=0) <= squared_radius


# Clicks


def test_clicks_land_on_their_voxel_and_can_be_taken_back():
    opened = session()
    first = opened.predict()
    assert first.label_map.mask("tumor").sum() == 27
    assert first.windows == 2 * 2 * 2
    assert first.changed == Box.of_shape(SHAPE)
    opened.add([Click((14, 20, 9), "tumor")])
    added = opened.predict()
    assert np.array_equal(added.label_map.voxels - first.label_map.voxels, ball(SHAPE, (14, 20, 9)))
    assert added.changed == Box.around((14, 20, 9), 2)
    opened.add([Click((3, 3, 3), "background")])
    assert opened.predict().label_map.mask("tumor")[3, 3, 3] == 0
    opened.remove(Click((3, 3, 3), "background"))
    assert np.array_equal(mask_of(opened), added.label_map.voxels)
    opened.reset()
    assert np.array_equal(mask_of(opened), first.label_map.voxels)
    opened.undo()
    assert np.array_equal(mask_of(opened), added.label_map.voxels)


def test_only_windows_that_see_the_click_run_and_none_to_take_it_back():
    opened = session()
    opened.predict()
    # windows start at 0, 4 / 0, 8 / 0, 12
    opened.add([Click((0, 0, 0), "tumor")])
    assert opened.predict().windows == 1
    opened.add([Click((10, 0, 27), "tumor")])
    assert opened.predict().windows == 2
    opened.undo()
    opened.undo()
    opened.redo()
    assert opened.predict().windows == 0


def test_an_earlier_label_map_is_not_changed_by_later_clicks():
    opened = session()
    first = opened.predict().label_map
    copy = first.voxels.copy()
    click(opened, (9, 9, 9), "tumor")
    assert np.array_equal(first.voxels, copy)


def test_clicks_are_voxels_of_the_file_whatever_its_orientation():
    affine = np.array([[0, -2, 0, 5], [0, 0, 3, -7], [-1, 0, 0, 9], [0, 0, 0, 1.0]])
    opened = session(affine=affine)
    opened.add([Click((14, 20, 9), "tumor")])
    mask = mask_of(opened).astype(bool)
    assert np.array_equal(mask[8:], ball(SHAPE, (14, 20, 9))[8:])


def test_clicks_in_mm():
    affine = np.array([[-2, 0, 0, 50], [0, 3, 0, -7], [0, 0, 1.5, 9], [0, 0, 0, 1.0]])
    opened = session(affine=affine)
    for space, position in [("voxel", (4, 5, 6)), ("ras", (42, 8, 18)), ("lps", (-42, -8, 18))]:
        opened.reset()
        opened.click(position, "tumor", space)
        assert opened.clicks == (Click((4, 5, 6), "tumor"),)


def test_a_click_twice_is_one_click_and_no_change():
    opened = session()
    opened.add([Click((3, 3, 3), "tumor"), Click((3, 3, 3), "tumor")])
    opened.add([Click((3, 3, 3), "tumor")])
    assert len(opened.clicks) == 1
    opened.predict()
    updates = list(opened.click((3, 3, 3), "tumor"))
    assert [(u.kind, u.patch, u.windows) for u in updates] == [("exact", None, 0)]
    opened.undo()
    assert not opened.clicks
    assert not opened.can_undo
    assert opened.can_redo


def test_wrong_clicks_change_nothing():
    opened = session()
    good, outside = Click((3, 3, 3), "tumor"), Click((20, 3, 3), "tumor")
    for wrong in (
        outside,
        Click((-1, 0, 0), "tumor"),
        Click((3, 3, 3), "liver"),
        Click((3, 3, 3), "background"),
    ):
        with pytest.raises(ClickError):
            opened.add([good, wrong])
        assert opened.clicks == ()
        assert not opened.can_undo
    with pytest.raises(ClickError, match="no click at voxel"):
        opened.remove(good)
    with pytest.raises(ClickError, match="takes none"):
        session(guidance=False).add([good])
    for position, space in [
        ((3.5, 1, 1), "voxel"),
        ((float("nan"), 1, 1), "voxel"),
        ((float("nan"), 1, 1), "ras"),
        ((1, float("inf"), 1), "lps"),
        ((500, 1, 1), "ras"),
    ]:
        with pytest.raises(ClickError):
            opened.click(position, "tumor", space)
        assert opened.clicks == ()
    for step in (opened.undo, opened.redo):
        with pytest.raises(ClickError, match="nothing to"):
            step()


def test_a_voxel_keeps_its_label_until_its_click_is_removed():
    opened = session()
    opened.add([Click((3, 3, 3), "tumor")])
    with pytest.raises(ClickError, match=r"\(3, 3, 3\) is clicked as 'tumor' already"):
        opened.click((3, 3, 3), "background")
    opened.remove(Click((3, 3, 3), "tumor"))
    opened.click((3, 3, 3), "background")
    assert opened.clicks == (Click((3, 3, 3), "background"),)


def test_the_channels_are_counted():
    model = session(channels=("CT", "PET"), network=nn.Identity()).model
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    with pytest.raises(GeometryError, match="takes 2 image"):
        InteractiveSession(model, volume)


# Updates


@pytest.mark.parametrize("index", [(14, 20, 9), (10, 12, 13), (19, 0, 27)])
def test_a_click_gives_a_preview_and_then_the_exact_answer(index):
    opened = session()
    shown = mask_of(opened)
    kinds = []
    for update in opened.click(index, "tumor"):
        kinds.append(update.kind)
        assert (update.windows == 1) == (update.kind == "preview" or index == (19, 0, 27))
        shown[update.patch.box.to_slices()] = update.patch.labels
        # this network knows no more with more windows
        assert np.array_equal(shown[8:], ball(SHAPE, index)[8:])
    assert kinds == ["preview", "exact"]
    assert np.array_equal(shown, mask_of(opened))


def test_the_first_click_needs_no_prediction_before_it():
    opened = session()
    shown = np.full(SHAPE, 9, np.uint8)
    updates = list(opened.click((14, 20, 9), "tumor"))
    assert [(u.kind, u.windows) for u in updates] == [("preview", 1), ("exact", 8)]
    for update in updates:
        shown[update.patch.box.to_slices()] = update.patch.labels
    assert np.array_equal(shown, mask_of(opened))


def test_a_viewer_that_skips_to_the_next_click_misses_nothing():
    opened = session()
    shown = mask_of(opened)
    for index in [(14, 20, 9), (3, 10, 25), (10, 3, 20)]:
        update = next(opened.click(index, "tumor"))
        assert update.kind == "preview"
        # a preview may be wrong: the exact answer must show where it was
        shown[update.patch.box.to_slices()] = 7
    (update,) = opened.updates()
    shown[update.patch.box.to_slices()] = update.patch.labels
    assert np.array_equal(shown, mask_of(opened))
    assert len(opened.clicks) == 3


def test_cancelled_updates_end_quietly_and_keep_what_has_run():
    opened = session()
    opened.predict()
    updates = opened.click((10, 12, 13), "tumor")
    assert next(updates).kind == "preview"
    opened.cancel()
    assert list(updates) == []
    assert opened.clicks == (Click((10, 12, 13), "tumor"),)
    assert opened.predict().windows == 7  # of eight; the one that was running is not lost


def test_a_new_click_ends_the_updates_of_the_one_before():
    opened = session()
    opened.predict()
    old = opened.click((10, 12, 13), "tumor")
    assert next(old).kind == "preview"
    new = opened.click((10, 12, 20), "tumor")
    assert list(old) == []
    assert [update.kind for update in new] == ["preview", "exact"]
    fresh = session()
    fresh.add(opened.clicks)
    assert np.array_equal(mask_of(opened), mask_of(fresh))


@pytest.mark.parametrize("ran", [0, 1, 3])
def test_a_failing_update_takes_its_click_back(ran):
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.add([Click((9, 9, 9), "tumor")])
    before = mask_of(opened)
    network.fails_after = network.windows + ran
    with pytest.raises(torch.OutOfMemoryError):
        list(opened.click((10, 12, 13), "tumor"))
    assert opened.clicks == (Click((9, 9, 9), "tumor"),)
    assert opened.can_undo
    network.fails_after = network.windows  # what is shown needs no window
    assert np.array_equal(mask_of(opened), before)
    network.fails_after = None
    fresh = session()
    fresh.add([Click((9, 9, 9), "tumor"), Click((10, 12, 13), "tumor")])
    click(opened, (10, 12, 13), "tumor")
    assert np.array_equal(mask_of(opened), mask_of(fresh))


def test_a_failing_prediction_can_be_tried_again():
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    network.fails_after = 3
    with pytest.raises(torch.OutOfMemoryError):
        opened.predict()
    network.fails_after = None
    prediction = opened.predict()
    assert prediction.windows == 5
    assert prediction.label_map.mask("tumor").sum() == 27


def test_progress_counts_the_windows_that_are_missing():
    told = []
    opened = session()
    opened.predict(lambda *progress: told.append(progress))
    assert told == [(n, 8) for n in range(1, 9)]
    told.clear()
    opened.add([Click((10, 0, 27), "tumor")])
    opened.predict(lambda *progress: told.append(progress))
    assert told == [(1, 2), (2, 2)]


# Corrections near the click


def test_a_correction_with_a_radius_leaves_the_rest_alone():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    opened = session(affine=affine, network=OneClickFlipsTheWindow(), radius_mm=4)
    opened.predict()
    click(opened, (5, 10, 10), "tumor")
    grid = (np.indices(SHAPE) - np.array((5, 10, 10))[:, None, None, None]) * np.array([2.0, 1, 1])[
        :, None, None, None
    ]
    expected = (grid**2).sum(axis=0) <= 16
    assert np.array_equal(mask_of(opened).astype(bool), expected)
    opened.undo()
    assert not mask_of(opened).any()
    opened.redo()
    assert np.array_equal(mask_of(opened).astype(bool), expected)
    fresh = session(affine=affine, network=OneClickFlipsTheWindow(), radius_mm=4)
    (update,) = [u for u in fresh.click((5, 10, 10), "tumor") if u.kind == "exact"]
    assert update.patch.box == Box.of_shape(SHAPE)
    assert np.array_equal(update.patch.labels.astype(bool), expected)


def test_a_mask_to_start_from_stands_away_from_the_clicks():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[10:15, 10:15, 10:15] = 1
    voxels[16:, 18:, 20:] = 1
    opened = session()
    opened.start_from(LabelMap(voxels, np.eye(4), labels=("background", "tumor")), radius_mm=3)
    first = opened.predict()
    assert np.array_equal(first.label_map.voxels, voxels)
    assert (first.windows, first.changed) == (0, Box.of_shape(SHAPE))
    click(opened, (12, 12, 12), "background")
    expected = voxels.copy()
    expected[ball(SHAPE, (12, 12, 12), 9)] = 0
    assert np.array_equal(mask_of(opened), expected)
    opened.reset()
    assert np.array_equal(mask_of(opened), voxels)
    assert voxels[12, 12, 12] == 1


def test_a_mask_that_does_not_fit_is_refused():
    opened = session()
    with pytest.raises(GeometryError, match="another grid"):
        opened.start_from(LabelMap(np.zeros((3, 3, 3), np.uint8), np.eye(4)))
    with pytest.raises(UsageError, match="label index 2"):
        opened.start_from(LabelMap(np.full(SHAPE, 2, np.uint8), np.eye(4)))
    for radius in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="radius_mm"):
            opened.start_from(LabelMap(np.zeros(SHAPE, np.uint8), np.eye(4)), radius)
        with pytest.raises(UsageError, match="radius_mm"):
            session(radius_mm=radius)


# Air


def test_windows_of_air_are_passed_over_until_they_are_clicked():
    network = ClicksAreTheAnswer()
    opened = session(network=network, air=0.5, skip_air=True)
    first = opened.predict()
    assert first.windows == 1 + 1  # those that start at (0, 0, 0) and (4, 0, 0) see the cube
    assert np.array_equal(first.label_map.voxels, mask_of(session()))
    opened.add([Click((0, 23, 27), "tumor")])
    second = opened.predict()
    assert second.windows == 1
    assert second.label_map.mask("tumor")[0, 23, 27]


def test_a_model_without_a_threshold_skips_no_air():
    with pytest.raises(UsageError, match="no threshold for air"):
        session(skip_air=True)


def test_the_cache_can_be_small():
    with pytest.warns(UserWarning, match="room for 0 of this volume's 8 windows"):
        opened = session(cache=CacheSettings(host_gib=0))
    fresh = session()
    for prepared in (opened, fresh):
        prepared.predict()
        click(prepared, (9, 9, 9), "tumor")
    assert np.array_equal(mask_of(opened), mask_of(fresh))


# To disk and back


@pytest.mark.parametrize("radius", [None, 5.0])
def test_a_saved_session_goes_on_where_it_was(radius, tmp_path):
    network = ClicksAreTheAnswer()
    opened = session(network=network, radius_mm=radius)
    opened.predict()
    click(opened, (14, 20, 9), "tumor")
    opened.add([Click((3, 3, 3), "background")])  # not yet predicted with
    opened.undo()
    opened.redo()
    opened.save(tmp_path / "idle.safetensors")
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    ran = network.windows
    assert back.clicks == opened.clicks
    assert np.array_equal(mask_of(back), mask_of(opened))
    assert network.windows - ran == 2 + 2  # those of the second click, in each session
    for step in ("undo", "undo", "redo"):
        getattr(back, step)()
        getattr(opened, step)()
        assert np.array_equal(mask_of(back), mask_of(opened))
    assert len(back.clicks) == 1
    (update,) = back.updates()
    assert update.patch is None


def test_another_backend_computes_everything_anew(tmp_path, monkeypatch):
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.predict()
    opened.save(tmp_path / "idle.safetensors")
    monkeypatch.setattr(VolumeInference, "computed_by", "another")
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert back.predict().windows == 8


@pytest.mark.parametrize(("dtype", "other"), [("float32", "float16"), ("float16", "float32")])
@pytest.mark.parametrize("disk_gib", [0.0, 0.1])
def test_another_dtype_of_the_cache_computes_everything_anew(dtype, other, disk_gib, tmp_path):
    path = tmp_path / "idle.safetensors"
    opened = session(cache=CacheSettings(dtype=dtype))
    opened.predict()
    opened.save(path)
    cache = CacheSettings(dtype=other, host_gib=0.1 - disk_gib, disk_gib=disk_gib, folder=tmp_path)
    back = InteractiveSession.load(path, opened.model, cache)
    assert back.predict().windows == 8
    for each in (opened, back):
        each.add([Click((14, 20, 9), "tumor")])
    assert np.array_equal(mask_of(back), mask_of(opened))
    again = InteractiveSession.load(path, opened.model, CacheSettings(dtype=dtype))
    assert again.predict().windows == 0


def test_another_precision_computes_everything_anew(tmp_path, monkeypatch):
    def computes_in(dtype):
        resolves = "voxclick.sliding_window.inference.resolve_precision"
        monkeypatch.setattr(resolves, lambda precision, device: dtype)

    computes_in(torch.bfloat16)
    opened = session()
    opened.predict()
    opened.save(tmp_path / "idle.safetensors")
    same = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert same.predict().windows == 0
    computes_in(torch.float32)  # as on a CPU without bfloat16
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert back.predict().windows == 8


def test_results_of_a_halved_window_batch_do_not_pass_for_those_of_a_whole_one(tmp_path):
    class Full(ClicksAreTheAnswer):
        fits = 1

        def forward(self, windows):
            if len(windows) > self.fits:
                raise torch.OutOfMemoryError("no room")
            return super().forward(windows)

    inference = SlidingWindows(window=(16, 16, 16), window_batch=2)
    opened = session(network=Full(), inference=inference)
    with pytest.warns(UserWarning, match="going on with 1"):
        opened.predict()
    opened.save(tmp_path / "idle.safetensors")
    opened.model.network.fits = 2
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert back.predict().windows == 8


@pytest.mark.parametrize("given", [False, True])
def test_another_backend_keeps_a_mask_that_was_given_and_no_other(given, tmp_path, monkeypatch):
    class Biased(ClicksAreTheAnswer):
        bias = 0.0

        def forward(self, windows):
            logits = super().forward(windows)
            return torch.stack([logits[:, 0], logits[:, 1] + self.bias], dim=1)

    network = Biased()
    opened = session(network=network, radius_mm=3)
    if given:
        opened.start_from(LabelMap(np.zeros(SHAPE, np.uint8), np.eye(4)), radius_mm=3)
    opened.predict()
    opened.save(tmp_path / "idle.safetensors")
    network.bias = 9.0
    monkeypatch.setattr(VolumeInference, "computed_by", "another")
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert (mask_of(back) == (0 if given else 1)).all()
    back.add([Click((14, 20, 9), "tumor")])
    back.save(tmp_path / "again.safetensors")
    monkeypatch.setattr(VolumeInference, "computed_by", "a third")
    third = InteractiveSession.load(tmp_path / "again.safetensors", opened.model)
    assert np.array_equal(mask_of(third), ball(SHAPE, (14, 20, 9), 9) | (not given))


def test_a_session_without_a_prediction_can_be_saved(tmp_path):
    opened = session()
    opened.add([Click((14, 20, 9), "tumor")])
    opened.save(tmp_path / "idle.safetensors")
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    assert np.array_equal(mask_of(back), mask_of(opened))


def test_a_session_belongs_to_its_model(tmp_path):
    path = tmp_path / "idle.safetensors"
    opened = session()
    opened.save(path)
    other = session(network=OneClickFlipsTheWindow(), air=0.3).model
    with pytest.raises(SessionFileError, match="made with another model"):
        InteractiveSession.load(path, other)
    with pytest.raises(SessionFileError, match="no such session file"):
        InteractiveSession.load(tmp_path / "none", opened.model)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SessionFileError, match="damaged"):
        InteractiveSession.load(path, opened.model)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SessionFileError, match="not a session file"):
        InteractiveSession.load(tmp_path / "text", opened.model)


def without(name):
    return lambda tensors: tensors.pop(name)


def reshaped(name, part):
    return lambda tensors: tensors.update({name: tensors[name][part].contiguous()})


def in_dtype(name, dtype):
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("image"), "what its header says: image"),
        (without("mask"), "what its header says: mask"),
        (without("local-mask"), "what its header says: local-mask"),
        (in_dtype("image", torch.bfloat16), "what its header says: image"),
        (in_dtype("mask", torch.int64), "what its header says: mask"),
        (reshaped("mask", slice(5)), "what its header says: mask"),
        (reshaped("image", (slice(None), slice(5))), "a prepared image of"),
        (reshaped("image", slice(0)), "do not fit"),
        (reshaped("window/0", (slice(None), slice(3))), "do not fit"),
        (lambda tensors: tensors.update({"window/99": torch.zeros(1, 16, 16, 16)}), "do not fit"),
        (lambda tensors: tensors.update({"window/x": torch.zeros(1)}), "header says: window/x"),
        (lambda tensors: tensors.update({"weights": torch.zeros(1)}), "header says: weights"),
    ],
)
def test_a_damaged_session_file_is_refused(damage, message, tmp_path):
    path = tmp_path / "idle.safetensors"
    opened = session(radius_mm=5)
    opened.predict()
    opened.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(SessionFileError, match=rf"idle\.safetensors: a damaged .*{message}"):
        InteractiveSession.load(path, opened.model)


# All clicks at once


def test_clicks_are_set_as_one_change():
    one, two, three = (Click((14, 20, n), "tumor") for n in (4, 12, 20))
    opened = session()
    opened.set_clicks([one, two])
    opened.predict()
    opened.set_clicks([three, two])
    assert opened.clicks == (two, three)
    fresh = session()
    fresh.add([three, two])
    assert np.array_equal(mask_of(opened), mask_of(fresh))
    opened.undo()
    assert opened.clicks == (one, two)
    opened.set_clicks([two, one])  # the same ones: no change
    opened.undo()
    assert opened.clicks == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([Click((1, 1, 1), "tumor"), Click((1, 1, 1), "background")], "clicked as 'tumor'"),
        ([Click((1, 1, 99), "tumor")], "outside the image"),
        ([Click((1, 1, 1), "liver")], "knows background, tumor"),
    ],
)
def test_clicks_that_cannot_be_set_change_nothing(wrong, message):
    opened = session()
    opened.add([Click((14, 20, 9), "tumor")])
    with pytest.raises(ClickError, match=message):
        opened.set_clicks(wrong)
    assert opened.clicks == (Click((14, 20, 9), "tumor"),)


def test_clicks_are_not_set_without_guidance():
    with pytest.raises(ClickError, match="without clicks"):
        session(guidance=False).set_clicks([Click((1, 1, 1), "tumor")])


# Memory


def test_memory_is_image_mask_and_results():
    opened = session()
    voxels, results = int(np.prod(SHAPE)), 2 * 2 * 2 * 16**3 * 4
    assert opened.memory_bytes == 4 * voxels
    opened.predict()
    assert opened.memory_bytes == 4 * voxels + voxels + results
    opened.add([Click((0, 0, 0), "tumor")])
    opened.predict()  # one window's result beside the earlier one
    assert opened.memory_bytes == 4 * voxels + voxels + results + 16**3 * 4


def test_masks_of_a_large_local_session_lie_in_files(monkeypatch):
    monkeypatch.setattr("voxclick.session.segmentation.is_large", lambda shape: True)
    opened = session(radius_mm=4.0)
    before = opened.memory_bytes
    opened.predict()
    assert opened.memory_bytes == before + 2 * 2 * 2 * 16**3 * 4


def test_windows_that_the_network_does_not_take_are_refused():
    with pytest.raises(UsageError, match="multiples of"):
        session(inference=SlidingWindows(window=(50, 50, 50)))


def test_memory_of_results_ends_with_the_budget():
    voxels = int(np.prod(SHAPE))
    two = CacheSettings(host_gib=2 * 16**3 * 4 / 2**30)
    with pytest.warns(UserWarning, match="room for 2"):
        opened = session(cache=two)
    opened.predict()
    assert opened.memory_bytes == 4 * voxels + voxels + 2 * 16**3 * 4


def test_results_in_files_take_no_memory(tmp_path):
    voxels = int(np.prod(SHAPE))
    opened = session(cache=CacheSettings(host_gib=0, disk_gib=1, folder=tmp_path))
    opened.predict()
    assert opened.memory_bytes == 4 * voxels + voxels
