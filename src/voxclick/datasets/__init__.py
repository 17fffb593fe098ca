"""Data sets: cases, the layouts they come in, checks, and splits."""

from voxclick.datasets.autopet_challenge import (
    ChallengeEdition,
    challenge_clicks,
    challenge_mask,
    is_autopet_challenge,
    read_autopet_challenge,
)
from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset
from voxclick.datasets.channels import select_channels
from voxclick.datasets.checks import check_cases
from voxclick.datasets.image_files import read_images
from voxclick.datasets.read import is_dataset, read_dataset
from voxclick.datasets.splits import (
    first_by_name,
    k_folds,
    read_splits_final,
    train_validation_split,
)
from voxclick.datasets.volumes import read_case_images, read_case_label

__all__ = [
    "DEFAULT_LABELS",
    "Case",
    "ChallengeEdition",
    "Dataset",
    "challenge_clicks",
    "challenge_mask",
    "check_cases",
    "first_by_name",
    "is_autopet_challenge",
    "is_dataset",
    "k_folds",
    "read_autopet_challenge",
    "read_case_images",
    "read_case_label",
    "read_dataset",
    "read_images",
    "read_splits_final",
    "select_channels",
    "train_validation_split",
]
