"""An interactive session: one image, one model, and the clicks so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voxclick.clicks import Click, ClickHistory
from voxclick.errors import ClickError, GeometryError, SessionFileError, UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import build_encoder
from voxclick.memory_map import is_large, temporary_map
from voxclick.model_files import Model
from voxclick.preprocessing import LabelPatch, PreparedImage, Preprocessing
from voxclick.session.clicked_image import ClickedImage
from voxclick.session.local_correction import LocalCorrection
from voxclick.session.saved import (
    SavedSession,
    SessionHeader,
    clicks_of,
    read_session,
    saved_clicks,
    write_session,
)
from voxclick.sliding_window import (
    CacheSettings,
    InferenceSettings,
    ProgressCallback,
    WindowsCallback,
)
from voxclick.types import Index3, MarginsTensor, Vector3
from voxclick.volume import LabelMap, Volume, VolumeGeometry

ClickSpace: TypeAlias = Literal["voxel", "ras", "lps"]
"""What the three numbers of a click are: a voxel of the file, or patient mm."""

DEFAULT_RADIUS_MM = 30.0
"""How far from a click a mask that was there already may change: a lesion and its surroundings."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a session answers.

    Attributes:
        label_map: on the image file's own grid; a copy, which later clicks do not change.
        changed: the box of the file that holds all that differs from the answer before; None if
            nothing does.
        windows: how many windows ran through the network.
        seconds: from the clicks to the label map.
    """

    label_map: LabelMap
    changed: Box | None
    windows: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Update:
    """One answer to a click.

    Attributes:
        kind: ``preview`` is quick and near the click alone, ``exact`` is what the session's label
            map holds from now on.
        patch: what is new, in a box of the file; outside it, all is as it was shown before. None
            if nothing is.
        windows: how many windows ran through the network.
        seconds: from the call to this update.
    """

    kind: Literal["preview", "exact"]
    patch: LabelPatch | None
    windows: int
    seconds: float


class InteractiveSession:
    """Segments one image and corrects the result click by click.

    The prediction depends on the image and on the set of clicks alone, to the last bit: not on
    their order, and not on clicks that were taken back. A change of the clicks runs only those
    windows that see it.

    A session belongs to one thread at a time; only `cancel` may be called from another.

    Args:
        model: from `load_model`.
        image: one volume per channel of the model, or the volume itself for one channel; or what
            the model's preprocessing has made of them.
        inference: another way through the network than the one stored with the model.
        cache: how much of the windows' results is kept.
        radius_mm: farther than this from every click the mask is left as it was without clicks;
            None lets a click correct whatever the network makes of it.
        skip_air: let windows without clicks be background unseen where their image is nowhere
            above the model's threshold for air.

    Raises:
        GeometryError: wrong number of channels, or channels on different grids.
        UsageError: ``skip_air`` with a model that has no threshold, or a radius that is not
            positive.
    """

    def __init__(
        self,
        model: Model,
        image: Volume | Sequence[Volume] | PreparedImage,
        inference: InferenceSettings | None = None,
        cache: CacheSettings | None = None,
        *,
        radius_mm: float | None = None,
        skip_air: bool = False,
    ) -> None:
        settings = model.settings
        if radius_mm is not None and not radius_mm > 0:
            raise UsageError(f"radius_mm must be above 0, got {radius_mm}")
        self.model = model
        self._preprocessing = Preprocessing(settings.preprocessing)
        self._folder = cache.folder if cache is not None else None
        self._prepared = image if isinstance(image, PreparedImage) else self._prepare(image)
        self._inference_settings = inference or settings.inference
        self._inference = model.inference(self._prepared.geometry.shape, inference, cache)
        self._read_image = self._reader()
        self._encoder = (
            None
            if settings.guidance is None
            else build_encoder(settings.guidance, self._prepared.geometry.spacing_mm)
        )
        self._skip_air = skip_air
        self._is_air = self._air_test() if skip_air else _nothing_is_air
        self._radius_mm = radius_mm
        self._history = ClickHistory()
        self._shown: _Shown | None = None
        self._unseen: Box | None = None
        self._stops = threading.Event()

    def _prepare(self, image: Volume | Sequence[Volume]) -> PreparedImage:
        volumes = [image] if isinstance(image, Volume) else list(image)
        channels = self.model.settings.channels
        if len(volumes) != len(channels):
            raise GeometryError(
                f"this model takes {len(channels)} image(s) per case ({', '.join(channels)}), "
                f"got {len(volumes)}"
            )
        return self._preprocessing.prepare(volumes, self._folder)

    def _reader(self) -> Callable[[Box], Tensor]:
        """Reads the prepared image; of one that fits, a GPU gets a copy of its own."""
        if self.model.device.type == "cpu" or is_large(self._prepared.voxels.shape):
            return self._prepared.read
        there = self._prepared.image.to(self.model.device)
        return lambda box: there[(slice(None), *box.to_slices())]

    def save(self, path: str | Path) -> None:
        """Put the session to disk: the prepared image, clicks with their history, mask, results.

        `load` brings it back, in this process or another; the model is not part of the file.

        Args:
            path: replaced only when all is written.
        """
        shown = self._shown
        header = SessionHeader(
            model=self.model.fingerprint,
            shape=self.geometry.shape,
            affine=self.geometry.affine.tolist(),
            inference=self._inference_settings,
            radius_mm=self._radius_mm,
            skip_air=self._skip_air,
            clicks=saved_clicks(self._history.clicks),
            earlier=tuple(map(saved_clicks, self._history.earlier)),
            later=tuple(map(saved_clicks, self._history.later)),
            shown=None if shown is None else saved_clicks(shown.clicks),
        )
        local = None if shown is None else shown.local
        saved = SavedSession(
            header,
            self._prepared.voxels,
            None if shown is None else shown.mask,
            None if local is None else local.mask,
            {} if shown is None else self._inference.kept(shown.source),
        )
        write_session(saved, Path(path))

    @staticmethod
    def load(
        path: str | Path, model: Model, cache: CacheSettings | None = None
    ) -> InteractiveSession:
        """Bring a saved session back.

        Args:
            path: what `save` wrote.
            model: the one the session was made with.
            cache: how much of the windows' results is kept.

        Raises:
            SessionFileError: missing, damaged, or made with another model.
        """
        saved = read_session(Path(path))
        header = saved.header
        if header.model != model.fingerprint:
            raise SessionFileError(
                f"{path}: was made with another model; open it with that one, or the image anew"
            )
        source = VolumeGeometry(header.shape, np.array(header.affine))
        prepared = PreparedImage.of_source(saved.image, source, model.settings.preprocessing)
        session = InteractiveSession(
            model,
            prepared,
            header.inference,
            cache,
            radius_mm=header.radius_mm,
            skip_air=header.skip_air,
        )
        session._history = header.history
        if saved.mask is not None and header.shown is not None:
            clicks = clicks_of(header.shown)
            local = None
            if saved.local_mask is not None and header.radius_mm is not None:
                local = LocalCorrection(saved.local_mask, header.radius_mm, source)
            shown = _Shown(saved.mask, session._source(clicks), clicks, local)
            session._shown, session._unseen = shown, Box.of_shape(source.shape)
            session._inference.keep(shown.source, saved.results)
        return session

    @property
    def geometry(self) -> VolumeGeometry:
        """The grid of the image file, which clicks and masks belong to."""
        return self._prepared.source

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks, oldest first."""
        return self._history.clicks

    @property
    def takes_clicks(self) -> bool:
        """False for a model that was trained without clicks."""
        return self._encoder is not None

    @property
    def can_undo(self) -> bool:
        return bool(self._history.earlier)

    @property
    def can_redo(self) -> bool:
        return bool(self._history.later)

    def click(
        self, position: Index3 | Vector3, label: str, space: ClickSpace = "voxel"
    ) -> Iterator[Update]:
        """Add one click and segment again, in two steps.

        The click counts at once; its updates come as they are asked for. First a preview from one
        window around the click, then the exact answer. Whoever stops asking after the preview,
        because the next click has come, loses nothing: the next exact answer has both.

        Args:
            position: voxel (i, j, k) of the image file's own array, or mm.
            label: a label of the model; ``"background"`` where the mask reaches too far.
            space: of the position.

        Raises:
            ClickError: outside the image, unknown label, a voxel clicked for another label, or a
                model that takes no clicks; at once. What fails while updates are made takes the
                click back.
        """
        before = self._history
        click = self._at(position, label, space)
        self.add([click])
        return self._start_updates(click if self._history is not before else None, before)

    def add(self, clicks: Sequence[Click]) -> None:
        """Add clicks, as one change, without segmenting yet.

        A click that is there already changes nothing.

        Raises:
            ClickError: as for `click`; then none of them is added.
        """
        if clicks and self._encoder is None:
            raise ClickError("this model was trained without clicks and takes none")
        for click in clicks:
            click.check(self.geometry, self.model.settings.labels)
        self._history = self._history.add(clicks)

    def remove(self, click: Click) -> None:
        """Take one click back.

        Raises:
            ClickError: there is no such click.
        """
        self._history = self._history.remove(click)

    def undo(self) -> None:
        """Go back to the clicks before the last change.

        Raises:
            ClickError: there is nothing to undo.
        """
        self._history = self._history.undo()

    def redo(self) -> None:
        """Take the last undoing back.

        Raises:
            ClickError: there is nothing to redo.
        """
        self._history = self._history.redo()

    def reset(self) -> None:
        """Take all clicks back, which can be undone."""
        self._history = self._history.reset()

    def start_from(self, mask: LabelMap, radius_mm: float = DEFAULT_RADIUS_MM) -> None:
        """Correct a mask that is there already, instead of the model's own.

        It stands wherever no click is within the radius. Clicks that were there count on.

        Args:
            mask: on the image file's grid, with labels of the model.
            radius_mm: of the balls around the clicks in which the model may change it.

        Raises:
            GeometryError: the mask lies on another grid.
            UsageError: it has labels that the model does not know, or the radius is not positive.
        """
        if not mask.geometry.matches(self.geometry):
            raise GeometryError(
                f"the mask lies on another grid than the image: shape {mask.shape}, expected "
                f"{self.geometry.shape} with the image's affine"
            )
        if not radius_mm > 0:
            raise UsageError(f"radius_mm must be above 0, got {radius_mm}")
        known = len(self.model.settings.labels)
        if mask.voxels.max() >= known:
            raise UsageError(
                f"the mask has the label index {mask.voxels.max()}, but the model's labels are "
                f"{', '.join(self.model.settings.labels)}"
            )
        self._radius_mm = radius_mm
        voxels = np.array(mask.voxels, dtype=np.uint8)
        self._shown = _Shown(
            mask=voxels.copy(),
            source=self._source(()),
            clicks=(),
            local=LocalCorrection(voxels, radius_mm, self.geometry),
        )
        self._unseen = Box.of_shape(self.geometry.shape)

    def updates(self) -> Iterator[Update]:
        """Segment with the clicks as they are now; the exact answer is the only update."""
        return self._start_updates(None, self._history)

    def cancel(self) -> None:
        """Let the updates that are being made end early; another thread may say so.

        They end without an exact answer when the window that is running is done. What has run is
        kept, and nothing of the session is lost.
        """
        self._stops.set()

    def predict(self, on_window: ProgressCallback | None = None) -> Prediction:
        """Segment with the clicks as they are now.

        Args:
            on_window: told after every batch of windows.
        """
        start = time.perf_counter()
        counted = _Count(on_window)
        changed = self._settle(counted)
        return Prediction(self._label_map(), changed, counted.done, time.perf_counter() - start)

    def _label_map(self) -> LabelMap:
        assert self._shown is not None  # every way here has settled
        copy = self._empty_mask()
        copy[:] = self._shown.mask
        return LabelMap(copy, self.geometry.affine, labels=self.model.settings.labels)

    def _empty_mask(self) -> NDArray[np.uint8]:
        shape = self.geometry.shape
        if is_large(shape):
            return temporary_map(shape, np.uint8, self._folder)
        return np.zeros(shape, dtype=np.uint8)

    def margins(self, box: Box, on_windows: WindowsCallback | None = None) -> MarginsTensor:
        """How sure the model is, with the clicks as they are now.

        Args:
            box: of the network's grid.
            on_windows: told the number of windows that have run.

        Returns:
            float32 logits of the foreground labels minus that of the background, (foreground,
            i, j, k) in the box.
        """
        return self._inference.margins(self._source(self.clicks), box, on_windows)

    def _start_updates(self, clicked: Click | None, otherwise: ClickHistory) -> Iterator[Update]:
        self.cancel()  # updates of an earlier click that somebody may still hold
        self._stops = threading.Event()
        return self._updates(clicked, otherwise, self._stops)

    def _updates(
        self, clicked: Click | None, otherwise: ClickHistory, stops: threading.Event
    ) -> Iterator[Update]:
        """Preview where something was clicked, and settle; a failure puts ``otherwise`` back."""
        start = time.perf_counter()
        try:
            if clicked is not None:
                counted = _Count(stops=stops)
                patch = self._preview(clicked, counted)
                self._unseen = Box.union((self._unseen, patch.box))
                yield Update("preview", patch, counted.done, time.perf_counter() - start)
            counted = _Count(stops=stops)
            box = self._settle(counted)
        except _CancelledError:
            return
        except Exception:
            self._history = otherwise
            raise
        patch = None if box is None else self._patch(box)
        yield Update("exact", patch, counted.done, time.perf_counter() - start)

    def _patch(self, box: Box) -> LabelPatch:
        assert self._shown is not None
        return LabelPatch(box, self._shown.mask[box.to_slices()].copy())

    def _preview(self, click: Click, on_windows: WindowsCallback) -> LabelPatch:
        centre = self._prepared.click_to_network(click.index)
        before = self._shown.source if self._shown is not None else None
        source = self._source(self.clicks)
        box, margins = self._inference.preview(source, centre, before, on_windows)
        patch = _joined(list(self._preprocessing.restore_inside(margins, box, self._prepared)))
        local = self._shown.local if self._shown is not None else None
        return patch if local is None else local.apply(patch, self.clicks)

    def _settle(self, counted: _Count) -> Box | None:
        """Bring what is shown up to date with the clicks.

        Nothing is changed before all is known.

        Returns:
            The box of what is new to the viewer.
        """
        if self._shown is None:
            self._shown = self._first(counted)
            self._unseen = Box.of_shape(self.geometry.shape)
        shown, source = self._shown, self._source(self.clicks)
        patches = list(self._restore(source, self._regions(shown, source), counted))
        if shown.local is not None:
            patches = [shown.local.apply(patch, self.clicks) for patch in patches]
        changed = Box.union(_difference(shown.mask, patch) for patch in patches)
        for patch in patches:
            shown.mask[patch.box.to_slices()] = patch.labels
        self._shown = replace(shown, source=source, clicks=self.clicks)
        unseen, self._unseen = self._unseen, None
        return Box.union((unseen, changed))

    def _first(self, counted: _Count) -> _Shown:
        """The whole mask; without clicks if it is to stand where no click is near."""
        clicks = self.clicks if self._radius_mm is None else ()
        source = self._source(clicks)
        mask = self._empty_mask()
        for patch in self._restore(source, None, counted):
            mask[patch.box.to_slices()] = patch.labels
        local = None
        if self._radius_mm is not None:
            local = LocalCorrection(mask.copy(), self._radius_mm, self.geometry)
        return _Shown(mask, source, clicks, local)

    def _regions(self, shown: _Shown, source: ClickedImage) -> list[Box]:
        """Boxes of the network's grid outside which the clicks make no difference."""
        shape = self._prepared.geometry.shape
        windows = self._inference.changed(shown.source, source)
        changed = [self._inference.grid.boxes[number].clip(shape) for number in windows]
        if shown.local is None:
            return changed
        old, new = set(shown.clicks), set(self.clicks)
        near = {c: self._prepared.box_to_network(shown.local.ball_box(c)) for c in old | new}
        appeared_or_gone = [near[click] for click in old ^ new]
        return appeared_or_gone + [a.intersect(near[click]) for a in changed for click in new]

    def _restore(
        self, source: ClickedImage, regions: Sequence[Box] | None, counted: _Count
    ) -> Iterator[LabelPatch]:
        """The labels of what depends on some boxes of the network's grid; None for everything."""
        grid = self._inference.grid
        boxes = [Box.of_shape(grid.shape)] if regions is None else regions
        windows = sorted({number for box in boxes for number in grid.touching(box)})
        counted.expect(sum(1 for _ in self._inference.missing(source, windows)))
        self._inference.prefer(source)
        self._inference.run(source, windows, counted)

        def read(box: Box) -> MarginsTensor:
            return self._inference.margins(source, box, counted)

        return self._preprocessing.restore(read, self._prepared, regions)

    def _source(self, clicks: Sequence[Click]) -> ClickedImage:
        """The image with clicks, in the network's grid."""
        of_labels = [
            [self._prepared.click_to_network(c.index) for c in clicks if c.label == label]
            for label in self.model.settings.labels
        ]
        shape = self._prepared.geometry.shape
        return ClickedImage(self._read_image, shape, self._encoder, of_labels, self._is_air)

    def _at(self, position: Index3 | Vector3, label: str, space: ClickSpace) -> Click:
        x, y, z = position
        if space == "ras":
            return Click.at_ras_mm((x, y, z), label, self.geometry)
        if space == "lps":
            return Click.at_lps_mm((x, y, z), label, self.geometry)
        if not all(float(number).is_integer() for number in position):
            raise ClickError(f"a voxel has whole numbers, got {tuple(position)}; or say the space")
        return Click((int(x), int(y), int(z)), label)

    def _air_test(self) -> Callable[[Box], bool]:
        threshold = self.model.settings.air_below
        if threshold is None:
            raise UsageError(
                "this model has no threshold for air (air_below), so no window can be skipped; "
                "open the session without skip_air"
            )
        prepared = self._prepared

        @cache
        def is_air(window: Box) -> bool:
            return bool((prepared.read(window.clip(prepared.geometry.shape)) < threshold).all())

        return is_air


