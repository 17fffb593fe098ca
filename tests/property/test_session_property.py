"""Sessions against fresh sessions, and against MONAI running every window again."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from voxclick import Click, InteractiveSession, LabelMap, Volume
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
from voxclick.session import Update
from voxclick.sliding_window import CacheSettings, SlidingWindows
from voxclick.types import Index3

LABELS = ("background", "tumor", "node")
CPU = torch.device("cpu")


def network(channels: int) -> nn.Module:
    """Convolutions and a norm over the whole window: each voxel depends on each."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv3d(channels + len(LABELS), 6, 3, padding=1),
        nn.InstanceNorm3d(6),
        nn.GELU(),
        nn.Conv3d(6, 3, 3, padding=1),
    ).eval()


NETWORKS = {channels: network(channels) for channels in (1, 2)}

guidances = st.sampled_from(
    [
        DiskGuidance(),
        GaussianGuidance(),
        DistanceGuidance(radius=4.0, unit="mm"),
        SwFastEditGuidance(),
    ]
)


@dataclass(frozen=True)
class Opening:
    """All that a session is opened with, and the edge of the blocks that it restores."""

    model: Model
    volumes: tuple[Volume, ...]
    inference: SlidingWindows
    cache: CacheSettings = field(default_factory=CacheSettings)
    radius_mm: float | None = None
    mask: LabelMap | None = None
    skip_air: bool = False
    block: int = 64

    @property
    def shape(self) -> Index3:
        return self.volumes[0].shape

    def session(self) -> InteractiveSession:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = InteractiveSession(
                self.model,
                self.volumes,
                self.inference,
                self.cache,
                radius_mm=self.radius_mm,
                skip_air=self.skip_air,
            )
        if self.mask is not None and self.radius_mm is not None:
            opened.start_from(self.mask, self.radius_mm)
        return opened

    def brought_back(self, session: InteractiveSession) -> InteractiveSession:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.save(Path(folder) / "idle.safetensors")
            return InteractiveSession.load(
                Path(folder) / "idle.safetensors", self.model, self.cache
            )


def settings_of(channels: int, spacing_mm, guidance, overlap: float) -> ModelSettings:
    return ModelSettings(
        labels=LABELS,
        channels=("PET", "CT")[:channels],
        preprocessing=PreprocessingSettings(
            spacing_mm=spacing_mm, intensity=(RangeScaling(low=0, high=1),) * channels
        ),
        guidance=guidance,
        # which takes windows of any size
        network=NetworkSettings(name="dynunet", options={"strides": [1, 1, 1]}),
        inference=SlidingWindows(window=(64, 64, 64), overlap=overlap),
        air_below=0.05,
    )


@st.composite
def affines(draw) -> np.ndarray:
    """Any axis order and direction, thick slices, and now and then a shear."""
    affine = np.diag([*draw(st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 4.0])] * 3)), 1.0])
    affine[:3] *= np.array(draw(st.tuples(*[st.sampled_from([1, -1])] * 3)))[:, None]
    affine[:3, :3] = affine[:3, draw(st.permutations(range(3)))]
    if draw(st.booleans()):
        shear = np.eye(4)
        shear[0, 1], shear[1, 2] = draw(st.tuples(*[st.floats(-0.4, 0.4)] * 2))
        affine = affine @ shear
    return affine


@st.composite
def openings(draw) -> Opening:
    """Model settings, an image, and how results are kept."""
    channels = draw(st.integers(1, 2))
    spacing = draw(st.none() | st.tuples(*[st.sampled_from([1.0, 1.3, 2.0])] * 3))
    overlap = draw(st.sampled_from([0.0, 0.25, 0.5]))
    chosen = settings_of(channels, spacing, draw(guidances), overlap)
    flat = draw(st.none() | st.integers(0, 2))  # the axis of a single slice
    window = draw(st.tuples(*[st.sampled_from([6, 8, 12])] * 3))
    if flat is not None:
        window = (*window[:2], 1)
    inference = SlidingWindows(
        window=window,
        overlap=overlap,
        blending=draw(st.sampled_from(["gaussian", "constant"])),
        window_batch=draw(st.integers(1, 2)),
        precision="float32",
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    # at the coarsest spacing still more than one voxel
    shape = draw(
        st.tuples(*[st.just(1) if axis == flat else st.integers(6, 22) for axis in range(3)])
    )
    affine = draw(affines())
    is_sparse = draw(st.booleans())  # so that there is air
    images = rng.random((channels, *shape), dtype=np.float32)
    images[(rng.random(images.shape) > 0.02) & is_sparse] = 0
    labels = rng.integers(0, 3, shape, np.uint8)
    entry_gib = 2 * np.prod(window) * 4 / 2**30
    return Opening(
        Model(chosen, NETWORKS[channels], CPU),
        tuple(Volume(image, affine) for image in images),
        inference,
        CacheSettings(
            host_gib=draw(st.sampled_from([0, 3, 20, 1000])) * entry_gib,
            dtype=draw(st.sampled_from(["float32", "float16"])),
        ),
        draw(st.sampled_from([None, 3.0, 8.0, 20.0])),
        draw(st.none() | st.just(LabelMap(labels, affine, labels=LABELS))),
        draw(st.booleans()),
        draw(st.sampled_from([3, 5, 8])),
    )


def clicks_in(shape, data, count: int) -> list[Click]:
    indices = st.tuples(*[st.integers(0, n - 1) for n in shape])
    drawn = data.draw(st.lists(indices, max_size=count, min_size=1, unique=True))
    return [Click(index, data.draw(st.sampled_from(LABELS))) for index in drawn]


def mask_of(session: InteractiveSession) -> np.ndarray:
    return session.predict().label_map.voxels


def step_of(session: InteractiveSession, pool: list[Click], data) -> Iterator[Update]:
    """Change the clicks in one way or another; gives what is to be seen of it."""
    ways = ["add", "click", "click"]
    ways += ["undo"] if session.can_undo else []
    ways += ["redo"] if session.can_redo else []
    ways += ["remove", "reset"] if session.clicks else []
    way = data.draw(st.sampled_from(ways))
    if way == "click":
        click = data.draw(st.sampled_from(pool))
        return session.click(click.index, click.label)
    if way == "add":
        session.add(data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3)))
    elif way == "remove":
        session.remove(data.draw(st.sampled_from(session.clicks)))
    else:
        getattr(session, way)()
    return session.updates()


