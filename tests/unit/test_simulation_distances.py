"""Distances: SciPy on a padded array is the oracle of both paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from voxclick.simulation import distances
from voxclick.simulation.distances import distance_to_outside

PATHS = {"edt": distance_to_outside, "lines": distances._distance_by_lines}


@pytest.fixture(params=PATHS)
def distance(request):
    return PATHS[request.param]


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None)
@pytest.mark.parametrize("path", PATHS)
def test_equals_scipy_with_the_border_outside(path, shape, spacing, share, seed):
    region = np.random.default_rng(seed).random(shape) < share
    padded = np.asarray(distance_transform_edt(np.pad(region, 1), sampling=spacing))
    ours = PATHS[path](torch.from_numpy(region), spacing)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), padded[1:-1, 1:-1, 1:-1], rtol=1e-5)


@given(
    shape=st.tuples(*[st.integers(2, 12)] * 2),
    flat=st.integers(0, 2),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None)
@pytest.mark.parametrize("path", PATHS)
def test_of_a_slice_they_are_scipys_in_its_plane(path, shape, flat, spacing, seed):
    region = np.random.default_rng(seed).random(shape) < 0.7
    in_plane = np.delete(spacing, flat)
    padded = np.asarray(distance_transform_edt(np.pad(region, 1), sampling=in_plane))
    ours = PATHS[path](torch.from_numpy(np.expand_dims(region, flat)), spacing, flat)
    np.testing.assert_allclose(ours.squeeze(flat).numpy(), padded[1:-1, 1:-1], rtol=1e-5)


def test_by_hand(distance):
    region = torch.ones(5, 5, 5, dtype=torch.bool)
    region[2, 2, 0] = False
    depth = distance(region, (1.0, 10.0, 1.0))
    assert depth[2, 2, 0] == 0
    assert depth[0, 2, 2] == 1  # the border of the volume
    assert depth[2, 2, 2] == 2  # the hole along k, 2 mm; the border is 3 mm away along i and k
    assert depth[2, 0, 2] == 3  # along j even the border is 10 mm away


def test_a_crop_that_holds_the_region_gives_the_same(distance):
    region = torch.zeros(12, 12, 12, dtype=torch.bool)
    region[2:9, 3:10, 0:7] = torch.rand(7, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.1
    whole = distance(region, (1.0, 2.0, 3.0))
    crop = distance(region[2:9, 3:10, 0:7], (1.0, 2.0, 3.0))
    assert torch.equal(whole[2:9, 3:10, 0:7], crop)


def test_lines_in_small_chunks(monkeypatch):
    region = torch.rand(9, 8, 7, generator=torch.Generator().manual_seed(0)) > 0.2
    monkeypatch.setattr(distances, "_CHUNK_ELEMENTS", 1)
    in_chunks = distances._distance_by_lines(region, (1.0, 2.0, 3.0))
    torch.testing.assert_close(in_chunks, distance_to_outside(region, (1.0, 2.0, 3.0)))
