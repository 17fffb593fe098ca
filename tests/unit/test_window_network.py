"""How a network runs: with which kernels, and in which layout of memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from voxclick.sliding_window import network as window_network
from voxclick.sliding_window.network import (
    WindowNetwork,
    _repeatable_convolutions,
    faster_layout,
)

CPU = torch.device("cpu")
FIRST, LAST = torch.contiguous_format, torch.channels_last_3d
SHAPE = (2, 3, 8, 8, 8)


@dataclass
class Clock:
    """It goes on when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes as long as it is told in either layout; the very first call ten seconds more."""

    def __init__(self, clock: Clock, seconds: dict[torch.memory_format, list[float]]) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.calls: list[torch.memory_format] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        layout = FIRST if windows.is_contiguous() else LAST
        assert windows.is_contiguous(memory_format=layout)
        assert tuple(windows.shape) == SHAPE
        assert not self.training
        self.clock.now += self.seconds[layout][self.calls.count(layout)]
        self.clock.now += 0 if self.calls else 10
        self.calls.append(layout)
        return windows[:, :2]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(window_network, "perf_counter", clock)
    return clock


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ([9, 3, 3, 3], [9, 2, 2, 2], LAST),
        ([1, 2, 2, 2], [1, 3, 3, 3], FIRST),
        ([1, 2, 2, 2], [1, 1.9, 1.9, 1.9], FIRST),  # not clearly
        ([1, 9, 9, 2], [1, 1, 9, 9], LAST),  # what other work disturbs does not count
        ([5, 2, 2, 2], [0.1, 3, 3, 3], FIRST),  # nor does the first call
    ],
)
def test_the_layout_that_is_clearly_faster_is_taken(clock, first, last, expected):
    network = Timed(clock, {FIRST: first, LAST: last}).train()
    state = torch.get_rng_state()
    assert faster_layout(network, CPU, torch.float32, SHAPE) == expected
    assert len(network.calls) == 8
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_is_tried_once_for_a_shape_and_a_dtype(clock):
    network = Timed(clock, {FIRST: [2] * 8, LAST: [1] * 8})
    for _ in range(2):
        assert faster_layout(network, CPU, torch.float32, SHAPE) == LAST
    assert len(network.calls) == 8
    faster_layout(network, CPU, torch.bfloat16, SHAPE)
    assert len(network.calls) == 16


def test_where_a_layout_does_not_fit_in_memory_channels_stay_first(clock):
    class Large(nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            if not windows.is_contiguous():
                raise torch.OutOfMemoryError
            clock.now += 1
            return windows

    assert faster_layout(Large(), CPU, torch.float32, SHAPE) == FIRST


def test_room_that_was_lacking_once_is_looked_for_again(clock):
    class FullOnce(Timed):
        full = True

        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            if self.full:
                raise torch.OutOfMemoryError
            return super().forward(windows)

    network = FullOnce(clock, {FIRST: [2] * 4, LAST: [1] * 4})
    assert faster_layout(network, CPU, torch.float32, SHAPE) == FIRST
    network.full = False
    assert faster_layout(network, CPU, torch.float32, SHAPE) == LAST


def test_a_batch_that_does_not_fit_is_tried_by_halves(clock):
    class Small(nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            if len(windows) > 2:
                raise torch.OutOfMemoryError
            clock.now += 1 if windows.is_contiguous() else 0.5
            return windows

    assert faster_layout(Small(), CPU, torch.float32, (8, 3, 4, 4, 4)) == LAST


def test_a_network_that_needs_channels_first_gets_them():
    class Flattens(nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return windows.view(len(windows), -1).view(windows.shape)

    with pytest.warns(UserWarning, match="does not run with channels last"):
        assert faster_layout(Flattens(), CPU, torch.float32, SHAPE) == FIRST


@pytest.mark.parametrize(
    ("error", "expected"), [(0.0, LAST), (0.01, LAST), (1.0, FIRST), (float("nan"), FIRST)]
)
@pytest.mark.filterwarnings("ignore:channels last change")
def test_a_layout_that_changes_the_answer_is_not_taken(error, expected, clock):
    class Errs(nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            clock.now += 1 if windows.is_contiguous() else 0.5
            labels = torch.cat([-windows[:, :1], windows[:, :1]], 1)
            return labels if windows.is_contiguous() else labels * (1 + error)

    assert faster_layout(Errs(), CPU, torch.float32, SHAPE) == expected


def test_what_is_wrong_in_either_layout_is_said():
    with pytest.raises(RuntimeError, match="channels"):
        faster_layout(nn.Conv3d(9, 2, 1), CPU, torch.float32, SHAPE)


def test_a_network_gets_its_layout_and_answers_margins():
    windows = torch.rand(SHAPE)
    answers = []
    for layout in (FIRST, LAST):
        network = Timed(Clock(), {layout: [0]})
        way = WindowNetwork(network, CPU, torch.float32, layout)
        answers.append(way.margins(windows))
        assert network.calls == [layout]
    assert torch.equal(answers[0], windows[:, 1:2] - windows[:, :1])
    assert torch.equal(answers[1], answers[0])


def test_results_of_another_layout_are_not_taken_for_the_same():
    ways = [WindowNetwork(nn.Identity(), CPU, torch.float32, layout) for layout in (FIRST, LAST)]
    assert ways[0].computed_by != ways[1].computed_by


def test_threads_do_not_put_each_others_cudnn_flags_back():
    cudnn = torch.backends.cudnn
    entered, leaves, seen = threading.Event(), threading.Event(), []

    def other():
        with _repeatable_convolutions(torch.device("cuda"), torch.bfloat16):
            entered.set()
            leaves.wait(10)
            seen.append(cudnn.deterministic)

    before = cudnn.deterministic
    thread = threading.Thread(target=other)
    with _repeatable_convolutions(torch.device("cuda"), torch.bfloat16):
        thread.start()
        entered.wait(0.1)
    assert entered.wait(10)
    leaves.set()
    thread.join()
    assert seen == [True]
    assert cudnn.deterministic == before


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, False), (torch.bfloat16, True)])
def test_float32_is_not_rounded_to_tensor_float(dtype, allowed):
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, allow_tf32=True):
        with _repeatable_convolutions(torch.device("cuda"), dtype):
            assert cudnn.allow_tf32 == allowed
        assert cudnn.allow_tf32
