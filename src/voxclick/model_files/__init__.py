"""Our model file: weights with all that is needed to use them."""

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
    "Model",
    "ModelSettings",
    "load_model",
    "read_model_settings",
    "resolve_device",
    "save_model",
]
