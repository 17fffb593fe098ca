"""A click: ours, which runs the windows that it touches, and MONAI's inferer, which runs all.

MONAI Label and SW-FastEdit answer a click by running `monai.inferers.SlidingWindowInferer` over
the whole volume. Both sides get the same network, the same weights, the same windows and blending
and the same clicks, in turn, in one process, and both go from the click to a label map. MONAI's
network is laid out as MONAI builds it, ours as `load_model` lays it out.

A session answers a click twice, first with a preview. What a user waits for is measured from the
click: until the preview, and until the exact answer, which comes after it. The exact update by
itself, which is all there is to wait for where no preview is asked for, is given beside them.

On a CPU, instance norms amplify what the two layouts round differently where a window is constant
(air): with such a network the logits of both sides differ by more than a click's reuse could make
them. `same_layout` gives MONAI our layout.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import SlidingWindowInferer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from voxclick.bench.memory import peak_bytes, reset_peak
from voxclick.clicks import BACKGROUND, Click
from voxclick.errors import UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import DiskGuidance, GuidanceEncoder, GuidanceSettings, build_encoder
from voxclick.hardware import device_name
from voxclick.model_files import Model, ModelSettings, load_model
from voxclick.networks import NetworkSettings, lay_out_for
from voxclick.phantoms import PhantomSettings, make_phantom
from voxclick.preprocessing import (
    PreparedImage,
    Preprocessing,
    PreprocessingSettings,
    RangeScaling,
    restore_labels,
)
from voxclick.session import InteractiveSession
from voxclick.sliding_window import CacheSettings, SlidingWindows
from voxclick.sliding_window.precision import Precision, resolve_precision
from voxclick.types import Index3, MarginsTensor
from voxclick.volume import Volume
from voxclick.weights import PHANTOM_PET

_SLAB_VOXELS = 32
"""Of the volume's first axis, whose margins are compared at once."""

StepCallback = Callable[[str], None]
"""Told what is being measured next."""


class ClickBenchSettings(BaseModel):
    """Attributes:
    clicks: one after another, a step each.
    full_runs: of MONAI's inferer, with the first clicks; one without clicks comes before them.
    precision: of both networks.
    seed: of the positions of the clicks.
    cache: how much ours keeps of the windows' results.
    same_layout: whether MONAI gets our layout of the network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clicks: int = Field(default=10, ge=1)
    full_runs: int = Field(default=1, ge=1)
    precision: Precision = "float32"
    seed: int = Field(default=0, ge=0)
    cache: CacheSettings = CacheSettings()
    same_layout: bool = False


def generated_body(shape: Index3, seed: int = 0) -> Volume:
    """A phantom body in the middle of a volume of this shape, its voxels as large as it needs."""
    body = make_phantom(seed, PhantomSettings(lesions=(5, 5), spacing_mm=_spacing_for(shape))).image
    voxels = np.zeros(shape, dtype=np.float32)
    inside = [min(n, m) for n, m in zip(shape, body.shape, strict=True)]
    there = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, inside, strict=True))
    voxels[there] = body.voxels[tuple(slice(0, m) for m in inside)]
    return Volume(voxels, body.affine)


def untrained_model(network: str, window: int, device: torch.device) -> Model:
    """A model with random weights: how long it takes does not depend on what it has learnt.

    Raises:
        UsageError: unknown network, or windows that it does not take.
    """
    try:
        settings = ModelSettings(
            labels=(BACKGROUND, "tumor"),
            channels=("PET",),
            preprocessing=PreprocessingSettings(intensity=(RangeScaling(low=0, high=20),)),
            guidance=DiskGuidance(),
            network=NetworkSettings(name=network),
            inference=SlidingWindows(window=(window, window, window)),
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{network} with windows of {window}³: {reason}") from error
    torch.manual_seed(0)
    return Model(settings, settings.build_network().to(device).eval(), device)


def shipped_model(window: int, device: torch.device) -> Model:
    """The shipped model for CPUs, at the image's own spacing and with windows of another size."""
    model = load_model(PHANTOM_PET, device)
    preprocessing = model.settings.preprocessing.model_copy(update={"spacing_mm": None})
    inference = SlidingWindows(window=(window, window, window))
    settings = model.settings.model_copy(
        update={"preprocessing": preprocessing, "inference": inference}
    )
    return Model(settings, model.network, device)


