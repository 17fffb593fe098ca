"""The options of SW-FastEdit's ``train.py``, with its names and defaults."""

from __future__ import annotations

import argparse
import re

from voxclick.types import Index3

NETWORKS = {
    "dynunet": "dynunet",
    "smalldynunet": "dynunet-small",
    "bigdynunet": "dynunet-big",
    "hugedynunet": "dynunet-huge",
    "ultradynunet": "dynunet-huge",
}
"""The original's names of its networks, and ours. ``ultradynunet`` stands in its notes alone, for
the largest of its time."""

_SHAPE = re.compile(r"^[(\[]?\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,?\s*[)\]]?$")

_DATASETS = ["AutoPET", "AutoPET2", "AutoPET_merged", "AutoPET2_Challenge", "HECKTOR", "MSD_Spleen"]
_CRITERIA = (1, 2, 3, 4, 5)


def build_parser() -> argparse.ArgumentParser:
    """A parser of the original's options, and of a few of ours."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="train.py -i DATA -o OUT [options]; -h lists them",
        description="SW-FastEdit's options, run by voxclick; what each comes to says "
        "docs/reference/sw-fastedit-options.md",
        allow_abbrev=False,
    )
    _add_data(parser.add_argument_group("data"))
    _add_environment(parser.add_argument_group("environment"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_validation(parser.add_argument_group("validation and what is kept"))
    _add_interactions(parser.add_argument_group("clicks"))
    ours = parser.add_argument_group("voxclick's own")
    ours.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    ours.add_argument("--device", default=None, help="auto, cpu, cuda or cuda:N")
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-i", "--input_dir")
    group.add_argument("-o", "--output_dir", required=True)
    group.add_argument("-d", "--data_dir")
    group.add_argument("-c", "--cache_dir")
    group.add_argument("-ta", "--throw_away_cache", action="store_true")
    group.add_argument("-x", "--split", type=_share, default=0.8)
    group.add_argument("-t", "--limit", type=_count, default=0)
    group.add_argument("--dataset", choices=_DATASETS, default="AutoPET")
    group.add_argument("--train_on_all_samples", action="store_true")
    group.add_argument("--use_test_data_for_validation", action="store_true")
    group.add_argument("--positive_crop_rate", type=_share, default=0.6)


def _add_environment(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-s", "--seed", type=_count, default=36)
    group.add_argument("--gpu", type=_count)
    group.add_argument("--gpu_size", choices=["None", "small", "medium", "large"], default="None")
    group.add_argument("--limit_gpu_memory_to", type=float, default=-1)
    group.add_argument("--num_workers", type=_count, default=1)
    group.add_argument("--no_log", action="store_true")
    group.add_argument("--no_data", action="store_true")
    group.add_argument("--dont_check_output_dir", action="store_true")
    group.add_argument("--debug", action="store_true")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-n", "--network", choices=list(NETWORKS), default="dynunet")
    group.add_argument(
        "-in",
        "--inferer",
        choices=["SimpleInferer", "SlidingWindowInferer"],
        default="SlidingWindowInferer",
    )
    group.add_argument("--sw_roi_size", type=parse_shape, default=(128, 128, 128))
    group.add_argument("--train_crop_size", type=parse_shape, default=(224, 224, 224))
    group.add_argument("--val_crop_size", type=_shape_or_none)
    group.add_argument("--train_sw_batch_size", type=_count)
    group.add_argument("--val_sw_batch_size", type=_count, default=1)
    group.add_argument("--train_sw_overlap", type=_share, default=0.25)
    group.add_argument("--val_sw_overlap", type=_share, default=0.25)
    group.add_argument("--sw_cpu_output", action="store_true")


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-a", "--amp", action="store_true")
    group.add_argument("-e", "--epochs", type=_count, default=100)
    group.add_argument("-lr", "--learning_rate", type=float, default=1e-4)
    group.add_argument("--optimizer", choices=["Adam", "Novograd"], default="Adam")
    group.add_argument("--loss", choices=["DiceCELoss", "DiceLoss"], default="DiceCELoss")
    group.add_argument(
        "--scheduler",
        choices=["MultiStepLR", "PolynomialLR", "CosineAnnealingLR"],
        default="CosineAnnealingLR",
    )
    group.add_argument("--loss_dont_include_background", action="store_true")
    group.add_argument("--loss_no_squared_pred", action="store_true")
    group.add_argument("--resume_from", default="None")
    group.add_argument("--resume_override_scheduler", action="store_true")
    group.add_argument("--use_scale_intensity_ranged", action="store_true")
    group.add_argument("--crop_foreground", action="store_true")


def _add_validation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-f", "--val_freq", type=_count, default=1)
    group.add_argument("--save_interval", type=_count)
    group.add_argument("--eval_only", action="store_true")
    group.add_argument("--save_nifti", action="store_true")
    group.add_argument("--save_pred", action="store_true")
    group.add_argument("--additional_metrics", action="store_true")


def _add_interactions(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--non_interactive", action="store_true")
    group.add_argument("-it", "--max_train_interactions", type=_count, default=10)
    group.add_argument("-iv", "--max_val_interactions", type=_count, default=10)
    group.add_argument("-dpt", "--deepgrow_probability_train", type=_share, default=1.0)
    group.add_argument("-dpv", "--deepgrow_probability_val", type=_share, default=1.0)
    group.add_argument("--sigma", type=_count, default=1)
    disks = group.add_mutually_exclusive_group()
    disks.add_argument("--disks", action="store_true", help="the default; older versions' option")
    disks.add_argument("--no_disks", action="store_true")
    group.add_argument("-tcg", "--train_click_generation", type=int, choices=[1, 2], default=2)
    group.add_argument("-vcg", "--val_click_generation", type=int, choices=[1, 2], default=1)
    for short, part in (("-tcgsc", "train"), ("-vcgsc", "val")):
        group.add_argument(
            short,
            f"--{part}_click_generation_stopping_criterion",
            type=int,
            choices=_CRITERIA,
            default=1,
        )
    group.add_argument("--train_loss_stopping_threshold", type=_share, default=0.1)
    group.add_argument("--train_iteration_probability", type=_share, default=0.5)


def parse_shape(text: str) -> Index3:
    """Three whole numbers as the original writes them, ``(128,128,128)``; parsed, not run.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    match = _SHAPE.match(text.strip())
    if match is None or "0" in match.groups():
        raise argparse.ArgumentTypeError(f"expected three whole numbers (i,j,k), got {text!r}")
    i, j, k = map(int, match.groups())
    return (i, j, k)


def _shape_or_none(text: str) -> Index3 | None:
    return None if text == "None" else parse_shape(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return share
