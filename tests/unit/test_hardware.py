"""What is said where memory does not suffice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxclick.cli.reporting import reporting_errors
from voxclick.errors import NotEnoughMemoryError
from voxclick.hardware import saying_when_memory_is_full

TOO_MUCH = 2**50


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_full_memory_is_one_sentence(allocate, capsys):
    with (
        pytest.raises(NotEnoughMemoryError, match="main memory is full; close"),
        saying_when_memory_is_full(),
    ):
        allocate(TOO_MUCH)
    assert reporting_errors(lambda: allocate(TOO_MUCH), debug=False) == 1
    shown = capsys.readouterr().err
    assert "error: main memory is full" in shown
    assert "fault of voxclick" not in shown


def test_a_full_gpu_is_told_from_full_main_memory():
    with (
        pytest.raises(NotEnoughMemoryError, match=r"the GPU's memory is full.*tried 2 GiB"),
        saying_when_memory_is_full(),
    ):
        raise torch.OutOfMemoryError("tried 2 GiB\nof 1")


def test_other_errors_are_not_about_memory():
    with pytest.raises(RuntimeError, match="sizes"), saying_when_memory_is_full():
        raise RuntimeError("sizes do not match")
