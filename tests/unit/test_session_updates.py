"""What a session runs for an answer, what it shows on the way, and where a failure leaves it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_session import SHAPE, ClicksAreTheAnswer, OneClickFlipsTheWindow, ball, mask_of, session

from voxclick import Click, InteractiveSession, LabelMap, Volume
from voxclick.errors import GeometryError, UsageError
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import CacheSettings, OnePass, SlidingWindows, VolumeInference

LABELS = ("background", "tumor")
FIRST, SECOND = Click((3, 10, 10), "tumor"), Click((14, 20, 9), "tumor")


def drawn(mask: np.ndarray, updates) -> np.ndarray:
    """A viewer's mask after some updates."""
    for update in updates:
        if update.patch is not None:
            mask[update.patch.box.to_slices()] = update.patch.labels
    return mask


def correcting(voxels: np.ndarray, radius_mm: float, **options) -> InteractiveSession:
    """A session that starts from a mask."""
    opened = session(shape=voxels.shape, **options)
    opened.start_from(LabelMap(voxels, np.eye(4), labels=LABELS), radius_mm)
    opened.predict()
    return opened


# Previews


def test_a_preview_of_a_mask_to_start_from_is_one_window_and_a_ball():
    voxels = np.random.default_rng(0).integers(0, 2, (40, 40, 40), dtype=np.uint8)
    opened = correcting(voxels, 3, network=OneClickFlipsTheWindow())
    shown = voxels.copy()
    updates = []
    for update in opened.click((20, 20, 20), "tumor"):
        updates.append((update.kind, update.windows))
        drawn(shown, [update])
        assert np.array_equal(shown, voxels | ball(voxels.shape, (20, 20, 20), 9))
    assert updates == [("preview", 1), ("exact", 1)]
    preview, exact = opened.click((26, 26, 26), "tumor")
    assert (preview.windows, exact.windows) == (1, 8)
    drawn(shown, [preview])
    assert np.array_equal(shown, mask_of(opened))


def test_a_preview_runs_one_window_where_not_all_is_kept():
    """It shows the middle half of its window, and on to where the volume ends."""
    entry = 16**3 * 4 / 2**30
    with pytest.warns(UserWarning, match="room for 20 of this volume's 125 windows"):
        opened = session(shape=(60, 60, 60), cache=CacheSettings(host_gib=20.5 * entry))
    shown = mask_of(opened)
    for index, start, stop in (
        ((30, 30, 30), (26, 26, 26), (34, 34, 34)),
        ((2, 30, 59), (0, 26, 48), (12, 34, 60)),
    ):
        preview = next(opened.click(index, "tumor"))
        assert (preview.kind, preview.windows) == ("preview", 1)
        assert (preview.patch.box.start, preview.patch.box.stop) == (start, stop)
        drawn(shown, [preview])
    assert np.array_equal(shown, mask_of(opened))


def test_a_preview_of_a_session_brought_back_elsewhere_is_one_window(tmp_path, monkeypatch):
    voxels = np.zeros((40, 40, 40), np.uint8)
    correcting(voxels, 3).save(tmp_path / "idle.safetensors")
    monkeypatch.setattr(VolumeInference, "computed_by", "another")
    model = session().model
    back = InteractiveSession.load(tmp_path / "idle.safetensors", model)
    assert [update.windows for update in back.click((20, 20, 20), "tumor")] == [1, 1]


@pytest.mark.parametrize(
    ("spacing", "affine"),
    [
        ((1.51, 1.51, 1.51), np.diag([1.51, 1.51, 5.03, 1.0])),
        ((1.02, 1.03, 1.07), [[1, 0, 0.813, 0], [0, 1, 0, 0], [0, -0.317, 1, 0], [0, 0, 0, 1]]),
        ((1.93, 1.51, 0.83), [[0, -1, 0.41, 9], [1.21, 0, 0, 0], [0, 0, 2.03, 7], [0, 0, 0, 1]]),
    ],
)
def test_a_preview_changes_nothing_that_its_window_does_not_hold(spacing, affine, monkeypatch):
    """The network knows no more with more windows: a preview must show what the exact answer is."""
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 8)
    model = session().model
    scaling = (RangeScaling(low=0, high=1),)
    to_spacing = PreprocessingSettings(spacing_mm=spacing, intensity=scaling)
    model = replace(model, settings=model.settings.model_copy(update={"preprocessing": to_spacing}))
    voxels = np.random.default_rng(0).random((18, 20, 22), dtype=np.float32)
    opened = InteractiveSession(model, Volume(voxels, np.array(affine)))
    shown = mask_of(opened)
    assert 0.3 < shown.mean() < 0.7
    for index in [(9, 10, 11), (17, 0, 21), (2, 17, 6)]:
        preview, exact = opened.click(index, "background")
        assert exact.patch is not None
        drawn(shown, [preview])
        assert np.array_equal(shown, mask_of(opened))