def plain(model: Model) -> Model:
    """A model with its network laid out as MONAI builds it."""
    network = model.settings.build_network()
    network.load_state_dict(model.network.state_dict())
    return Model(model.settings, network.to(model.device).eval(), model.device)


def bench_click(
    model: Model, image: Volume, settings: ClickBenchSettings, on_step: StepCallback
) -> dict[str, Any]:
    """Measure, and return the figures that `click.json` holds.

    Args:
        model: whose network is laid out as MONAI builds it.
        image: of one channel.
        settings: how much of what.
        on_step: told what comes next.
    """
    inference = model.settings.inference
    guidance = model.settings.guidance
    if not isinstance(inference, SlidingWindows) or guidance is None:
        raise UsageError("this bench needs a model with sliding windows and clicks")
    inference = inference.model_copy(update={"precision": settings.precision})
    ours = Model(
        model.settings, lay_out_for(copy.deepcopy(model.network), model.device), model.device
    )
    monai = _FullRun(ours if settings.same_layout else model, image, inference, guidance)
    clicks = _clicks_in_body(image, model.settings.labels, settings)

    on_step("the network alone")
    way = ours.inference(image.shape, inference, settings.cache)
    batch = (inference.window_batch, model.settings.in_channels, *inference.window)
    network_bytes = _peak_of(model.device, lambda: way.network.margins(torch.rand(batch)))
    on_step("first prediction, voxclick")
    reset_peak(model.device)
    session = InteractiveSession(ours, image, inference, settings.cache)
    first = session.predict()
    on_step("first prediction, MONAI")
    session_bytes = peak_bytes(model.device)
    seconds, difference = monai.answer([], session)
    monai_seconds = [seconds]

    answers: list[_Answer] = []
    for number, click in enumerate(clicks, start=1):
        on_step(f"click {number} of {len(clicks)}, voxclick")
        reset_peak(model.device)
        answers.append(_answer(session, click))
        session_bytes = _larger(session_bytes, peak_bytes(model.device))
        if number <= settings.full_runs:
            on_step(f"click {number} of {len(clicks)}, MONAI")
            seconds, found = monai.answer(clicks[:number], session)
            monai_seconds.append(seconds)
            difference = max(difference, found)
    full = statistics.median(monai_seconds)
    return {
        "volume_shape": list(image.shape),
        "windows_total": first.windows,
        "windows_per_click": statistics.mean(answer.windows for answer in answers),
        "windows_per_click_each": [answer.windows for answer in answers],
        "seconds_full": full,
        "seconds_full_each": monai_seconds,
        "seconds_first": first.seconds,
        **_spread("until_exact", [answer.until_exact for answer in answers], full),
        **_spread("exact", [answer.exact for answer in answers], full),
        **_spread(
            "preview",
            [answer.until_preview for answer in answers if answer.until_preview is not None],
            full,
        ),
        "ratio_first": monai_seconds[0] / first.seconds,
        "max_logit_difference": difference,
        "masks_differ_at": monai.differing_voxels,
        "peak_memory_bytes": _minus(session_bytes, network_bytes),
        "network_memory_bytes": network_bytes,
        "network": model.settings.network.name,
        "window": list(inference.window),
        "overlap": inference.overlap,
        "precision": str(resolve_precision(settings.precision, model.device)).removeprefix(
            "torch."
        ),
        "computed_by": way.computed_by,
        "cache_dtype": settings.cache.dtype,
        "cache_gib": settings.cache.host_gib,
        "cache_gpu_gib": settings.cache.gpu_gib,
        "cache_disk_gib": settings.cache.disk_gib,
        "clicks": len(clicks),
        "clicks_each": [{"voxel": list(click.index), "label": click.label} for click in clicks],
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class _Answer:
    """Seconds from a click to what the session answers, and the windows of the exact answer.

    Attributes:
        until_preview: None where the session gives none, as with a single window.
        until_exact: the preview's time included.
        windows: without the preview's own.
    """

    until_preview: float | None
    until_exact: float
    windows: int

    @property
    def exact(self) -> float:
        """Seconds of the exact update by itself."""
        return self.until_exact - (self.until_preview or 0.0)


def _answer(session: InteractiveSession, click: Click) -> _Answer:
    start = time.perf_counter()
    arrived = {
        update.kind: (time.perf_counter() - start, update.windows)
        for update in session.click(click.index, click.label)
    }
    until_preview, _ = arrived.get("preview", (None, 0))
    until_exact, windows = arrived["exact"]
    return _Answer(until_preview, until_exact, windows)


def _spread(name: str, seconds: list[float], full: float) -> dict[str, Any]:
    """Median, 95th percentile and all, and how many times as long MONAI's full run takes."""
    median = statistics.median(seconds) if seconds else None
    return {
        f"seconds_{name}": median,
        f"seconds_{name}_p95": float(np.percentile(seconds, 95)) if seconds else None,
        f"seconds_{name}_each": seconds,
        f"ratio_{name}": None if median is None else full / median,
    }


class _FullRun:
    """MONAI's inferer over the whole volume for every set of clicks."""

    def __init__(
        self, model: Model, image: Volume, inference: SlidingWindows, guidance: GuidanceSettings
    ) -> None:
        self._network: nn.Module = model.network
        self._device = model.device
        self._dtype = resolve_precision(inference.precision, model.device)
        self._labels = model.settings.labels
        self._image = image
        self._guidance = guidance
        self._preprocessing = Preprocessing(model.settings.preprocessing)
        self._inferer = SlidingWindowInferer(
            inference.window,
            sw_batch_size=inference.window_batch,
            overlap=inference.overlap,
            mode=inference.blending,
        )
        self.differing_voxels = 0

    def answer(self, clicks: list[Click], session: InteractiveSession) -> tuple[float, float]:
        """Run everything, and compare with a session that has the same clicks.

        Returns:
            Seconds from the clicks to the label map, and the largest difference of margins.
        """
        prepared = self._preprocessing.prepare([self._image])
        encoder = build_encoder(self._guidance, prepared.geometry.spacing_mm)
        start = time.perf_counter()
        with torch.inference_mode():
            margins = self._infer(clicks, prepared, encoder)
            mask = np.empty(self._image.shape, dtype=np.uint8)
            for patch in restore_labels(
                lambda box: margins[(..., *box.to_slices())], prepared.regridding
            ):
                mask[patch.box.to_slices()] = patch.labels
        seconds = time.perf_counter() - start
        differing = int((session.predict().label_map.voxels != mask).sum())
        self.differing_voxels = max(self.differing_voxels, differing)
        largest = 0.0
        for box in Box.of_shape(prepared.geometry.shape).slabs(_SLAB_VOXELS):
            ours, theirs = session.margins(box), margins[(..., *box.to_slices())]
            largest = max(largest, float((ours - theirs.to(ours.device)).abs().max()))
        return seconds, largest

    def _infer(
        self, clicks: list[Click], prepared: PreparedImage, encoder: GuidanceEncoder
    ) -> MarginsTensor:
        of_labels = prepared.clicks_to_network(clicks, self._labels)
        guidance = encoder.encode(of_labels, prepared.geometry.shape)
        volume = torch.cat([prepared.image, guidance])[None].to(self._device)
        half = self._dtype != torch.float32
        with (
            torch.autocast(self._device.type, dtype=self._dtype, enabled=half),
            # as in a session: float32 is not TensorFloat-32
            torch.backends.cudnn.flags(enabled=True, allow_tf32=half),
        ):
            logits = self._inferer(volume, self._network)
        assert isinstance(logits, Tensor)
        return (logits[0, 1:] - logits[0, :1]).float()


def _spacing_for(shape: Index3) -> tuple[float, float, float]:
    """So that a whole body of 410 x 260 x 1070 mm fills what scanners' images of it fill."""
    x, y, z = 820.0 / shape[0], 820.0 / shape[1], 1090.0 / shape[2]
    return (x, y, z)


def _clicks_in_body(
    image: Volume, labels: tuple[str, ...], settings: ClickBenchSettings
) -> list[Click]:
    """Random voxels of the body, for the labels in turn."""
    body = np.argwhere(image.voxels > 0.05 * np.percentile(image.voxels.astype(np.float32), 99.5))
    if len(body) < settings.clicks:
        raise UsageError(f"there is room for {len(body)} clicks in the body, got {settings.clicks}")
    generator = np.random.default_rng(settings.seed)
    chosen = body[generator.choice(len(body), settings.clicks, replace=False)].tolist()
    return [
        Click((i, j, k), labels[(number + 1) % len(labels)])
        for number, (i, j, k) in enumerate(chosen)
    ]


def _peak_of(device: torch.device, work: Callable[[], object]) -> int | None:
    reset_peak(device)
    work()
    return peak_bytes(device)


def _larger(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _minus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a - b
