"""The mask of an image for a set of clicks, brought up to date where they change it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from voxclick.clicks import Click
from voxclick.errors import GeometryError, UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import build_encoder
from voxclick.memory_map import is_large, is_mapped, temporary_map
from voxclick.model_files import Model
from voxclick.preprocessing import (
    LabelPatch,
    PreparedImage,
    ReadMargins,
    restore_labels,
    restore_labels_inside,
)
from voxclick.session.clicked_image import ClickedImage
from voxclick.session.local_correction import LocalCorrection
from voxclick.session.uncertainty import (
    Survey,
    UncertaintyMap,
    map_uncertainty,
    spoken_for,
    survey,
)
from voxclick.sliding_window import (
    CacheSettings,
    InferenceSettings,
    ProgressCallback,
    VolumeInference,
    WindowsCallback,
)
from voxclick.types import MarginsTensor
from voxclick.volume import LabelMap, VolumeGeometry


class CancelledError(Exception):
    """Somebody else has ended the work."""


class WindowCount:
    """Counts windows for the one who waits, and stops the work when told to."""

    def __init__(
        self, on_window: ProgressCallback | None = None, stops: threading.Event | None = None
    ) -> None:
        self.done = 0
        self._expected = 0
        self._on_window = on_window
        self._stops = stops

    def expect(self, windows: int) -> None:
        """So many more are to come."""
        self._expected += windows

    def __call__(self, windows: int) -> None:
        """So many have run.

        Raises:
            CancelledError: the work is to end.
        """
        self.done += windows
        if self._on_window is not None:
            self._on_window(self.done, max(self.done, self._expected))
        self.go_on()

    def go_on(self) -> None:
        """Ask whether to.

        Raises:
            CancelledError: the work is to end.
        """
        if self._stops is not None and self._stops.is_set():
            raise CancelledError


@dataclass(frozen=True, eq=False)
class Shown:
    """A mask and what it was made from.

    Attributes:
        mask: uint8 label indices in the image file's axis order.
        clicks: that it was made with.
        source: image and clicks, in the network's grid.
        local: what stands away from the clicks; None where they may change everything.
        computed_by: how the results behind it were rounded.
    """

    mask: NDArray[np.uint8]
    clicks: tuple[Click, ...]
    source: ClickedImage
    local: LocalCorrection | None
    computed_by: str


class Segmentation:
    """The mask of one image, and how clicks change it.

    Args:
        model: which answers.
        prepared: the image, as the model's preprocessing has made it.
        inference: way through the network.
        cache: how much of the windows' results is kept.
        radius_mm: how far from a click the mask may change; None for no limit.
        skip_air: whether windows of air are passed over.

    Attributes:
        shown: the mask as it is; None before the first one.
    """

    def __init__(
        self,
        model: Model,
        prepared: PreparedImage,
        inference: InferenceSettings,
        cache: CacheSettings,
        radius_mm: float | None,
        skip_air: bool,
    ) -> None:
        _check_radius(radius_mm)
        guidance = model.settings.guidance
        spacing_mm = prepared.geometry.spacing_mm
        self.inference: VolumeInference = model.inference(prepared.geometry.shape, inference, cache)
        self.prepared = prepared
        self.radius_mm = radius_mm
        self.shown: Shown | None = None
        self._unseen: Box | None = None
        self._labels = model.settings.labels
        self._encoder = None if guidance is None else build_encoder(guidance, spacing_mm)
        self._folder: Path | None = cache.folder
        copied = _goes_to_gpu(model, prepared)
        self._copied_bytes = prepared.voxels.nbytes if copied else 0
        self._read_image = _image_reader(model, prepared)
        self._is_air = _air_test(model, prepared) if skip_air else _nothing_is_air

    @property
    def geometry(self) -> VolumeGeometry:
        """The grid of the image file."""
        return self.prepared.source

    @property
    def memory_bytes(self) -> int:
        """Of the prepared image, the masks and the results that are kept, as far as in memory."""
        arrays: list[NDArray[np.generic]] = [self.prepared.voxels]
        if self.shown is not None:
            arrays.append(self.shown.mask)
            arrays += [] if self.shown.local is None else [self.shown.local.mask]
        in_memory = sum(array.nbytes for array in arrays if not is_mapped(array))
        return in_memory + self._copied_bytes + self.inference.memory_bytes

    @property
    def has_previews(self) -> bool:
        """Whether an exact answer may take more than the one window of a preview.

        Where corrections are local, what stands away from the click must be known before.
        """
        is_known = self.radius_mm is None or self.shown is not None
        return is_known and len(self.inference.grid.boxes) > 1

    def start_from(self, mask: LabelMap, radius_mm: float) -> None:
        """Let a mask stand wherever no click is within the radius.

        Raises:
            GeometryError: it lies on another grid than the image.
            UsageError: it has labels that the model does not know, or the radius is not finite and
                positive.
        """
        if not mask.geometry.matches(self.geometry):
            raise GeometryError(
                f"the mask lies on another grid than the image: shape {mask.shape}, expected "
                f"{self.geometry.shape} with the image's affine"
            )
        _check_radius(radius_mm)
        if mask.voxels.max() >= len(self._labels):
            raise UsageError(
                f"the mask has the label index {mask.voxels.max()}, but the model's labels are "
                f"{', '.join(self._labels)}"
            )
        self.radius_mm = radius_mm
        self.show(self._copy(mask.voxels), (), self._copy(mask.voxels))

    def show(
        self,
        mask: NDArray[np.uint8],
        clicks: tuple[Click, ...],
        local_mask: NDArray[np.uint8] | None,
    ) -> None:
        """Take a mask as made with these clicks.

        Args:
            mask: uint8 label indices in the image file's axis order; later clicks change it.
            clicks: that it was made with.
            local_mask: what stands away from clicks, where `radius_mm` limits them.
        """
        local = None
        if local_mask is not None and self.radius_mm is not None:
            local = LocalCorrection(local_mask, self.radius_mm, self.geometry)
        self.shown = Shown(mask, clicks, self._source(clicks), local, self.inference.computed_by)
        self._unseen = Box.of_shape(self.geometry.shape)

    def update(self, clicks: tuple[Click, ...], counted: WindowCount) -> Box | None:
        """Bring the mask up to date with a set of clicks.

        Nothing is changed before all is known, or if the work is to end by then.

        Returns:
            The smallest box of the file that holds all that differs from what was shown before,
            in previews too; None if nothing does.
        """
        if self.shown is None:
            self._make_first(clicks, counted)
            assert self.shown is not None
        shown, source = self.shown, self._source(clicks)
        computed_by = shown.computed_by
        patches = list(self._restore(source, self._regions(shown, source, clicks), counted))
        while computed_by != self.inference.computed_by:
            # batches got smaller on a full GPU: all that stands was rounded otherwise
            computed_by = self.inference.computed_by
            patches = list(self._restore(source, None, counted))
        if shown.local is not None:
            # around clicks that are gone, what stands there needs no window
            gone = [shown.local.ball_box(click) for click in shown.clicks if click not in clicks]
            patches = [*map(self.patch, gone), *patches]
            patches = [shown.local.apply(patch, clicks) for patch in patches]
        counted.go_on()
        changed = Box.union(_difference(shown.mask, patch) for patch in patches)
        for patch in patches:
            shown.mask[patch.box.to_slices()] = patch.labels
        self.shown = replace(shown, source=source, clicks=clicks, computed_by=computed_by)
        unseen, self._unseen = self._unseen, None
        return Box.union((unseen, changed))

    def preview(self, click: Click, clicks: Sequence[Click], counted: WindowCount) -> LabelPatch:
        """What one window around a click makes of all clicks.

        Where corrections are local, in the ball around the click alone.
        """
        source, shown = self._source(clicks), self.shown
        local = None if shown is None else shown.local
        before = None if shown is None or local is not None else shown.source
        centre = self.prepared.click_to_network(click.index)
        box, margins = self.inference.preview(source, centre, before, counted)
        if local is not None:
            near = box.intersect(self.prepared.box_to_network(local.ball_box(click)))
            box, margins = near, margins[(..., *near.relative_to(box.start).to_slices())]
        mask = np.broadcast_to(np.uint8(0), self.geometry.shape) if shown is None else shown.mask
        patch = restore_labels_inside(margins, box, self.prepared.regridding, mask)
        if local is not None:
            patch = local.apply(patch, clicks)
        self._unseen = Box.union((self._unseen, patch.box))
        return patch

    def margins(
        self, clicks: Sequence[Click], box: Box, on_windows: WindowsCallback | None
    ) -> MarginsTensor:
        """The model's margins with some clicks, in a box of the network's grid."""
        return self.inference.margins(self._source(clicks), box, on_windows)

    def map_uncertainty(self, clicks: Sequence[Click], counted: WindowCount) -> UncertaintyMap:
        """How sure the model is of every voxel of the network's grid."""
        read = self._reader(self._source(clicks), None, counted)
        return map_uncertainty(read, self.prepared.geometry, len(self._labels) - 1)

    def survey(self, clicks: Sequence[Click], count: int, counted: WindowCount) -> Survey:
        """Places to click next, at most so many, and what belongs to them."""
        read = self._reader(self._source(clicks), None, counted)
        encoder = self._encoder
        spoken = () if encoder is None else spoken_for(clicks, self.prepared, encoder)
        return survey(read, self.prepared, self._labels, spoken, count)

    def patch(self, box: Box) -> LabelPatch:
        """A copy of the mask in a box of the file."""
        assert self.shown is not None  # asked for by whoever has updated
        return LabelPatch(box, self.shown.mask[box.to_slices()].copy())

    def label_map(self) -> LabelMap:
        """A copy of the mask."""
        assert self.shown is not None
        return LabelMap(self._copy(self.shown.mask), self.geometry.affine, labels=self._labels)

    def _make_first(self, clicks: tuple[Click, ...], counted: WindowCount) -> None:
        """The whole mask; without clicks if it is to stand where no click is near."""
        if self.radius_mm is not None:
            clicks = ()
        mask = self._empty_mask()
        computed_by = None
        while computed_by != self.inference.computed_by:  # again, where batches got smaller
            computed_by = self.inference.computed_by
            for patch in self._restore(self._source(clicks), None, counted):
                mask[patch.box.to_slices()] = patch.labels
        self.show(mask, clicks, None if self.radius_mm is None else self._copy(mask))

    def _regions(self, shown: Shown, source: ClickedImage, clicks: Sequence[Click]) -> list[Box]:
        """Boxes of the network's grid outside which the clicks make no difference."""
        shape = self.prepared.geometry.shape
        windows = self.inference.changed(shown.source, source)
        changed = [self.inference.grid.boxes[number].clip(shape) for number in windows]
        if shown.local is None:
            return changed
        near = {c: self.prepared.box_to_network(shown.local.ball_box(c)) for c in clicks}
        appeared = [box for click, box in near.items() if click not in shown.clicks]
        return appeared + [a.intersect(b) for a in changed for b in near.values()]

    def _restore(
        self, source: ClickedImage, regions: Sequence[Box] | None, counted: WindowCount
    ) -> Iterator[LabelPatch]:
        """The labels of what depends on some boxes of the network's grid; None for everything."""
        read = self._reader(source, regions, counted)
        return restore_labels(read, self.prepared.regridding, regions)

    def _reader(
        self, source: ClickedImage, regions: Sequence[Box] | None, counted: WindowCount
    ) -> ReadMargins:
        """Run what is missing for some boxes of the network's grid, and read margins in them."""
        grid = self.inference.grid
        boxes = [Box.of_shape(grid.shape)] if regions is None else regions
        windows = sorted({number for box in boxes for number in grid.touching(box)})
        counted.expect(sum(1 for _ in self.inference.missing(source, windows)))
        self.inference.prefer(source)
        self.inference.run(source, windows, counted)

        def read(box: Box) -> MarginsTensor:
            return self.inference.margins(source, box, counted)

        return read

    def _source(self, clicks: Sequence[Click]) -> ClickedImage:
        of_labels = self.prepared.clicks_to_network(clicks, self._labels)
        shape = self.prepared.geometry.shape
        return ClickedImage(self._read_image, shape, self._encoder, of_labels, self._is_air)

    def _copy(self, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
        copy = self._empty_mask()
        copy[:] = mask
        return copy

    def _empty_mask(self) -> NDArray[np.uint8]:
        shape = self.geometry.shape
        if is_large(shape):
            return temporary_map(shape, np.uint8, self._folder)
        return np.zeros(shape, dtype=np.uint8)


def _check_radius(radius_mm: float | None) -> None:
    if radius_mm is not None and not 0 < radius_mm < math.inf:
        raise UsageError(f"radius_mm must be finite and above 0, got {radius_mm}")


def _image_reader(model: Model, prepared: PreparedImage) -> Callable[[Box], Tensor]:
    """Reads the prepared image; of one that fits, a GPU gets a copy of its own."""
    if not _goes_to_gpu(model, prepared):
        return prepared.read
    there = prepared.image.to(model.device)
    return lambda box: there[(slice(None), *box.to_slices())]


def _goes_to_gpu(model: Model, prepared: PreparedImage) -> bool:
    return model.device.type != "cpu" and not is_large(prepared.voxels.shape)


def _air_test(model: Model, prepared: PreparedImage) -> Callable[[Box], bool]:
    threshold = model.settings.air_below
    if threshold is None:
        raise UsageError(
            "this model has no threshold for air (air_below), so no window can be skipped; "
            "do without skip_air"
        )

    @cache
    def is_air(window: Box) -> bool:
        return bool((prepared.read(window.clip(prepared.geometry.shape)) < threshold).all())

    return is_air


def _nothing_is_air(window: Box) -> bool:
    return False


def _difference(mask: NDArray[np.uint8], patch: LabelPatch) -> Box | None:
    """The smallest box of the file in which a patch differs from the mask."""
    differing = Box.holding(mask[patch.box.to_slices()] != patch.labels)
    return None if differing is None else differing.moved(patch.box.start)
