"""Data sets: cases, the layouts they come in, checks, and splits."""

from voxclick.datasets.case import DEFAULT_LABELS, Case, Dataset
from voxclick.datasets.checks import check_cases
from voxclick.datasets.image_files import read_images
from voxclick.datasets.read import is_dataset, read_dataset
from voxclick.datasets.splits import first_by_name, k_folds, train_validation_split

__all__ = [
    "DEFAULT_LABELS",
    "Case",
    "Dataset",
    "check_cases",
    "first_by_name",
    "is_dataset",
    "k_folds",
    "read_dataset",
    "read_images",
    "train_validation_split",
]
