"""Evaluations on several processes: each takes its share of the cases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others: shares of a large data set end hours apart."""


@dataclass(frozen=True)
class Shard:
    """Which of several processes this is.

    Attributes:
        rank: from 0.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The first process writes what belongs to all."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every count-th of the items; the same for the same items."""
        return list(items[self.rank :: self.count])

    def device(self, wanted: str) -> str:
        """The device of this process: each takes a GPU of its own where there is one."""
        local = os.environ.get("LOCAL_RANK")
        if wanted not in ("auto", "cuda") or local is None or not torch.cuda.is_available():
            return wanted
        return f"cuda:{int(local) % torch.cuda.device_count()}"

    def wait_for_all(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined_shard() -> Iterator[Shard]:
    """This process among those that ``torchrun`` has started; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Shard()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Shard(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