@pytest.mark.parametrize(
    ("shape", "inference"),
    [
        ((16, 16, 16), None),
        ((40, 40, 40), OnePass()),
        ((40, 40, 40), OnePass(centre_crop=(16, 16, 16))),
    ],
)
def test_where_one_window_is_all_there_is_no_preview(shape, inference):
    opened = session(shape=shape, inference=inference)
    opened.predict()
    middle = tuple(n // 2 for n in shape)
    assert [(u.kind, u.windows) for u in opened.click(middle, "tumor")] == [("exact", 1)]
    assert mask_of(opened)[middle] == 1


def test_a_click_outside_the_crop_counts_and_changes_nothing():
    opened = session(shape=(40, 40, 40), inference=OnePass(centre_crop=(16, 16, 16)))
    opened.predict()
    updates = [(u.kind, u.patch, u.windows) for u in opened.click((4, 30, 30), "tumor")]
    assert updates == [("exact", None, 0)]
    assert opened.clicks == (Click((4, 30, 30), "tumor"),)


# Windows of local corrections


def test_a_local_correction_runs_the_windows_that_touch_its_ball():
    # windows start at 0, 12, 24; those of 16 voxels that share one with 17 … 23 are the middle ones
    opened = correcting(np.zeros((40, 40, 40), np.uint8), 3)
    opened.add([Click((20, 20, 20), "tumor")])
    assert opened.predict().windows == 1
    opened.add([Click((20, 20, 27), "tumor")])  # 24 … 30: the last ones along k, and 12 … 27
    assert opened.predict().windows == 2
    opened.undo()
    assert opened.predict().windows == 0
    opened.undo()
    assert opened.predict().windows == 0


def test_far_clicks_run_no_windows_between_them():
    voxels = np.zeros((16, 200, 200), np.uint8)
    clicks = [Click((8, 5, 5), "tumor"), Click((8, 195, 195), "tumor")]
    told = []
    opened = correcting(voxels, 3)
    opened.add(clicks)
    at_once = opened.predict(lambda *progress: told.append(progress))
    one_by_one = correcting(voxels, 3)
    windows = []
    for click in clicks:
        one_by_one.add([click])
        prediction = one_by_one.predict()
        windows.append(prediction.windows)
    assert windows == [1, 4]
    assert at_once.windows == 5
    assert told == [(n, 5) for n in range(1, 6)]
    assert np.array_equal(prediction.label_map.voxels, at_once.label_map.voxels)


def test_a_click_taken_back_leaves_the_mask_that_stood_there_without_a_window():
    voxels = np.random.default_rng(0).integers(0, 2, (40, 40, 40), dtype=np.uint8)
    network = OneClickFlipsTheWindow()
    with pytest.warns(UserWarning, match="room for 0"):
        opened = correcting(voxels, 5, network=network, cache=CacheSettings(host_gib=0))
    near, far = Click((20, 20, 20), "tumor"), Click((23, 20, 20), "tumor")
    opened.add([near])
    opened.predict()
    opened.undo()
    undone = opened.predict()
    assert undone.windows == 0
    assert np.array_equal(undone.label_map.voxels, voxels)
    opened.add([near, far])
    opened.predict()
    opened.remove(near)
    fresh = correcting(voxels, 5, network=network)
    fresh.add([far])
    expected = mask_of(fresh)
    assert np.array_equal(mask_of(opened), expected)
    is_near = ball(voxels.shape, far.index, 25)
    assert np.array_equal(expected[~is_near], voxels[~is_near])
    assert not np.array_equal(expected[is_near], voxels[is_near])


def test_each_click_in_turn_corrects_its_whole_ball_even_where_no_window_sees_the_click():
    voxels = np.random.default_rng(0).integers(0, 2, (40, 40, 40), dtype=np.uint8)
    opened = correcting(voxels, 15)
    expected = voxels.copy()
    predicted = np.zeros_like(voxels)
    predicted[2:5, 2:5, 2:5] = 1  # the image's
    for index in ((5, 5, 5), (30, 30, 30), (8, 32, 30)):
        opened.add([Click(index, "tumor")])
        predicted |= ball(voxels.shape, index)
        is_near = ball(voxels.shape, index, 15**2)
        expected[is_near] = predicted[is_near]
        assert np.array_equal(mask_of(opened), expected)


# Iterators that are late


def test_updates_that_were_cancelled_before_the_first_run_nothing():
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.predict()
    ran = network.windows
    updates = opened.click(FIRST.index, "tumor")
    opened.cancel()
    assert list(updates) == []
    assert network.windows == ran
    assert opened.clicks == (FIRST,)


def test_cancelled_updates_settle_nothing_even_if_no_window_is_missing():
    opened = session()
    before = mask_of(opened)
    list(opened.click(FIRST.index, "tumor"))
    opened.undo()
    opened.predict()
    late = opened.click(FIRST.index, "tumor")
    assert next(late).kind == "preview"
    opened.cancel()
    assert list(late) == []
    opened.undo()
    (update,) = opened.updates()  # where the preview was
    assert np.array_equal(update.patch.labels, before[update.patch.box.to_slices()])


def test_a_late_iterator_takes_no_later_click_back():
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.predict()
    late = opened.click(FIRST.index, "tumor")
    list(opened.click(SECOND.index, "tumor"))
    network.fails_after = network.windows
    assert list(late) == []
    assert opened.clicks == (FIRST, SECOND)
    assert np.array_equal(mask_of(opened)[8:], ball(SHAPE, SECOND.index)[8:])


def test_a_failing_click_stays_if_the_clicks_have_changed_since():
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.predict()
    updates = opened.click(FIRST.index, "tumor")
    next(updates)
    opened.add([SECOND])
    network.fails_after = network.windows
    with pytest.raises(torch.OutOfMemoryError):
        list(updates)
    assert opened.clicks == (FIRST, SECOND)
    with pytest.raises(torch.OutOfMemoryError):
        opened.predict()
    assert opened.clicks == ()  # none of them was ever settled


# Where a failure leads back to

ways = pytest.mark.parametrize("segment", [lambda s: s.predict(), lambda s: list(s.updates())])


@ways
def test_a_failure_goes_back_to_the_clicks_that_were_last_segmented(segment):
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.add([FIRST])
    opened.predict()
    opened.add([SECOND])
    mask = mask_of(opened)
    opened.undo()
    opened.predict()
    opened.redo()
    opened.predict()
    opened.undo()
    segment(opened)  # settled: FIRST, with a way on to SECOND
    network.fails_after = network.windows
    opened.add([Click((9, 9, 20), "tumor")])
    opened.remove(FIRST)
    with pytest.raises(torch.OutOfMemoryError):
        segment(opened)
    assert opened.clicks == (FIRST,)
    opened.redo()
    assert opened.clicks == (FIRST, SECOND)
    assert np.array_equal(mask_of(opened), mask)
    opened.undo()
    opened.undo()
    assert not opened.can_undo


@ways
def test_a_failure_brings_clicks_back_that_were_undone(segment):
    network = ClicksAreTheAnswer()
    with pytest.warns(UserWarning, match="room for 0"):
        opened = session(network=network, cache=CacheSettings(host_gib=0))
    opened.add([FIRST])
    opened.predict()
    network.fails_after = network.windows
    opened.undo()
    with pytest.raises(torch.OutOfMemoryError):
        segment(opened)
    assert opened.clicks == (FIRST,)
    assert opened.predict().changed is None


@ways
@pytest.mark.parametrize("radius_mm", [None, 4.0])
def test_a_failure_before_the_first_answer_goes_back_to_the_beginning(segment, radius_mm):
    network = ClicksAreTheAnswer()
    opened = session(network=network, radius_mm=radius_mm)
    network.fails_after = 3
    opened.add([SECOND])
    with pytest.raises(torch.OutOfMemoryError):
        segment(opened)
    assert opened.clicks == ()
    assert not opened.can_undo
    network.fails_after = None
    opened.add([SECOND])
    fresh = session(radius_mm=radius_mm)
    fresh.add([SECOND])
    assert np.array_equal(mask_of(opened), mask_of(fresh))


def test_a_failing_callback_is_a_failure():
    opened = session()
    opened.predict()
    opened.add([SECOND])
    with pytest.raises(ZeroDivisionError):
        opened.predict(lambda done, windows: 1 / 0)
    assert opened.clicks == ()


def test_a_failure_leaves_a_mask_to_start_from_as_it_is():
    voxels = np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8)
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.add([FIRST])
    opened.predict()
    opened.start_from(LabelMap(voxels, np.eye(4), labels=LABELS), 2)
    opened.add([SECOND])
    network.fails_after = network.windows
    with pytest.raises(torch.OutOfMemoryError):
        opened.predict()
    assert opened.clicks == (FIRST,)
    expected = voxels.copy()
    expected[ball(SHAPE, FIRST.index)] = 1
    assert np.array_equal(mask_of(opened), expected)


