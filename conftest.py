"""Fixtures that every kind of test shares, those of the apps too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# the networks of the tests are so small that threads only wait for each other; processes that
# tests start must have as many, for bits depend on it
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real scans: VOXCLICK_DATA, or ../shared/data beside the project."""
    default = Path(__file__).resolve().parents[1] / "shared" / "data"
    root = Path(os.environ.get("VOXCLICK_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real scans at {root}: set VOXCLICK_DATA to the folder that holds them")
    return root
