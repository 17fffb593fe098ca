"""What the original's options come to: a configuration of ours, and options of our commands."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from voxclick.cli.sw_fastedit.options import NETWORKS
from voxclick.model_files.sw_fastedit import AUTOPET_SPACING_MM, SCALINGS

_SPACINGS_MM = {
    "HECKTOR": (4.0, 4.0, 4.0),
    "MSD_Spleen": (2 * 0.79296899, 2 * 0.79296899, 5.0),
}

_SCHEDULES: Mapping[str, dict[str, Any]] = {
    "CosineAnnealingLR": {"name": "cosine"},
    "PolynomialLR": {"name": "polynomial", "power": 2.0},
    "MultiStepLR": {
        "name": "multi-step",
        "milestones": [0.25, 0.5, 0.75],
        "milestone_factor": 0.333,
    },
}
"""The schedules with the original's parameters."""

STOPPING = {
    1: "max-steps",
    2: "max-steps-or-probability",
    3: "max-steps-or-dice",
    4: "max-steps-probability-dice",
    5: "deepgrow-probability",
}
"""The original's stopping criteria by number. Their thresholds can be set for training alone; in a
validation they are the original's defaults, which are ours."""

_FLIP_PROBABILITY = 0.1
"""Of a flip along each axis and of a rotation by 90 degrees in the original."""

_DISK_SIGMAS = (1, 2, 3)

WITHOUT_MEANING = {
    "gpu_size": "nothing here depends on the size of the GPU",
    "train_sw_batch_size": "all windows of a training step are learnt at once",
    "no_log": "what a run writes lies in its --output_dir",
    "no_data": "nothing is written to --data_dir",
    "dont_check_output_dir": "a run that is there is never overwritten, and an evaluation goes on "
    "where it stopped",
    "save_interval": "last.ckpt is written after every epoch, model.safetensors after every better "
    "validation",
    "additional_metrics": "all scores are always computed",
    "resume_override_scheduler": "weights that are trained further always get a new schedule",
}
"""Options that change nothing here, and why; said when one of them is used."""


def run_configuration(options: Namespace, channels: tuple[str, ...]) -> dict[str, Any]:
    """The values of a `voxclick.config.RunConfig`.

    Args:
        options: of `build_parser`.
        channels: of the data set.
    """
    return {
        "seed": options.seed,
        "data": _data(options, channels),
        "preprocessing": {
            "spacing_mm": list(_SPACINGS_MM.get(options.dataset, AUTOPET_SPACING_MM)),
            "intensity": [_intensity(options)],
        },
        "guidance": None if options.non_interactive else _guidance(options),
        "network": {"name": NETWORKS[options.network]},
        "inference": _inference(options),
        "training": _training(options),
    }


def _data(options: Namespace, channels: tuple[str, ...]) -> dict[str, Any]:
    trains_on_all = options.train_on_all_samples or options.use_test_data_for_validation
    return {
        # the original sees the PET alone
        "channels": ["PET"] if len(channels) > 1 and "PET" in channels else None,
        "validation_fraction": 0.0 if trains_on_all else round(1 - options.split, 6),
        "limit": options.limit or None,
        "cache": options.cache_dir,
    }


def _intensity(options: Namespace) -> dict[str, Any]:
    scaling = SCALINGS["range" if options.use_scale_intensity_ranged else "percentile"]
    return scaling.model_dump(mode="json")


def _guidance(options: Namespace) -> dict[str, Any]:
    if options.no_disks:
        return {"kind": "gaussian", "sigma": options.sigma}
    if options.sigma in _DISK_SIGMAS:
        return {"kind": "disk", "sigma": options.sigma}
    return {"kind": "sw-fastedit", "sigma": options.sigma}


def _inference(options: Namespace) -> dict[str, Any]:
    precision = "auto" if options.amp else "float32"
    if options.inferer == "SimpleInferer":
        crop = options.val_crop_size
        return {"kind": "one-pass", "centre_crop": crop and list(crop), "precision": precision}
    return {
        "kind": "sliding-windows",
        "window": list(options.sw_roi_size),
        "overlap": options.val_sw_overlap,
        "window_batch": max(1, options.val_sw_batch_size),
        "stitching": "cpu" if options.sw_cpu_output else "device",
        "precision": precision,
    }


def _training(options: Namespace) -> dict[str, Any]:
    one_pass = options.inferer == "SimpleInferer"
    return {
        "epochs": options.epochs,
        "batch_size": 1 if one_pass else windows_of_crop(options),
        "crop": list(options.train_crop_size if one_pass else options.sw_roi_size),
        "workers": options.num_workers,
        "precision": "auto" if options.amp else "float32",
        "augmentation": {
            "positive_fraction": options.positive_crop_rate,
            "flip_probability": _FLIP_PROBABILITY,
            "rotate90_probability": _FLIP_PROBABILITY,
            "inside_body": options.crop_foreground,
        },
        "optimizer": {
            "name": options.optimizer.lower(),
            "learning_rate": options.learning_rate,
            "weight_decay": 0.0,
        },
        "schedule": _SCHEDULES[options.scheduler],
        "loss": {
            "name": "dice" if options.loss == "DiceLoss" else "dice-ce",
            "include_background": not options.loss_dont_include_background,
            "squared_dice": not options.loss_no_squared_pred,
        },
        "simulation": None if options.non_interactive else _simulation(options),
        "validate_every": max(1, options.val_freq),
        "validation": _validation(options),
    }


def windows_of_crop(options: Namespace) -> int:
    """Windows in a training crop of the original: so many of them one step learns."""
    counts = [
        1 + math.ceil(max(0, crop - roi) / max(1, int(roi * (1 - options.train_sw_overlap))))
        for crop, roi in zip(options.train_crop_size, options.sw_roi_size, strict=True)
    ]
    return math.prod(counts)


def _simulation(options: Namespace) -> dict[str, Any]:
    steps = options.max_train_interactions
    probability = options.deepgrow_probability_train
    if probability != 1:
        return _deepgrow(probability, steps)
    strategy = {1: "non-corrective", 2: "corrective"}[options.train_click_generation]
    stopping = STOPPING[options.train_click_generation_stopping_criterion]
    thresholds = {
        "max-steps-or-probability": {"probability": options.train_iteration_probability},
        "max-steps-or-dice": {"dice_loss": options.train_loss_stopping_threshold},
    }
    return {
        "strategy": {"name": strategy},
        "stopping": {"name": stopping, "max_steps": steps, **thresholds.get(stopping, {})},
    }


def _validation(options: Namespace) -> dict[str, Any]:
    steps = 0 if options.non_interactive else options.max_val_interactions
    probability = options.deepgrow_probability_val
    if probability != 1:
        return _deepgrow(probability, steps)
    return {
        "strategy": {"name": validation_strategy(options)},
        "stopping": {
            "name": STOPPING[options.val_click_generation_stopping_criterion],
            "max_steps": steps,
        },
    }


def validation_strategy(options: Namespace) -> str:
    return {1: "corrective", 2: "patch-corrective"}[options.val_click_generation]


def _deepgrow(probability: float, steps: int) -> dict[str, Any]:
    return {
        "strategy": {"name": "deepgrow", "probability": probability},
        "stopping": {
            "name": "deepgrow-probability",
            "probability": probability,
            "max_steps": steps,
        },
    }