def test_a_session_brought_back_begins_with_its_clicks(tmp_path):
    network = ClicksAreTheAnswer()
    opened = session(network=network)
    opened.add([FIRST])
    opened.save(tmp_path / "idle.safetensors")
    back = InteractiveSession.load(tmp_path / "idle.safetensors", opened.model)
    back.add([SECOND])
    network.fails_after = 0
    with pytest.raises(torch.OutOfMemoryError):
        back.predict()
    assert back.clicks == (FIRST,)


# Radii


def test_an_endless_radius_is_refused():
    with pytest.raises(UsageError, match="must be finite and above 0, got inf"):
        session(radius_mm=float("inf"))
    mask = LabelMap(np.zeros(SHAPE, np.uint8), np.eye(4), labels=LABELS)
    with pytest.raises(UsageError, match="must be finite and above 0, got inf"):
        session().start_from(mask, float("inf"))


def test_the_first_click_of_a_local_session_has_no_preview_beyond_its_ball():
    opened = session(radius_mm=3)
    assert [update.kind for update in opened.click((16, 20, 24), "tumor")] == ["exact"]
    updates = list(opened.click((10, 10, 10), "tumor"))
    assert [update.kind for update in updates] == ["preview", "exact"]
    assert max(updates[0].patch.box.shape) <= 7