@settings(max_examples=100, deadline=None)
@given(opening=openings(), data=st.data())
def test_any_way_to_a_set_of_clicks_gives_the_mask_of_a_fresh_session(opening: Opening, data):
    """And a viewer that draws every patch it is given, and looks away now and then, shows it."""
    session = opening.session()
    shown = np.full(opening.shape, 99, np.uint8)
    pool = clicks_in(opening.shape, data, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxclick.preprocessing.sampling._BLOCK_VOXELS", opening.block)
        for _ in range(data.draw(st.integers(2, 7))):
            updates = step_of(session, pool, data)
            for update in islice(updates, data.draw(st.integers(0, 2))):
                assert update.windows == 1 or update.kind == "exact"
                draw_into(shown, update)
            if data.draw(st.integers(0, 5)) == 0:
                seen, (last,) = shown.copy(), session.updates()
                draw_into(shown, last)
                session = opening.brought_back(session)
                (anew,) = session.updates()
                draw_into(seen, anew)
                assert np.array_equal(seen, shown)
        for update in session.updates():
            draw_into(shown, update)
        before = opening.session()
        before.add(data.draw(st.lists(st.sampled_from(pool), max_size=2)))
        earlier = mask_of(before)
        before.reset()
        before.add(data.draw(st.permutations(session.clicks)))
        changed = before.predict().changed
        fresh = opening.session()
        fresh.add(data.draw(st.permutations(session.clicks)))
        expected = mask_of(fresh)
        assert np.array_equal(mask_of(session), expected)
    assert np.array_equal(shown, expected)
    assert np.array_equal(mask_of(before), expected)
    assert changed == box_of(earlier != expected)


def draw_into(shown: np.ndarray, update: Update) -> None:
    if update.patch is not None:
        shown[update.patch.box.to_slices()] = update.patch.labels


def box_of(differs: np.ndarray) -> Box | None:
    voxels = np.argwhere(differs)
    return None if len(voxels) == 0 else Box(tuple(voxels.min(0)), tuple(voxels.max(0) + 1))


@settings(max_examples=30, deadline=None)
@given(opening=openings(), data=st.data())
def test_a_session_is_monais_inferer_run_in_full(opening: Opening, data):
    plain = Opening(opening.model, opening.volumes, opening.inference)
    session, chosen, inference = plain.session(), plain.model.settings, plain.inference
    clicks = clicks_in(plain.shape, data, 4)
    for click in clicks:
        list(session.click(click.index, click.label))
    session.undo()

    prepared = Preprocessing(chosen.preprocessing).prepare(plain.volumes)
    encoder = build_encoder(chosen.guidance, prepared.geometry.spacing_mm)
    of_labels = prepared.clicks_to_network(clicks[:-1], LABELS)
    guidance = encoder.encode(of_labels, prepared.geometry.shape)
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.cat([prepared.image, guidance])[None],
            inference.window,
            1,
            plain.model.network,
            overlap=inference.overlap,
            mode=inference.blending,
        )[0]
    expected = logits[1:] - logits[:1]
    whole = Box.of_shape(prepared.geometry.shape)
    found = session.margins(whole)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    if not prepared.regridding.resamples:
        best, label = expected.max(dim=0)
        top = expected.sort(dim=0, descending=True).values
        is_clear = (best.abs() > 1e-3) & ((top[0] - top[1] > 1e-3) | (best < 0))
        oriented = prepared.regridding.orient(mask_of(session))
        wanted = torch.where(best > 0, label + 1, 0).numpy()
        assert np.array_equal(oriented[is_clear.numpy()], wanted[is_clear.numpy()])


@pytest.mark.parametrize(("guidance", "count"), [(DiskGuidance(), 200), (SwFastEditGuidance(), 40)])
def test_nothing_drifts_over_many_clicks(guidance, count):
    rng = np.random.default_rng(1)
    model = Model(settings_of(1, None, guidance, 0.25), NETWORKS[1], CPU)
    volume = Volume(rng.random((24, 24, 24), dtype=np.float32), np.eye(4))
    inference = SlidingWindows(window=(16, 16, 16), precision="float32")
    session = Opening(model, (volume,), inference).session()
    first = mask_of(session)
    indices = {tuple(map(int, rng.integers(0, 24, 3))) for _ in range(count)}
    for index in sorted(indices):
        list(session.click(index, LABELS[int(rng.integers(3))]))
    for _ in range(len(indices)):
        session.undo()
        list(session.updates())
    assert np.array_equal(mask_of(session), first)
