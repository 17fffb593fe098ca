"""Sessions against fresh sessions, and against MONAI running every window again."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from voxclick import Click, InteractiveSession, Volume
from voxclick.geometry.box import Box
from voxclick.guidance import (
    DiskGuidance,
    DistanceGuidance,
    GaussianGuidance,
    SwFastEditGuidance,
    build_encoder,
)
from voxclick.model_files import Model, ModelSettings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import Preprocessing, PreprocessingSettings, RangeScaling
from voxclick.sliding_window import CacheSettings, SlidingWindows

LABELS = ("background", "tumor", "node")
CPU = torch.device("cpu")


def network() -> nn.Module:
    """Convolutions and a norm over the whole window: each voxel depends on each."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv3d(4, 6, 3, padding=1),
        nn.InstanceNorm3d(6),
        nn.GELU(),
        nn.Conv3d(6, 3, 3, padding=1),
    ).eval()


NETWORK = network()

guidances = st.sampled_from(
    [
        DiskGuidance(),
        GaussianGuidance(),
        DistanceGuidance(radius=4.0, unit="mm"),
        SwFastEditGuidance(),
    ]
)


@st.composite
def openings(draw):
    """Model settings, an image, and how results are kept."""
    shape = draw(st.tuples(*[st.integers(6, 26)] * 3))
    window = draw(st.tuples(*[st.sampled_from([8, 12])] * 3))
    chosen = ModelSettings(
        labels=LABELS,
        channels=("PET",),
        preprocessing=PreprocessingSettings(
            spacing_mm=draw(st.none() | st.tuples(*[st.sampled_from([1.0, 1.3, 2.0])] * 3)),
            intensity=(RangeScaling(low=0, high=1),),
        ),
        guidance=draw(guidances),
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(
            window=(64, 64, 64), overlap=draw(st.sampled_from([0.0, 0.25, 0.5]))
        ),
    )
    inference = chosen.inference.model_copy(
        update={
            "window": window,
            "precision": "float32",
            "blending": draw(st.sampled_from(["gaussian", "constant"])),
            "window_batch": draw(st.integers(1, 2)),
        }
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    affine = np.diag([*draw(st.permutations([1.0, 1.5, 2.0])), 1.0])
    affine[:3, :3] = affine[:3, draw(st.permutations(range(3)))]
    volume = Volume(rng.random(shape, dtype=np.float32), affine)
    entry_gib = 2 * np.prod(window) * 4 / 2**30
    cache = CacheSettings(
        host_gib=draw(st.sampled_from([0, 3, 20, 1000])) * entry_gib,
        dtype=draw(st.sampled_from(["float32", "float16"])),
    )
    return chosen, volume, inference, cache


def opened(opening) -> InteractiveSession:
    chosen, volume, inference, cache = opening
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return InteractiveSession(Model(chosen, NETWORK, CPU), volume, inference, cache)


def clicks_in(shape, data, count: int) -> list[Click]:
    indices = st.tuples(*[st.integers(0, n - 1) for n in shape])
    drawn = data.draw(st.lists(indices, min_size=count, max_size=count, unique=True))
    return [Click(index, data.draw(st.sampled_from(LABELS))) for index in drawn]


def mask_of(session: InteractiveSession) -> np.ndarray:
    return session.predict().label_map.voxels


@settings(max_examples=60, deadline=None)
@given(opening=openings(), data=st.data())
def test_any_way_to_a_set_of_clicks_gives_the_mask_of_a_fresh_session(opening, data):
    session = opened(opening)
    shown = np.full(session.geometry.shape, 99, np.uint8)
    pool = clicks_in(session.geometry.shape, data, 5)
    for _ in range(data.draw(st.integers(2, 7))):
        steps = ["add", "click"]
        steps += ["undo"] if session.can_undo else []
        steps += ["redo"] if session.can_redo else []
        steps += ["remove", "reset"] if session.clicks else []
        step = data.draw(st.sampled_from(steps))
        if step in ("add", "click"):
            click = data.draw(st.sampled_from(pool))
            if step == "add":
                session.add([click])
                updates = session.updates() if data.draw(st.booleans()) else iter(())
            else:
                updates = session.click(click.index, click.label)
        elif step == "remove":
            session.remove(data.draw(st.sampled_from(session.clicks)))
            updates = session.updates()
        else:
            getattr(session, step)()
            updates = session.updates()
        for update in updates:
            if update.patch is not None:
                shown[update.patch.box.to_slices()] = update.patch.labels
    for update in session.updates():
        if update.patch is not None:
            shown[update.patch.box.to_slices()] = update.patch.labels
    fresh = opened(opening)
    fresh.add(data.draw(st.permutations(session.clicks)))
    expected = mask_of(fresh)
    assert np.array_equal(mask_of(session), expected)
    assert np.array_equal(shown, expected)


@settings(max_examples=30, deadline=None)
@given(opening=openings(), data=st.data())
def test_a_session_is_monais_inferer_run_in_full(opening, data):
    chosen, volume, inference, _ = opening
    session = opened((chosen, volume, inference, CacheSettings()))
    clicks = clicks_in(volume.shape, data, 4)
    for click in clicks:
        list(session.click(click.index, click.label))
    session.undo()

    prepared = Preprocessing(chosen.preprocessing).prepare([volume])
    encoder = build_encoder(chosen.guidance, prepared.geometry.spacing_mm)
    of_labels = [
        [prepared.click_to_network(c.index) for c in clicks[:-1] if c.label == label]
        for label in LABELS
    ]
    guidance = encoder.encode(of_labels, prepared.geometry.shape)
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.cat([prepared.image, guidance])[None],
            inference.window,
            1,
            NETWORK,
            overlap=inference.overlap,
            mode=inference.blending,
        )[0]
    expected = logits[1:] - logits[:1]
    whole = Box.of_shape(prepared.geometry.shape)
    found = session.margins(whole)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    if prepared.geometry.shape == volume.shape and not prepared.regridding.resamples:
        best, label = expected.max(dim=0)
        top = expected.sort(dim=0, descending=True).values
        is_clear = (best.abs() > 1e-3) & ((top[0] - top[1] > 1e-3) | (best < 0))
        oriented = prepared.regridding.orient(mask_of(session))
        wanted = torch.where(best > 0, label + 1, 0).numpy()
        assert np.array_equal(oriented[is_clear.numpy()], wanted[is_clear.numpy()])


@pytest.mark.parametrize(("guidance", "count"), [(DiskGuidance(), 200), (SwFastEditGuidance(), 40)])
def test_nothing_drifts_over_many_clicks(guidance, count):
    rng = np.random.default_rng(1)
    chosen = ModelSettings(
        labels=LABELS,
        channels=("PET",),
        preprocessing=PreprocessingSettings(intensity=(RangeScaling(low=0, high=1),)),
        guidance=guidance,
        network=NetworkSettings(name="dynunet-light"),
        inference=SlidingWindows(window=(16, 16, 16), precision="float32"),
    )
    volume = Volume(rng.random((24, 24, 24), dtype=np.float32), np.eye(4))
    session = opened((chosen, volume, None, None))
    first = mask_of(session)
    indices = {tuple(map(int, rng.integers(0, 24, 3))) for _ in range(count)}
    for index in sorted(indices):
        list(session.click(index, LABELS[int(rng.integers(3))]))
    for _ in range(len(indices)):
        session.undo()
        list(session.updates())
    assert np.array_equal(mask_of(session), first)