def test_a_mask_to_start_from_has_no_negative_labels():
    with pytest.raises(GeometryError, match="indices from 0, got -1"):
        LabelMap(np.full(SHAPE, -1, np.int16), np.eye(4), labels=LABELS)


# Batches that get smaller on a full GPU


IN_PAIRS = SlidingWindows(window=(16, 16, 16), overlap=0.25, window_batch=2)


class TumorInPairs(ClicksAreTheAnswer):
    """Tumour wherever two windows run at once: rounding, grossly; there may be room for one."""

    has_room_for = 2

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.has_room_for:
            raise torch.OutOfMemoryError("no room")
        answer = torch.full_like(windows[:, 0], len(windows) - 1.5)
        return torch.stack([torch.zeros_like(answer), answer], dim=1)


@pytest.mark.filterwarnings("ignore:the GPU's memory does not hold")
@pytest.mark.parametrize("fills_up", ["before the first answer", "before a click"])
def test_a_mask_is_not_put_together_from_batches_of_two_sizes(fills_up):
    network = TumorInPairs()
    opened = session(shape=(40, 40, 40), network=network, inference=IN_PAIRS)
    if fills_up == "before a click":
        assert mask_of(opened).all()
    network.has_room_for = 1
    opened.add([FIRST])
    assert not mask_of(opened).any()


@pytest.mark.filterwarnings("ignore:the GPU's memory does not hold")
def test_a_gpu_that_fills_up_in_the_middle_of_the_first_answer(monkeypatch):
    monkeypatch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", 8)
    network = TumorInPairs()

    def fill_up(done: int, total: int) -> None:
        if done > 60:  # more than there are: without a cache every block runs its own
            network.has_room_for = 1

    with pytest.warns(UserWarning, match="has room for 0"):
        opened = session(
            shape=(40, 40, 40), network=network, inference=IN_PAIRS, cache=CacheSettings(host_gib=0)
        )
    assert not opened.predict(fill_up).label_map.voxels.any()
