"""Aliases for the tensors and tuples that cross module borders.

Array axes are (i, j, k), in the order of the array in memory: for a NIfTI file, nibabel's order.
"""

from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Index3: TypeAlias = tuple[int, int, int]
"""A voxel (i, j, k)."""

Vector3: TypeAlias = tuple[float, float, float]
"""Three floats: mm in RAS+ patient space, or a spacing in mm along (i, j, k)."""

ImageTensor: TypeAlias = Float[Tensor, "channel i j k"]
"""Network input without batch: preprocessed image channels."""

GuidanceTensor: TypeAlias = Float[Tensor, "label i j k"]
"""Click channels, one per label, in the order of the model's labels."""

MarginsTensor: TypeAlias = Float[Tensor, "foreground i j k"]
"""Logits of the foreground labels minus that of the background: one channel less says as much."""

LabelTensor: TypeAlias = Int[Tensor, "i j k"]
"""Label indices; 0 is background."""
