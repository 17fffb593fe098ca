"""The training loop, explicit, on Lightning Fabric: one process or many, any precision."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from voxclick.augmentation import CropSampler
from voxclick.datasets import Case
from voxclick.errors import TrainingError, UsageError
from voxclick.model_files import ModelSettings, load_model, resolve_device, save_model
from voxclick.networks import is_same_network, lay_out_for, window_multiple
from voxclick.preprocessing import check_slices
from voxclick.sliding_window import SlidingWindows
from voxclick.sliding_window.precision import resolve_precision
from voxclick.training.air import air_threshold, body_box
from voxclick.training.cache import PreparedCache, PreparedCase
from voxclick.training.checkpoint import SplitNames, load_checkpoint, save_checkpoint
from voxclick.training.clicking import (
    BatchSource,
    ClickedSample,
    FreshBatches,
    PooledBatches,
    SampleClicker,
)
from voxclick.training.logging import TrainingLog
from voxclick.training.losses import SegmentationLoss
from voxclick.training.optimization import average_weights, build_optimizer, build_schedule
from voxclick.training.run_folder import RunFolder
from voxclick.training.samples import CropDataset, Sample, draw_epoch
from voxclick.training.settings import TrainingSettings
from voxclick.training.validation import ValidationResult, validate


@dataclass(frozen=True)
class TrainingResult:
    """Attributes:
    best_dice: mean validation Dice over the clicks of the model that was kept; None when there
        are no validation cases, and the last model was kept.
    best_epoch: after how many epochs it was kept; 0 for the weights that the run began with.
    """

    best_dice: float | None
    best_epoch: int


@dataclass(frozen=True)
class EpochEnd:
    """How far a run has come.

    Attributes:
        epochs_done: of its epochs.
        epochs: that it shall have.
        loss: mean over the epoch's steps of this process.
        dice: mean over the validation cases after 0, 1, … clicks; None where none was validated.
        best_dice: as in `TrainingResult`, so far.
    """

    epochs_done: int
    epochs: int
    loss: float
    dice: tuple[float, ...] | None
    best_dice: float | None


class Trainer:
    """Trains one network, once.

    Args:
        settings: of the training.
        model_settings: what the model file will say.
        folder: where model, checkpoint and logs go.
        seed: of first weights, crops and clicks.
        weights: a model file whose weights are the first; None draws them from the seed. With
            validation cases they are validated, too, and kept where training does not better them.
        cache: folder for preprocessed volumes; None keeps them in memory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        devices: processes on this machine; under torchrun or Slurm, what those were told.
        nodes: machines.

    Raises:
        UsageError: the settings contradict each other, or the model whose weights are wanted.
        ModelFileError: `weights` is no model file.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        model_settings: ModelSettings,
        folder: RunFolder,
        *,
        seed: int = 0,
        weights: Path | None = None,
        cache: Path | None = None,
        device: str = "auto",
        devices: int = 1,
        nodes: int = 1,
    ) -> None:
        _check(settings, model_settings)
        self.settings = settings
        self.model_settings = model_settings
        self.folder = folder
        self.seed = seed
        self._cache = PreparedCache(cache, model_settings.preprocessing, model_settings.labels)
        self.fabric = _build_fabric(settings, device, devices, nodes)
        self.fabric.launch()

        # every process starts from the same weights
        seed_everything(seed, verbose=False)
        first = model_settings.build_network()
        if weights is not None:
            _take_weights(first, weights, model_settings)
        self.network = lay_out_for(first, self.fabric.device)
        self.average: AveragedModel | None = None
        optimizer = build_optimizer(self.network.parameters(), settings.optimizer)
        self.learner, self.optimizer = self.fabric.setup(self.network, optimizer)
        if settings.average_decay is not None:
            self.average = average_weights(self.network, settings.average_decay)
        self.loss = SegmentationLoss(settings.loss)
        self.best_dice: float | None = None
        self.best_epoch = 0
        self._goes_on_from_weights = weights is not None
        self._cases = SplitNames((), ())

    @property
    def is_first_process(self) -> bool:
        return self.fabric.is_global_zero

    def fit(
        self,
        training: Sequence[Case],
        validation: Sequence[Case],
        *,
        resume: bool = False,
        another_follows: bool = False,
        on_epoch: Callable[[EpochEnd], None] | None = None,
    ) -> TrainingResult:
        """Train to the last epoch.

        Args:
            training: cases to learn.
            validation: cases to choose the best model by; without any, the last is kept.
            resume: go on from the folder's checkpoint.
            another_follows: processes that train together stay together for the next `Trainer`;
                once parted they cannot meet again.
            on_epoch: told after every epoch, when its model and checkpoint are written.

        Raises:
            TrainingError: the loss is not finite, or the checkpoint does not fit or is of other
                cases.
            UnsupportedImageError: a case is a single slice, but crops or windows have several.
        """
        self._cases = SplitNames.of(training, validation)
        prepared = [self._cache.get(case) for case in training]
        held_out = [self._cache.get(case) for case in validation]
        for case in (*prepared, *held_out):
            self._check_slices(case)
        air_below = air_threshold(prepared)
        self.model_settings = self.model_settings.model_copy(update={"air_below": air_below})
        inside_body = self.settings.augmentation.inside_body
        samplers = [
            CropSampler(case.label, body_box(case, air_below) if inside_body else None)
            for case in prepared
        ]
        steps_per_epoch = self._steps_per_epoch(len(prepared))
        schedule = build_schedule(
            _plain(self.optimizer), self.settings.schedule, self.settings.epochs * steps_per_epoch
        )
        first_epoch = self._resume(schedule) if resume else 0

        total_steps = self.settings.epochs * steps_per_epoch
        with TrainingLog(self.folder.tensorboard, total_steps, self.is_first_process) as log:
            if held_out and self._goes_on_from_weights and not resume:
                self._judge(held_out, log, 0, 0)
                self._save_checkpoint(schedule, 0)  # a run that has a model can be resumed
            for epoch in range(first_epoch, self.settings.epochs):
                batches = self._batches(prepared, samplers, epoch, steps_per_epoch)
                losses: list[float] = []
                for step in range(steps_per_epoch):
                    losses.append(self._learn(batches, schedule))
                    rate = float(schedule.get_last_lr()[0])
                    log.step(epoch * steps_per_epoch + step + 1, losses[-1], rate)
                self._check_weights()
                dice = None
                is_last = epoch + 1 == self.settings.epochs
                if held_out and (is_last or (epoch + 1) % self.settings.validate_every == 0):
                    dice = self._judge(held_out, log, epoch + 1, (epoch + 1) * steps_per_epoch)
                elif not held_out:
                    self.best_epoch = epoch + 1
                    self._save_model()
                self._save_checkpoint(schedule, epoch + 1)
                if on_epoch is not None:
                    loss = sum(losses) / len(losses)
                    on_epoch(EpochEnd(epoch + 1, self.settings.epochs, loss, dice, self.best_dice))
        self.fabric.barrier()
        if not another_follows:
            self._part()
        return TrainingResult(self.best_dice, self.best_epoch)

    def _check_slices(self, case: PreparedCase) -> None:
        i, j, k = case.label.shape
        check_slices((i, j, k), self.settings.crop, case.name)
        inference = self.model_settings.inference
        if isinstance(inference, SlidingWindows):
            check_slices((i, j, k), inference.window, case.name)

    def _learn(self, batches: BatchSource, schedule: LambdaLR) -> float:
        """One learning step; returns its loss."""
        batch = batches.next_batch()
        self.learner.train()
        output = self.learner(torch.stack([sample.network_input for sample in batch]))
        loss = self.loss(
            output,
            torch.stack([sample.label for sample in batch]),
            torch.stack([sample.to_correct for sample in batch]),
        )
        if not math.isfinite(loss.item()):
            raise TrainingError(self._why_not_finite(batch, loss.item()))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.settings.gradient_clip is not None:
            self.fabric.clip_gradients(
                self.learner,
                self.optimizer,
                max_norm=self.settings.gradient_clip,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        batches.learnt(batch, _label_indices(output.detach()))
        return loss.item()

    def _batches(
        self,
        cases: Sequence[PreparedCase],
        samplers: Sequence[CropSampler],
        epoch: int,
        steps: int,
    ) -> BatchSource:
        """The batches of one epoch, which depend on the seed and the epoch alone."""
        rank = self.fabric.global_rank
        # dropout draws from the global generator
        torch.manual_seed(hash((self.seed, epoch, rank)) % 2**63)
        pool_size = self.settings.pool_size or 0
        keys = draw_epoch(
            len(cases),
            steps * self.settings.batch_size + pool_size,
            seed=self.seed,
            epoch=epoch,
            rank=rank,
            processes=self.fabric.world_size,
        )
        dataset = CropDataset(cases, keys, self.settings.crop, self.settings.augmentation, samplers)
        loader = DataLoader(dataset, batch_size=None, num_workers=self.settings.workers)
        samples = self._clicked(iter(loader))
        if pool_size:
            return PooledBatches(samples, self.settings.batch_size, pool_size, keys[0].seed)
        return FreshBatches(samples, self.settings.batch_size, self._predict)

    def _clicked(self, samples: Iterator[Sample]) -> Iterator[ClickedSample]:
        clicker = SampleClicker(
            self.model_settings.guidance,
            self.settings.simulation,
            len(self.model_settings.labels),
            self.fabric.device,
            self.settings.loss.click_reach,
        )
        return map(clicker, samples)

    @torch.no_grad()
    def _predict(self, network_input: Tensor) -> Tensor:
        # the unwrapped network: processes click different numbers of times, and a wrapped one
        # would wait for the others at each pass
        self.network.eval()
        with self.fabric.autocast():
            return _label_indices(self.network(network_input))

    def _judge(
        self, cases: Sequence[PreparedCase], log: TrainingLog, epochs_done: int, step: int
    ) -> tuple[float, ...]:
        """Validate the model as it is, and keep it if it is the best so far."""
        result = self._validate(cases)
        log.validation(step, result)
        if self.best_dice is None or result.mean_dice > self.best_dice:
            self.best_dice, self.best_epoch = result.mean_dice, epochs_done
            self._save_model()
        return result.dice

    def _validate(self, cases: Sequence[PreparedCase]) -> ValidationResult:
        """Every process takes its share of the cases."""
        mine = cases[self.fabric.global_rank :: self.fabric.world_size]
        total, example = validate(
            mine,
            self.model_settings,
            self._best_network(),
            self.settings.validation,
            self.seed,
        )
        total = self.fabric.all_reduce(total.to(self.fabric.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return ValidationResult(tuple((total / len(cases)).tolist()), example)

    def _best_network(self) -> nn.Module:
        return self.network if self.average is None else self.average.module

    def _save_model(self) -> None:
        if self.is_first_process:
            save_model(self.folder.model, self.model_settings, self._best_network())

    def _save_checkpoint(self, schedule: LambdaLR, epochs_done: int) -> None:
        if not self.is_first_process:
            return
        state: dict[str, Any] = {
            "epochs_done": epochs_done,
            "best_dice": self.best_dice,
            "best_epoch": self.best_epoch,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": _plain(self.optimizer).state_dict(),
            "learning_rate_step": schedule.last_epoch,
            "precision": self.fabric.strategy.precision.state_dict(),
            "cases": self._cases._asdict(),
        }
        save_checkpoint(self.folder.checkpoint, state)

    def _resume(self, schedule: LambdaLR) -> int:
        """Take everything back from the checkpoint; returns the first epoch to do."""
        path = self.folder.checkpoint
        state = load_checkpoint(path)
        before = SplitNames.in_checkpoint(state)
        if before is not None and before != self._cases:
            raise TrainingError(
                f"{path}: expected the cases that this run has been learning and validating on, "
                f"got others in {before.difference(self._cases)}; give it the data set as it was, "
                "or start a new run in another folder"
            )
        try:
            self.network.load_state_dict(state["network"])
            _plain(self.optimizer).load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            schedule.last_epoch = state["learning_rate_step"]
            schedule._last_lr = [group["lr"] for group in _plain(self.optimizer).param_groups]
            self.best_dice = state["best_dice"]
            self.best_epoch = state.get("best_epoch", 0)  # runs before there was one
            return state["epochs_done"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path}: does not fit this run's configuration: {str(error).splitlines()[0]}"
            ) from error

    def _part(self) -> None:
        """After a barrier: a process that ends while others wait for it would take them down."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _check_weights(self) -> None:
        """Nothing that is not finite may be saved: the last step's gradient can be at fault."""
        if not all(weights.isfinite().all() for weights in self.network.parameters()):
            raise TrainingError(f"training ended early: weights became infinite; {self._advice}")

    def _steps_per_epoch(self, cases: int) -> int:
        if self.settings.steps_per_epoch is not None:
            return self.settings.steps_per_epoch
        return math.ceil(cases / (self.settings.batch_size * self.fabric.world_size))

    def _why_not_finite(self, batch: Sequence[ClickedSample], loss: float) -> str:
        cases = ", ".join(sorted({sample.case for sample in batch}))
        return (
            f"training ended early: the loss became {loss} while learning {cases}; look at these "
            f"images for values far out of range, or {self._advice}"
        )

    @property
    def _advice(self) -> str:
        return (
            "lower training.optimizer.learning_rate, or set training.precision=float32; what "
            f"earlier epochs saved is kept in {self.folder.path}"
        )


def _take_weights(network: nn.Module, path: Path, settings: ModelSettings) -> None:
    model = load_model(path, "cpu")
    for kind in ("labels", "channels", "network"):
        theirs, ours = getattr(model.settings, kind), getattr(settings, kind)
        same = is_same_network(theirs, ours) if kind == "network" else theirs == ours
        if not same:
            raise UsageError(
                f"{path}: weights for the {kind} {theirs} cannot be trained further with {ours}; "
                "correct the configuration or the data set's description, or start from random "
                "weights"
            )
    if model.settings.in_channels != settings.in_channels:
        raise UsageError(
            f"{path}: is a model {'without' if model.settings.guidance is None else 'with'} "
            "clicks, but guidance says otherwise; both must agree"
        )
    network.load_state_dict(model.network.state_dict())


def _label_indices(output: Tensor) -> Tensor:
    """Predicted labels (batch, i, j, k) of an output with or without deep supervision."""
    finest = output[:, 0] if output.ndim == 6 else output
    return finest.argmax(dim=1).to(torch.uint8)


def _plain(optimizer: Any) -> Optimizer:
    """Fabric's wrapper hides the state; this is the optimizer itself."""
    return getattr(optimizer, "optimizer", optimizer)


def _build_fabric(settings: TrainingSettings, device: str, devices: int, nodes: int) -> Fabric:
    # Fabric reports its precision and processes on its own; the run's configuration says both
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    target = resolve_device(device)
    dtype = resolve_precision(settings.precision, target)
    precisions: dict[torch.dtype, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
        torch.float32: "32-true",
        torch.bfloat16: "bf16-mixed",
        torch.float16: "16-mixed",
    }
    if target.index is not None and devices > 1:
        raise UsageError(f"--device {device} is one device, but --devices says {devices}")
    devices, nodes = _processes(devices, nodes)
    return Fabric(
        accelerator=target.type,
        devices=devices if target.index is None else [target.index],
        num_nodes=nodes,
        precision=precisions[dtype],
    )


def _processes(devices: int, nodes: int) -> tuple[int, int]:
    """Processes per machine and machines, as torchrun or Slurm started them.

    Raises:
        UsageError: that is not what was asked for; every process would train by itself.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        started = int(os.environ["WORLD_SIZE"])
        if devices == nodes == 1:
            devices, nodes = here, started // here
    elif os.environ.get("SLURM_JOB_NAME") not in (None, "bash", "interactive"):
        started = int(os.environ.get("SLURM_NTASKS", 1))
    else:
        return devices, nodes
    if devices * nodes != started:
        raise UsageError(
            f"{started} processes were started, but --devices {devices} on --nodes {nodes} makes "
            f"{devices * nodes}; start as many as these say"
        )
    return devices, nodes


def _check(settings: TrainingSettings, model_settings: ModelSettings) -> None:
    multiple = window_multiple(model_settings.network)
    if any(n % m for n, m in zip(settings.crop, multiple, strict=True)):
        raise UsageError(
            f"training.crop must be a multiple of {multiple} for the network "
            f"{model_settings.network.name!r}, got {settings.crop}"
        )
    if settings.pool_size is not None and settings.pool_size < settings.batch_size:
        raise UsageError(
            f"training.pool_size must be at least training.batch_size, got {settings.pool_size} "
            f"and {settings.batch_size}"
        )
