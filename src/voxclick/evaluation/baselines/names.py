"""Which simple methods there are."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class BaselineName(str, Enum):
    """A simple method; `TITLES` says what it does in a few words."""

    suvmax_41 = "suvmax-41"
    suvmax_50 = "suvmax-50"
    suv_2_5 = "suv-2.5"
    suv_4_0 = "suv-4.0"
    random_walker = "random-walker"
    best_threshold = "best-threshold"


TITLES: Mapping[BaselineName, str] = MappingProxyType(
    {
        BaselineName.suvmax_41: "41 % of local SUVmax",
        BaselineName.suvmax_50: "50 % of local SUVmax",
        BaselineName.suv_2_5: "SUV > 2.5",
        BaselineName.suv_4_0: "SUV > 4.0",
        BaselineName.random_walker: "random walker",
        BaselineName.best_threshold: "best threshold (knows the label)",
    }
)
"""For legends and headings of tables."""

IS_ORACLE: frozenset[BaselineName] = frozenset({BaselineName.best_threshold})
"""These know the label: bounds on what a method of their kind can reach, not competitors."""

NEEDS_SUV: frozenset[BaselineName] = frozenset({BaselineName.suv_2_5, BaselineName.suv_4_0})
"""These mean something for PET in SUV alone; `suvmax-*` suit any positive uptake image."""
