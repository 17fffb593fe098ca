"""What `monailabel start_server --conf KEY VALUE` can say to this app."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError

from voxclick.config import problems
from voxclick.errors import UsageError
from voxclick.model_files import Backend, Combination
from voxclick.sliding_window import CacheSettings

_OF_MONAI_LABEL = {"server_mode"}
"""What MONAI Label itself may have put beside."""


def _listed(value: object) -> object:
    """Everything that `--conf` gives is text; several values have commas between."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _three(value: object) -> object:
    numbers = _listed(value)
    if isinstance(numbers, list) and len(numbers) != 3:
        raise ValueError("expected three numbers, like 96,96,96")
    return numbers


class AppSettings(BaseModel):
    """Attributes:
    models: names or paths of models, NAME=PATH for a path under another name; none for all in the
        app's folder `model`.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    backend: what computes the networks.
    ensemble: how several models in one folder answer as one.
    window: voxels of a window along (i, j, k), instead of the models' own.
    overlap: fraction of a window that neighbours share, instead of the models' own.
    skip_air: pass over windows that show nothing but air; for models that know what air is.
    cache_dtype: of windows' results that a session keeps.
    cache_gib: main memory for the results of one session.
    cache_gpu_gib: the GPU's memory for them.
    cache_disk_gib: files for them.
    sessions_gib: memory that all open sessions may take together.
    clicks: folder for the logs of clicks; None for ``labels/clicks`` in the studies.
    train_config: a configuration as `voxclick train` takes it, which training starts from.
    uncertainty_seconds: how long a request for the most uncertain image may look at images that
        nobody has looked at; no other request is answered meanwhile.
    auto_scoring: run all scoring methods when the server starts and after a training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    device: str = "auto"
    backend: Backend = "torch"
    ensemble: Combination = "mean"
    window: Annotated[
        tuple[PositiveInt, PositiveInt, PositiveInt] | None, BeforeValidator(_three)
    ] = None
    overlap: float | None = Field(default=None, ge=0, lt=1)
    skip_air: bool = False
    cache_dtype: Literal["float32", "float16"] = "float32"
    cache_gib: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    cache_gpu_gib: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    cache_disk_gib: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    sessions_gib: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    clicks: Path | None = None
    train_config: Path | None = None
    uncertainty_seconds: float = Field(default=10.0, ge=0)
    auto_scoring: bool = False

    @staticmethod
    def of_conf(conf: Mapping[str, Any]) -> AppSettings:
        """Read what ``--conf`` gave.

        Raises:
            UsageError: an unknown key or a wrong value; all of them are named.
        """
        values = {key: value for key, value in conf.items() if key not in _OF_MONAI_LABEL}
        try:
            return AppSettings.model_validate(values)
        except ValidationError as error:
            unknown = [key for key in values if key not in AppSettings.model_fields]
            if unknown:
                raise UsageError(
                    f"--conf {', '.join(unknown)}: there is no such setting; expected some of "
                    f"{', '.join(AppSettings.model_fields)}"
                ) from error
            raise UsageError(f"--conf {problems(error, values)}") from error

    @property
    def cache(self) -> CacheSettings:
        """Of one session."""
        return CacheSettings(
            dtype=self.cache_dtype,
            host_gib=self.cache_gib,
            gpu_gib=self.cache_gpu_gib,
            disk_gib=self.cache_disk_gib,
        )

    @property
    def inference_overrides(self) -> list[str]:
        """What is said of windows, as `voxclick.config.override_inference` takes it."""
        overrides: list[str] = []
        if self.window is not None:
            overrides.append(f"inference.window={list(self.window)}")
        if self.overlap is not None:
            overrides.append(f"inference.overlap={self.overlap}")
        return overrides