@dataclass(frozen=True, eq=False)
class _Shown:
    """What the session shows: the mask, and what it was made from."""

    mask: NDArray[np.uint8]
    source: ClickedImage
    clicks: tuple[Click, ...]
    local: LocalCorrection | None


class _CancelledError(Exception):
    pass


class _Count:
    """Counts windows for the one who waits, and stops the work when told to."""

    def __init__(
        self, on_window: ProgressCallback | None = None, stops: threading.Event | None = None
    ) -> None:
        self.done = 0
        self._expected = 0
        self._on_window = on_window
        self._stops = stops

    def expect(self, windows: int) -> None:
        self._expected += windows

    def __call__(self, windows: int) -> None:
        self.done += windows
        if self._on_window is not None:
            self._on_window(self.done, max(self.done, self._expected))
        if self._stops is not None and self._stops.is_set():
            raise _CancelledError


def _nothing_is_air(window: Box) -> bool:
    return False


def _difference(mask: NDArray[np.uint8], patch: LabelPatch) -> Box | None:
    """The smallest box of the file in which a patch differs from the mask."""
    differs = mask[patch.box.to_slices()] != patch.labels
    spans = []
    for axis in range(3):
        places = np.flatnonzero(differs.any(axis=tuple({0, 1, 2} - {axis})))
        if len(places) == 0:
            return None
        spans.append((int(places[0]), int(places[-1]) + 1))
    (i, m), (j, n), (k, o) = spans
    a, b, c = patch.box.start
    return Box((a + i, b + j, c + k), (a + m, b + n, c + o))


def _joined(patches: Sequence[LabelPatch]) -> LabelPatch:
    """Patches that fill one box as one patch."""
    box = Box.union(patch.box for patch in patches)
    assert box is not None  # no patch is empty
    labels = np.zeros(box.shape, dtype=np.uint8)
    for patch in patches:
        labels[patch.box.relative_to(box.start).to_slices()] = patch.labels
    return LabelPatch(box, labels)
