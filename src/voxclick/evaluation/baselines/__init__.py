"""Simple methods that get the same clicks as the model and are reported beside it."""

from voxclick.evaluation.baselines.baseline import Baseline
from voxclick.evaluation.baselines.build import build_baseline
from voxclick.evaluation.baselines.names import IS_ORACLE, NEEDS_SUV, TITLES, BaselineName

__all__ = [
    "IS_ORACLE",
    "NEEDS_SUV",
    "TITLES",
    "Baseline",
    "BaselineName",
    "build_baseline",
]
