"""Our model file: weights with all that is needed to use them, and ensembles of such files."""

from voxclick.model_files.ensemble import Combination, load_ensemble
from voxclick.model_files.model import (
    Backend,
    Model,
    ModelSettings,
    load_model,
    read_model_settings,
    resolve_device,
    save_model,
)

__all__ = [
    "Backend",
    "Combination",
    "Model",
    "ModelSettings",
    "load_ensemble",
    "load_model",
    "read_model_settings",
    "resolve_device",
    "save_model",
]
