"""Click-driven segmentation of volumetric medical images of any size."""

__version__ = "0.1.0"
