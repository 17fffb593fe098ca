"""Sliding windows: MONAI's inferer is the oracle, and some answers are known by hand."""

from __future__ import annotations

import errno
import mmap
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from voxclick.geometry.box import Box
from voxclick.sliding_window import (
    CacheSettings,
    OnePass,
    SlidingWindows,
    TensorSource,
    VolumeInference,
    WindowGrid,
)
from voxclick.sliding_window.cache import WindowCache
from voxclick.sliding_window.inference import BACKGROUND_MARGIN

CPU = torch.device("cpu")
ENTRY_GIB = 8**3 * 4 / 2**30
"""One result of a window of 8³ with one margin in float32."""


class PositionDependent(nn.Module):
    """Its output depends on where in the window a voxel lies, so that blending matters."""

    def __init__(self, window: tuple[int, int, int], labels: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.gain = nn.Parameter(torch.rand((labels, *window), generator=generator))
        self.batches: list[int] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(windows))
        return windows.sum(dim=1, keepdim=True) * self.gain + self.gain.flip(0)


class Margin(nn.Module):
    """The first input channel is the margin."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(windows[:, :1]), windows[:, :1]], dim=1)


def inference_of(network, settings, shape, multiple=(1, 1, 1), labels=2, **cache):
    return VolumeInference(
        network, settings, multiple, CPU, shape, labels, CacheSettings(**{"host_gib": 1, **cache})
    )


def infer(network, settings, volume, multiple=(1, 1, 1), labels=2, on_windows=None, **cache):
    shape = tuple(volume.shape[1:])
    inference = inference_of(network, settings, shape, multiple, labels, **cache)
    return inference.margins(TensorSource(volume), Box.of_shape(shape), on_windows)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("window_batch", [1, 3])
@pytest.mark.parametrize("shape", [(20, 17, 25), (8, 8, 8), (5, 20, 7), (30, 6, 8)])
def test_equals_monai(shape, window_batch, blending):
    window = (8, 8, 8)
    network = PositionDependent(window, labels=3)
    volume = torch.rand((3, *shape), generator=torch.Generator().manual_seed(1))
    ours = infer(
        network,
        SlidingWindows(
            window=window, blending=blending, window_batch=window_batch, precision="float32"
        ),
        volume,
        labels=3,
    )
    theirs = sliding_window_inference(
        volume[None], window, window_batch, network, overlap=0.25, mode=blending
    )[0].detach()
    torch.testing.assert_close(ours, theirs[1:] - theirs[:1], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    window=st.tuples(*[st.integers(1, 16)] * 3),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_every_voxel_and_none_lies_outside(shape, window, overlap):
    grid = WindowGrid.cover(shape, window, overlap)
    seen = torch.zeros(shape)
    for box in grid.boxes:
        assert box.shape == window
        inside = box.clip(shape)
        assert inside.shape == tuple(min(n, w) for n, w in zip(shape, window, strict=True))
        seen[inside.to_slices()] += 1
    assert seen.min() >= 1


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    window=st.tuples(*[st.integers(1, 16)] * 3),
    data=st.data(),
)
def test_a_window_around_a_voxel_holds_it_and_no_less_of_the_volume_than_fits(shape, window, data):
    centre = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    box = WindowGrid.cover(shape, window, 0.25).around(centre)
    assert box.shape == window
    assert box.contains(centre)
    assert box.clip(shape).shape == tuple(min(n, w) for n, w in zip(shape, window, strict=True))


def test_a_network_that_copies_gives_the_volume_back():
    volume = torch.rand((1, 19, 23, 11))
    copied = infer(Margin(), SlidingWindows(window=(8, 8, 8), precision="float32"), volume)
    torch.testing.assert_close(copied, volume)


def test_one_pass_pads_to_the_multiple_and_cuts_it_off_again():
    seen = []

    class Spy(Margin):
        def forward(self, windows):
            seen.append(tuple(windows.shape))
            return super().forward(windows)

    volume = torch.rand((2, 5, 8, 9))
    result = infer(Spy(), OnePass(precision="float32"), volume, multiple=(4, 4, 4))
    assert seen == [(1, 2, 8, 8, 12)]
    assert torch.equal(result, volume[:1])


def test_one_pass_over_a_centre_crop_leaves_the_rest_background():
    volume = torch.ones((1, 8, 8, 8))
    result = infer(Margin(), OnePass(centre_crop=(4, 4, 4), precision="float32"), volume)
    expected = torch.full((1, 8, 8, 8), BACKGROUND_MARGIN)
    expected[(0, *Box((2, 2, 2), (6, 6, 6)).to_slices())] = 1
    assert torch.equal(result, expected)


def test_windows_that_ran_are_counted_once():
    told = []
    volume = torch.zeros(1, 8, 8, 20)
    inference = inference_of(Margin(), SlidingWindows(window=(8, 8, 8), window_batch=2), (8, 8, 20))
    source = TensorSource(volume)
    for _ in range(2):
        inference.margins(source, Box.of_shape((8, 8, 20)), told.append)
    assert told == [2, 1]


def test_the_network_is_left_in_the_mode_it_was_in():
    class DropsOut(Margin):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, windows):
            return super().forward(self.dropout(windows))

    network = DropsOut().train()
    volume = torch.ones((1, 8, 8, 8))
    result = infer(network, SlidingWindows(window=(8, 8, 8), precision="float32"), volume)
    assert network.training
    assert network.dropout.training
    assert torch.equal(result, volume)  # but it ran without dropout


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 24)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.6]),
    entries=st.integers(0, 9),
    window_batch=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float16"]),
    data=st.data(),
)
def test_any_box_with_any_cache_has_the_bits_of_the_whole(
    shape, overlap, entries, window_batch, dtype, data
):
    sliding = SlidingWindows(
        window=(8, 8, 8), overlap=overlap, window_batch=window_batch, precision="float32"
    )
    network = PositionDependent((8, 8, 8))
    volume = torch.rand((2, *shape), generator=torch.Generator().manual_seed(1))
    whole = infer(network, sliding, volume, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        poor = inference_of(network, sliding, shape, host_gib=entries * ENTRY_GIB, dtype=dtype)
    source = TensorSource(volume)
    network.batches.clear()
    for _ in range(3):
        start = [data.draw(st.integers(0, n - 1)) for n in shape]
        stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
        box = Box(tuple(start), tuple(stop))
        assert torch.equal(poor.margins(source, box), whole[(..., *box.to_slices())])
    assert set(network.batches) == {window_batch}


def test_a_cache_that_is_too_small_says_so():
    with pytest.warns(UserWarning, match=r"room for 2 of this volume's 27 windows"):
        inference_of(
            Margin(), SlidingWindows(window=(8, 8, 8)), (20, 20, 20), host_gib=2.5 * ENTRY_GIB
        )


def test_results_are_kept_on_disk_when_memory_is_used_up(tmp_path):
    sliding = SlidingWindows(window=(8, 8, 8), precision="float32")
    network = PositionDependent((8, 8, 8))
    volume = torch.rand((1, 20, 20, 20))
    inference = inference_of(
        network, sliding, (20, 20, 20), host_gib=9.5 * ENTRY_GIB, disk_gib=1, folder=tmp_path
    )
    source, whole = TensorSource(volume), Box.of_shape((20, 20, 20))
    first = inference.margins(source, whole)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 27 - 9
    assert {path.stat().st_size for path in files} == {8**3 * 4}
    told = []
    assert torch.equal(inference.margins(source, whole, told.append), first)
    assert told == []
    del inference
    assert list(tmp_path.iterdir()) == []


def windows_run(inference, source, box) -> int:
    """By the work on one box, as a session does it."""
    told = [0]
    inference.prefer(source)
    inference.run(source, inference.grid.touching(box), told.append)
    inference.margins(source, box, told.append)
    return sum(told)


@pytest.mark.filterwarnings("ignore:the cache has room")
def test_a_window_more_than_there_is_room_for_runs_alone():
    sliding = SlidingWindows(window=(8, 8, 8), window_batch=2, precision="float32")
    inference = inference_of(Margin(), sliding, (20, 20, 20), host_gib=26.5 * ENTRY_GIB)
    source, whole = TensorSource(torch.rand((1, 20, 20, 20))), Box.of_shape((20, 20, 20))
    assert [windows_run(inference, source, whole) for _ in range(3)] == [27, 1, 1]


@pytest.mark.filterwarnings("ignore:the cache has room")
def test_a_small_cache_keeps_what_the_work_at_hand_needs():
    sliding = SlidingWindows(window=(8, 8, 8), precision="float32")
    inference = inference_of(Margin(), sliding, (20, 20, 20), host_gib=9.5 * ENTRY_GIB)
    source, whole = TensorSource(torch.rand((1, 20, 20, 20))), Box.of_shape((20, 20, 20))
    assert windows_run(inference, source, whole) == 27
    assert windows_run(inference, source, whole) == 27 - 9
    corners = [Box.of_shape((8, 8, 8)), Box((12, 12, 12), (20, 20, 20))]
    for corner in corners:
        assert len(inference.grid.touching(corner)) == 8
        windows_run(inference, source, corner)
        assert windows_run(inference, source, corner) == 0


def test_the_cache_takes_no_more_memory_than_it_may(monkeypatch):
    monkeypatch.setattr("voxclick.sliding_window.cache._BLOCK_BYTES", 4 * 8**3 * 4)
    blocks = blocks_of(monkeypatch)
    cache = WindowCache(CacheSettings(host_gib=9.5 * ENTRY_GIB), 1, (8, 8, 8), CPU)
    for number in range(12):
        cache.put((number, None), torch.full((1, 8, 8, 8), float(number)))
    assert blocks == [4, 4, 1]
    kept = [cache.get((number, None)) for number in range(12)]
    assert [n for n, result in enumerate(kept) if result is not None] == list(range(3, 12))


def test_a_cache_whose_memory_is_not_there_goes_on_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr("voxclick.sliding_window.cache._BLOCK_BYTES", 4 * 8**3 * 4)
    sliding = SlidingWindows(window=(8, 8, 8), precision="float32")
    volume, whole = torch.rand((1, 20, 20, 20)), Box.of_shape((20, 20, 20))
    expected = infer(Margin(), sliding, volume)
    blocks = blocks_of(monkeypatch, fails_after=2)
    source = TensorSource(volume)
    inference = inference_of(Margin(), sliding, (20, 20, 20), disk_gib=1, folder=tmp_path)
    with pytest.warns(
        UserWarning, match=r"less room than the cache may take \(CacheSettings.host_gib\)"
    ):
        assert torch.equal(inference.margins(source, whole), expected)
    assert blocks == [4, 4]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 27 - 8
    assert windows_run(inference, source, whole) == 0

    blocks_of(monkeypatch, fails_after=0)
    inference = inference_of(Margin(), sliding, (20, 20, 20))
    with pytest.warns(UserWarning, match="has room for 0 windows"):
        windows_run(inference, source, whole)
    assert torch.equal(inference.margins(source, whole), expected)


@pytest.fixture
def full_disk():
    """Lets no file grow beyond so many bytes: what is written then ends in the middle."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(bytes_left: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_results_there_alone(full_disk, tmp_path):
    sliding = SlidingWindows(window=(8, 8, 8), precision="float32")
    volume, whole = torch.rand((1, 20, 20, 20)), Box.of_shape((20, 20, 20))
    expected = infer(Margin(), sliding, volume)
    inference = inference_of(
        Margin(), sliding, (20, 20, 20), host_gib=4.5 * ENTRY_GIB, disk_gib=1, folder=tmp_path
    )
    full_disk(1000)
    with pytest.warns(UserWarning, match=r"CacheSettings\.disk_gib\); it has room for 4 windows"):
        found = inference.margins(TensorSource(volume), whole)
    full_disk(10**6)
    assert torch.equal(found, expected)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def blocks_of(monkeypatch, fails_after=100) -> list[int]:
    """How many results each block of memory is made for."""
    blocks = []

    def noted(file, length):
        if len(blocks) == fails_after:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        blocks.append(length // (4 * 8**3))
        return mmap.mmap(file, length)

    monkeypatch.setattr("voxclick.sliding_window.cache.mmap", SimpleNamespace(mmap=noted))
    return blocks


@pytest.mark.parametrize(("dtype", "other"), [("float32", "float16"), ("float16", "float32")])
def test_a_file_holds_the_caches_dtype_whatever_comes(dtype, other, tmp_path):
    settings = CacheSettings(dtype=dtype, host_gib=0, disk_gib=1, folder=tmp_path)
    cache = WindowCache(settings, 1, (8, 8, 8), CPU)
    margins = torch.rand((1, 8, 8, 8)).half()
    cache.put((0, None), margins.to(getattr(torch, other)))
    assert torch.equal(cache.get((0, None)).half(), margins)


def test_half_precision_rounds_and_overflows_to_the_largest_number():
    sliding = SlidingWindows(window=(8, 8, 8), precision="float32")
    volume = torch.tensor([1 / 3, 1e6, -1e6, 0]).repeat(2).expand(1, 8, 8, 8)
    inference = inference_of(Margin(), sliding, (8, 8, 8), dtype="float16")
    kept = inference.margins(TensorSource(volume), Box.of_shape((8, 8, 8)))
    expected = volume.clamp(-65504, 65504).half().float()
    torch.testing.assert_close(kept, expected, rtol=1e-6, atol=0)


class OutOfMemoryAbove(Margin):
    """A GPU that holds only so many windows."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.windows:
            raise torch.OutOfMemoryError("too much")
        return super().forward(windows)


def test_a_full_gpu_halves_the_window_batch_until_it_fits():
    volume = torch.rand((1, 20, 20, 20))
    sliding = SlidingWindows(window=(8, 8, 8), window_batch=7, precision="float32")
    with pytest.warns(UserWarning, match="does not hold") as warned:
        found = infer(OutOfMemoryAbove(1), sliding, volume)
    assert [str(w.message).split(" windows")[0].split()[-1] for w in warned] == ["7", "3"]
    torch.testing.assert_close(found, volume)
    with pytest.warns(UserWarning, match="going on with 3"):
        infer(OutOfMemoryAbove(3), sliding, volume)


def test_one_window_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        infer(OutOfMemoryAbove(0), SlidingWindows(window=(8, 8, 8)), torch.rand((1, 8, 8, 8)))


def test_no_result_of_a_larger_batch_outlives_its_halving():
    class RoundsByBatch(Margin):
        """Adds the size of the batch; its GPU fills up little by little."""

        calls = 0

        def forward(self, windows):
            self.calls += 1
            if len(windows) > (3 if self.calls < 6 else 1):
                raise torch.OutOfMemoryError("too much")
            return super().forward(windows) + torch.tensor([0, len(windows)]).view(1, 2, 1, 1, 1)

    sliding = SlidingWindows(window=(8, 8, 8), window_batch=7, precision="float32")
    inference = inference_of(RoundsByBatch(), sliding, (20, 20, 20))
    source = TensorSource(torch.zeros((1, 20, 20, 20)))
    assert "7 windows at once" in inference.computed_by
    with pytest.warns(UserWarning, match="does not hold") as warned:
        found = inference.margins(source, Box.of_shape((20, 20, 20)))
    assert len(warned) == 2
    torch.testing.assert_close(found, torch.ones_like(found))
    assert {float(result.mean()) for result in inference.kept(source).values()} == {1.0}
    assert "1 windows at once" in inference.computed_by


def test_a_preview_fills_no_batch_up():
    network = PositionDependent((8, 8, 8))
    sliding = SlidingWindows(window=(8, 8, 8), window_batch=4, precision="float32")
    source = TensorSource(torch.rand((2, 20, 20, 20)))
    inference = inference_of(network, sliding, (20, 20, 20))
    box, margins = inference.preview(source, (9, 9, 9), None)
    assert network.batches == [1]
    logits = network(source.read(box)[None])[0]
    assert torch.equal(margins, (logits[1:] - logits[:1]).detach())
