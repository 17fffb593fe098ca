"""Scores, protocols and baselines in words, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from voxclick.evaluation.baselines import IS_ORACLE, TITLES
from voxclick.evaluation.runner import NO_CLICKS
from voxclick.evaluation.settings import Protocol


@dataclass(frozen=True)
class MetricWords:
    """How a score is spoken of.

    Attributes:
        title: in headings of tables.
        meaning: in a sentence.
        decimals: shown.
        is_share: from 0 to 1, and better when higher; else a volume, better when lower.
    """

    title: str
    meaning: str
    decimals: int = 3
    is_share: bool = True


METRIC_WORDS: Mapping[str, MetricWords] = MappingProxyType(
    {
        "dice": MetricWords("Dice", "overlap with the label, 0 to 1"),
        "nsd": MetricWords("NSD", "share of both surfaces that lies within 2 mm of the other"),
        "fpv_ml": MetricWords(
            "FPV, ml", "false-positive volume: predicted lesions that touch no true one", 2, False
        ),
        "fnv_ml": MetricWords(
            "FNV, ml",
            "false-negative volume: true lesions that nothing predicted touches",
            2,
            False,
        ),
        "lesion_recall": MetricWords("Lesion recall", "share of the true lesions that are touched"),
        "lesion_precision": MetricWords(
            "Lesion precision", "share of the predicted lesions that touch a true one"
        ),
        "dmm": MetricWords("DMM", "lesion F1 at an IoU of 0.1 or more"),
    }
)
"""By column, in the order of the columns."""

PROTOCOL_WORDS: Mapping[str, str] = MappingProxyType(
    {
        Protocol.largest_error.value: (
            "in each step, a simulated user clicks once, in the middle of the largest error"
        ),
        Protocol.corrective.value: (
            "in each step, a simulated user gives every label that misses voxels one click, at "
            "random in what is missed, the background included"
        ),
        Protocol.non_corrective.value: (
            "in each step, a simulated user gives every label one click, anywhere in it, whatever "
            "the prediction"
        ),
        Protocol.patch_corrective.value: (
            "in each step, a simulated user gives every label that misses voxels one click, in the "
            "patch where it is worst"
        ),
        Protocol.deepgrow.value: (
            "in each step, or with some probability not at all, a simulated user gives every label "
            "that misses voxels one click, at random in what is missed"
        ),
        Protocol.cvpr2025.value: (
            "a box around every class first, then in each step a click in the largest error of "
            "every class, as in the CVPR 2025 challenge"
        ),
        Protocol.autopet4.value: (
            "in each step a pair of clicks more, one in a lesion and one in the background, that "
            "do not look at the prediction, as in autoPET IV"
        ),
        Protocol.autopet5.value: ("in each step, a scribble in the larger error, as in autoPET V"),
        Protocol.recorded.value: (
            "in each step one click more of those that somebody has given before"
        ),
    }
)
"""What happens in a protocol, by its name."""


def before_corrections(protocol: str) -> str:
    """What the first prediction knows, in a sentence."""
    return "with the box alone" if protocol == Protocol.cvpr2025.value else "without clicks"


def in_the_end(protocol: str, steps: int) -> str:
    """The last step, in a sentence; the first prediction where there are no others."""
    return f"after {counted(steps, 'step')}" if steps else before_corrections(protocol)


def what_is_measured(protocol: str, steps: int) -> str:
    """A protocol in a sentence."""
    said = PROTOCOL_WORDS.get(protocol)
    begins = f"Protocol {protocol}" + (f": {said}" if said else "")
    scored = f"the first prediction and the one after each of {counted(steps, 'step')} are scored"
    return f"{begins}; {scored}." if steps else f"{begins}; only the first prediction is scored."


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


ORACLES = frozenset(name.value for name in IS_ORACLE)
"""Baselines that know the label."""


def baseline_title(name: str) -> str:
    """A baseline's name in a legend; of an unknown one the name itself."""
    if name == NO_CLICKS:
        return "first prediction"
    titles = {known.value: title for known, title in TITLES.items()}
    title = titles.get(name, name).partition(" (")[0]
    return f"{title}, oracle" if name in ORACLES else title
