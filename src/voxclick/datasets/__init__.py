"""Data sets: cases, the layouts they come in, checks, and splits."""

from voxclick.datasets.case import Case, Dataset
from voxclick.datasets.checks import check_cases
from voxclick.datasets.read import read_dataset
from voxclick.datasets.splits import k_folds, limit, train_validation_split

__all__ = [
    "Case",
    "Dataset",
    "check_cases",
    "k_folds",
    "limit",
    "read_dataset",
    "train_validation_split",
]
