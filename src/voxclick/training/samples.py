"""Which crop is learnt when: drawn from the seed, the epoch and the process alone.

Nothing depends on what was drawn before, so a resumed run sees the same crops as one that was
never interrupted, and any single crop can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from voxclick.augmentation import AugmentationSettings, CropSampler, augment
from voxclick.training.cache import PreparedCase
from voxclick.types import Index3, Vector3


@dataclass(frozen=True)
class SampleKey:
    """Attributes:
    case: position in the list of training cases.
    seed: draws the crop, its augmentation and its clicks.
    """

    case: int
    seed: int


@dataclass(frozen=True, eq=False)
class Sample:
    """A crop that is ready to be learnt.

    Attributes:
        image: (channel, i, j, k).
        label: label indices (i, j, k).
        spacing_mm: of its grid.
        seed: from its key, for the clicks.
        case: name, for messages.
    """

    image: Tensor
    label: Tensor
    spacing_mm: Vector3
    seed: int
    case: str


def draw_epoch(
    cases: int, samples: int, *, seed: int, epoch: int, rank: int = 0, processes: int = 1
) -> list[SampleKey]:
    """The keys that one process learns in one epoch.

    Every case is drawn equally often, give or take one, over all processes together.

    Args:
        cases: how many there are.
        samples: crops per process.
        seed: of the run.
        epoch: counted from 0.
        rank: this process.
        processes: in all.
    """
    generator = np.random.default_rng([seed, epoch])
    total = samples * processes
    rounds = -(-total // cases)
    order = np.concatenate([generator.permutation(cases) for _ in range(rounds)])[:total]
    seeds = generator.integers(0, 2**31 - 1, size=total)
    return [
        SampleKey(int(case), int(sample_seed))
        for case, sample_seed in zip(order[rank::processes], seeds[rank::processes], strict=True)
    ]


class CropDataset(Dataset[Sample]):
    """The crops of one epoch, for PyTorch's DataLoader."""

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        keys: Sequence[SampleKey],
        crop: Index3,
        settings: AugmentationSettings,
        samplers: Sequence[CropSampler],
    ) -> None:
        self._cases = cases
        self._keys = keys
        self._crop = crop
        self._settings = settings
        self._samplers = samplers

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        key = self._keys[index]
        case = self._cases[key.case]
        image, label = augment(
            case.image,
            case.label,
            self._crop,
            self._settings,
            key.seed,
            sampler=self._samplers[key.case],
        )
        return Sample(image, label, case.spacing_mm, key.seed, case.name)
