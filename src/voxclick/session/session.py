"""An interactive session: one image, one model, and the clicks so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from voxclick.clicks import Click, ClickHistory, ClickSpace
from voxclick.errors import ClickError, GeometryError, SessionFileError, UsageError
from voxclick.geometry.box import Box
from voxclick.model_files import Model
from voxclick.preprocessing import LabelPatch, PreparedImage, Preprocessing, check_slices
from voxclick.session.saved import (
    SavedSession,
    SessionHeader,
    clicks_of,
    read_session,
    saved_clicks,
    write_session,
)
from voxclick.session.segmentation import CancelledError, Segmentation, WindowCount
from voxclick.session.uncertainty import Proposal, Survey
from voxclick.sliding_window import (
    CacheSettings,
    InferenceSettings,
    ProgressCallback,
    WindowsCallback,
)
from voxclick.types import Index3, MarginsTensor, Vector3
from voxclick.volume import LabelMap, Volume, VolumeGeometry

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

    What the network does not see, outside of `OnePass.centre_crop`, is background. A click there
    counts, but makes nothing else of it: only what its guidance reaches inside may change, and
    with a radius, its ball becomes background.

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
        UnsupportedImageError: a single slice, for a network that looks at several together.
        UsageError: windows that the network does not take, ``skip_air`` with a model that has no
            threshold, or a radius that is not finite and positive.
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
        cache = cache or CacheSettings()
        self.model = model
        self._inference = inference or model.settings.inference
        model.check_inference(self._inference)
        self._skip_air = skip_air
        self._started_from_mask = False
        self._segmentation = Segmentation(
            model,
            image if isinstance(image, PreparedImage) else _prepare(image, model, cache),
            self._inference,
            cache,
            radius_mm,
            skip_air,
        )
        window = self._segmentation.inference.grid.window
        check_slices(self._segmentation.prepared.geometry.shape, window, _name_of(image))
        self._history = ClickHistory()
        self._settled = self._history
        self._stops = threading.Event()

    @property
    def geometry(self) -> VolumeGeometry:
        """The grid of the image file, which clicks and masks belong to."""
        return self._segmentation.geometry

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks, oldest first."""
        return self._history.clicks

    @property
    def takes_clicks(self) -> bool:
        """False for a model that was trained without clicks."""
        return self.model.settings.guidance is not None

    @property
    def memory_bytes(self) -> int:
        """Of main memory and of the GPU's, beyond the model; what lies in files does not count."""
        return self._segmentation.memory_bytes

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
        window around the click, then the exact answer; the exact answer alone where one window
        holds the whole volume. Whoever stops asking after the preview, because the next click has
        come, loses nothing: the next exact answer has both.

        Args:
            position: voxel (i, j, k) of the image file's own array, or mm.
            label: a label of the model; ``"background"`` where the mask reaches too far.
            space: of the position.

        Raises:
            ClickError: outside the image, unknown label, a voxel clicked for another label, or a
                model that takes no clicks; at once. What fails while updates are made takes the
                click back, unless the clicks have changed since.
            UsageError: there is no such space.
        """
        before = self._history
        click = Click.at(position, label, space, self.geometry)
        self.add([click])
        if self._history is before:
            return self.updates()
        return self._start_updates(click, before)

    def add(self, clicks: Sequence[Click]) -> None:
        """Add clicks, as one change, without segmenting yet.

        A click that is there already changes nothing. What fails when they are segmented takes
        them back; see `predict`.

        Raises:
            ClickError: as for `click`; then none of them is added.
        """
        self._check(clicks)
        self._history = self._history.add(clicks)

    def set_clicks(self, clicks: Sequence[Click]) -> None:
        """Let these be all the clicks there are, as one change, without segmenting yet.

        For clients that tell all of their clicks each time.

        Raises:
            ClickError: as for `click`; then the clicks stay as they were.
        """
        self._check(clicks)
        self._history = self._history.set_to(clicks)

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
            UsageError: it has labels that the model does not know, or the radius is not finite and
                positive.
        """
        self._segmentation.start_from(mask, radius_mm)
        self._started_from_mask = True

    def updates(self) -> Iterator[Update]:
        """Segment with the clicks as they are now; the exact answer is the only update.

        A failure goes back to earlier clicks as that of `predict` does, unless the clicks have
        changed since this call.
        """
        return self._start_updates(None, self._settled)

    def cancel(self) -> None:
        """Let the updates that are being made end early; another thread may say so.

        They end without an exact answer when the window that is running is done. What has run is
        kept, and nothing of the session is lost.
        """
        self._stops.set()

    def predict(self, on_window: ProgressCallback | None = None) -> Prediction:
        """Segment with the clicks as they are now.

        Whatever fails, `on_window` too, leaves the mask as it was, and the clicks as they were,
        with what can be undone and redone, when they were last segmented: added clicks are gone,
        those taken back are there again. Before the first answer that is how the session began.

        Args:
            on_window: told after every batch of windows.
        """
        start = time.perf_counter()
        counted = WindowCount(on_window)
        with self._going_back(self._history, self._settled):
            changed = self._settle(counted)
        return Prediction(
            self._segmentation.label_map(), changed, counted.done, time.perf_counter() - start
        )

    def proposals(
        self, count: int = 5, on_window: ProgressCallback | None = None
    ) -> tuple[Proposal, ...]:
        """Where a click is worth most: the most uncertain places, the foremost first.

        They come from the model's own probabilities with the clicks as they are now, whatever mask
        the session started from and however near to the clicks it may correct. What the guidance
        of a click reaches is not proposed: the user has spoken there. The same clicks give the
        same proposals. Nothing is settled: what the session shows stays as it is.

        Args:
            count: at most so many; fewer when there are fewer.
            on_window: told after every batch of windows, of which only those run that are missing.

        Raises:
            UsageError: a negative count.
        """
        return self.survey(count, on_window).proposals

    def uncertainty(self, on_window: ProgressCallback | None = None) -> float:
        """One figure to rank volumes by, from 0 to below 1; see `UncertaintyMap.uncertainty`.

        As for `proposals`, the model's own, and nothing is settled.
        """
        return self._segmentation.map_uncertainty(self.clicks, WindowCount(on_window)).uncertainty

    def survey(self, count: int = 5, on_window: ProgressCallback | None = None) -> Survey:
        """`proposals`, `uncertainty`, and what belongs to them, from one look at the volume.

        Raises:
            UsageError: a negative count.
        """
        if count < 0:
            raise UsageError(f"the count of proposals must be 0 or more, got {count}")
        return self._segmentation.survey(self.clicks, count, WindowCount(on_window))

    def margins(self, box: Box, on_windows: WindowsCallback | None = None) -> MarginsTensor:
        """How sure the model is, with the clicks as they are now.

        Args:
            box: of the network's grid.
            on_windows: told the number of windows that have run.

        Returns:
            float32 logits of the foreground labels minus that of the background, (foreground,
            i, j, k) in the box.
        """
        return self._segmentation.margins(self.clicks, box, on_windows)

    def save(self, path: str | Path) -> None:
        """Put the session to disk: the prepared image, clicks with their history, mask, results.

        `load` brings it back, in this process or another; the model is not part of the file.

        Args:
            path: replaced only when all is written.
        """
        segmentation, shown = self._segmentation, self._segmentation.shown
        header = SessionHeader(
            model=self.model.fingerprint,
            computed_by=segmentation.inference.computed_by,
            shape=self.geometry.shape,
            affine=self.geometry.affine.tolist(),
            inference=self._inference,
            radius_mm=segmentation.radius_mm,
            started_from_mask=self._started_from_mask,
            skip_air=self._skip_air,
            clicks=saved_clicks(self._history.clicks),
            earlier=tuple(map(saved_clicks, self._history.earlier)),
            later=tuple(map(saved_clicks, self._history.later)),
            shown=None if shown is None else saved_clicks(shown.clicks),
        )
        image = segmentation.prepared.voxels
        saved = SavedSession(header, image)
        if shown is not None:
            local_mask = None if shown.local is None else shown.local.mask
            results = segmentation.inference.kept(shown.source)
            saved = SavedSession(header, image, shown.mask, local_mask, results)
        write_session(saved, Path(path))

    @staticmethod
    def load(
        path: str | Path, model: Model, cache: CacheSettings | None = None
    ) -> InteractiveSession:
        """Bring a saved session back.

        On another kind of device, with another backend, precision or dtype of the cache,
        everything is computed anew: results that were rounded otherwise must not mix. Clicks stay,
        and so does a mask that was given to `start_from`.

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
        session = InteractiveSession(
            model,
            _prepared_before(saved, model, path),
            header.inference,
            cache,
            radius_mm=header.radius_mm,
            skip_air=header.skip_air,
        )
        session._history = session._settled = header.history
        session._started_from_mask = header.started_from_mask
        segmentation = session._segmentation
        labels, inference = model.settings.labels, segmentation.inference
        if not saved.fits(len(model.settings.channels), len(labels) - 1, inference.grid):
            raise SessionFileError(f"{path}: a damaged session file (its arrays do not fit)")
        if header.computed_by != inference.computed_by:
            if header.started_from_mask and saved.local_mask is not None:
                segmentation.show(saved.local_mask.copy(), (), saved.local_mask)
        elif saved.mask is not None and header.shown is not None:
            segmentation.show(saved.mask, clicks_of(header.shown), saved.local_mask)
            assert segmentation.shown is not None
            inference.keep(segmentation.shown.source, saved.results)
        return session

    def _check(self, clicks: Sequence[Click]) -> None:
        if clicks and not self.takes_clicks:
            raise ClickError("this model was trained without clicks and takes none")
        for click in clicks:
            click.check(self.geometry, self.model.settings.labels)

    def _start_updates(self, clicked: Click | None, otherwise: ClickHistory) -> Iterator[Update]:
        self.cancel()  # updates of an earlier click that somebody may still hold
        self._stops = threading.Event()
        return self._updates(clicked, self._history, otherwise, self._stops)

    def _updates(
        self,
        clicked: Click | None,
        history: ClickHistory,
        otherwise: ClickHistory,
        stops: threading.Event,
    ) -> Iterator[Update]:
        """Preview where something was clicked, and settle."""
        start = time.perf_counter()
        counted = WindowCount(stops=stops)
        try:
            with self._going_back(history, otherwise):
                counted.go_on()
                if clicked is not None and self._segmentation.has_previews:
                    preview = self._segmentation.preview(clicked, self.clicks, counted)
                    yield Update("preview", preview, counted.done, time.perf_counter() - start)
                    counted = WindowCount(stops=stops)
                box = self._settle(counted)
        except CancelledError:
            return
        patch = None if box is None else self._segmentation.patch(box)
        yield Update("exact", patch, counted.done, time.perf_counter() - start)

    def _settle(self, counted: WindowCount) -> Box | None:
        history = self._history
        changed = self._segmentation.update(history.clicks, counted)
        self._settled = history
        return changed

    @contextmanager
    def _going_back(self, history: ClickHistory, otherwise: ClickHistory) -> Iterator[None]:
        """A failure of work on some clicks goes back to others, unless they have changed since."""
        try:
            yield
        except CancelledError:
            raise
        except Exception:
            if self._history == history:
                self._history = otherwise
            raise


def _prepared_before(saved: SavedSession, model: Model, path: str | Path) -> PreparedImage:
    """The prepared image of a saved session."""
    try:
        source = VolumeGeometry(saved.header.shape, np.array(saved.header.affine))
        return PreparedImage.of_source(saved.image, source, model.settings.preprocessing)
    except GeometryError as error:
        raise SessionFileError(f"{path}: a damaged session file ({error})") from error


def _name_of(image: Volume | Sequence[Volume] | PreparedImage) -> str:
    volumes = [image] if isinstance(image, Volume | PreparedImage) else image
    path = None if isinstance(volumes[0], PreparedImage) else volumes[0].path
    return "the image" if path is None else str(path)


def _prepare(image: Volume | Sequence[Volume], model: Model, cache: CacheSettings) -> PreparedImage:
    volumes = [image] if isinstance(image, Volume) else list(image)
    channels = model.settings.channels
    if len(volumes) != len(channels):
        raise GeometryError(
            f"this model takes {len(channels)} image(s) per case ({', '.join(channels)}), got "
            f"{len(volumes)}"
        )
    return Preprocessing(model.settings.preprocessing).prepare(volumes, cache.folder)
