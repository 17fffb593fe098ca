"""The exceptions that a caller may catch.

Every message is one sentence or two that name the file, what was expected, what was found, and
what to do. The command line prints the message alone and turns it into an exit code.
"""


class VoxclickError(Exception):
    """Base of all errors that voxclick raises on purpose; exit code 1 on the command line."""


class UnsupportedImageError(VoxclickError):
    """An image file cannot be read as one scalar volume or slice, or not be written."""


class GeometryError(VoxclickError):
    """Two volumes that must share a grid do not, or an affine is not usable."""


class DatasetError(VoxclickError):
    """A data set is incomplete or contradicts itself; the message lists every case at fault."""


class ModelFileError(VoxclickError):
    """A model file is damaged, of a foreign kind, or does not fit the network it names."""


class ClickError(VoxclickError):
    """A click lies outside the image, or names a label that the model does not know."""


class SessionFileError(VoxclickError):
    """A saved session is damaged, or belongs to another model."""


class TrainingError(VoxclickError):
    """Training cannot go on (a loss that is not finite, a checkpoint that does not fit)."""


class EvaluationError(VoxclickError):
    """Cases of an evaluation failed; the message lists them."""


class NotEnoughMemoryError(VoxclickError):
    """Neither main memory nor the GPU's holds what is asked for."""


class UsageError(VoxclickError):
    """A setting or an argument is wrong; exit code 2 on the command line."""
