"""The whole of an image's labels, put together from what `restore_labels` gives."""

from __future__ import annotations

import numpy as np
import torch

from voxclick.preprocessing import PreparedImage, restore_labels


def restored(logits: torch.Tensor, prepared: PreparedImage) -> np.ndarray:
    """Labels of the file from logits (label, i, j, k); every voxel is given exactly once."""
    margins = logits[1:].double() - logits[:1].double()
    labels = np.zeros(prepared.source.shape, dtype=np.uint8)
    given = np.zeros(prepared.source.shape, dtype=int)
    for patch in restore_labels(lambda box: margins[(..., *box.to_slices())], prepared.regridding):
        labels[patch.box.to_slices()] = patch.labels
        given[patch.box.to_slices()] += 1
    assert (given == 1).all()
    return labels
