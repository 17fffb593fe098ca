"""From the image file to what the network sees, and back.

Two steps lead from the file's grid to the network's: flips and swaps of axes to RAS+ (exact), then
resampling to the spacing the network was trained with. Both are worked out in a frame whose origin
is the first voxel, so that neither the file's axis order nor its place in the scanner can change a
bit of what the network sees. Nothing is resampled where the spacing already fits.

An image of a single slice is turned so that its slice lies along k, wherever the scan or the file
has it; the axes in its plane keep the order of the patient's. It stays one slice.
"""

from voxclick.preprocessing.preparation import PreparedImage, Preprocessing, check_slices
from voxclick.preprocessing.regridding import Regridding
from voxclick.preprocessing.restoration import (
    LabelPatch,
    ReadMargins,
    label_of_margins,
    restore_labels,
    restore_labels_inside,
)
from voxclick.preprocessing.settings import (
    IntensityScaling,
    LogScaling,
    PercentileScaling,
    PreprocessingSettings,
    RangeScaling,
)

__all__ = [
    "IntensityScaling",
    "LabelPatch",
    "LogScaling",
    "PercentileScaling",
    "PreparedImage",
    "Preprocessing",
    "PreprocessingSettings",
    "RangeScaling",
    "ReadMargins",
    "Regridding",
    "check_slices",
    "label_of_margins",
    "restore_labels",
    "restore_labels_inside",
]
