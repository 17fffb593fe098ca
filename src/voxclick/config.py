"""A run's configuration: the settings of the parts, joined; validated, saved with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from voxclick.datasets import Dataset
from voxclick.errors import UsageError
from voxclick.files import replace_when_written
from voxclick.guidance import DiskGuidance, GuidanceSettings
from voxclick.model_files import ModelSettings, read_model_settings
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PercentileScaling, PreprocessingSettings
from voxclick.sliding_window import InferenceSettings, SlidingWindows
from voxclick.training.settings import TrainingSettings


class DataSettings(BaseModel):
    """Which cases a run sees.

    Attributes:
        labels: names by index, background first; None takes the data set's own.
        channels: which of the data set's image channels, by name, in this order; None takes all.
        validation_fraction: share of the training cases that is only looked at; 0 trains on all,
            then the last model is the best.
        folds: with a number, cross-validation instead of a fraction …
        splits: nnU-Net's ``splits_final.json``, whose folds are taken as they are …
        fold: … of which this fold (from 0) is the validation set.
        limit: only so many training cases.
        cache: folder for preprocessed volumes; None keeps them in memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    validation_fraction: float = Field(default=0.2, ge=0, lt=1)
    folds: int | None = Field(default=None, ge=2)
    splits: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    fold: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    cache: Path | None = None

    @model_validator(mode="after")
    def _fold_exists(self) -> DataSettings:
        if self.folds is not None and self.splits is not None:
            raise ValueError(
                "folds and splits both say which cases are validated on; leave one out"
            )
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold must lie in 0…{self.folds - 1}, got {self.fold}")
        return self


class RunConfig(BaseModel):
    """Everything that decides what ``voxclick train`` makes.

    Attributes:
        seed: of the first weights, the crops, the clicks and the split.
        preprocessing: one entry in `intensity` serves all channels.
        guidance: null trains a network without clicks.
        weights: a model file whose weights training starts from; null starts from random ones.
            What is not said of `preprocessing`, `guidance`, `network`, `inference` and of
            `training.crop` is then that model's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0)
    data: DataSettings = DataSettings()
    preprocessing: PreprocessingSettings = PreprocessingSettings(
        spacing_mm=None, intensity=(PercentileScaling(),)
    )
    guidance: GuidanceSettings | None = DiskGuidance()
    network: NetworkSettings = NetworkSettings()
    inference: InferenceSettings = SlidingWindows()
    training: TrainingSettings = TrainingSettings()
    weights: Path | None = None

    @model_validator(mode="after")
    def _clicks_agree(self) -> RunConfig:
        if (self.guidance is None) != (self.training.simulation is None):
            raise ValueError(
                "guidance and training.simulation must both be set (interactive) or both be null "
                "(without clicks)"
            )
        return self

    def model_settings(self, dataset: Dataset) -> ModelSettings:
        """What the model file of this run on this data set will say.

        Raises:
            UsageError: the parts do not fit each other or the data set.
        """
        intensity = self.preprocessing.intensity
        if len(intensity) == 1:
            intensity = intensity * len(dataset.channels)
        try:
            return ModelSettings(
                labels=dataset.labels,
                channels=dataset.channels,
                preprocessing=self.preprocessing.model_copy(update={"intensity": intensity}),
                guidance=self.guidance,
                network=self.network,
                inference=self.inference,
            )
        except ValidationError as error:
            raise UsageError(f"the configuration does not fit: {problems(error)}") from error


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        path: a YAML file; None for the defaults.
        overrides: ``key.subkey=value`` with the value in YAML, applied in order.

    Raises:
        UsageError: unreadable, or an unknown or wrong entry; all of them are named.
        ModelFileError: `weights` is no model file.
    """
    values = {} if path is None else _read_mapping(path)
    for override in overrides:
        if override.startswith("weights="):
            _apply(values, override)
    config = _validated(_completed_by_weights(values), str(path))
    if not overrides:
        return config
    # on the resolved values, so that inference.window=… needs no inference.kind beside it
    values = config.model_dump(mode="json")
    for override in overrides:
        _apply(values, override)
    return _validated(values, "--set")


def override_inference(model: ModelSettings, overrides: Sequence[str] | None) -> InferenceSettings:
    """Change some of the settings with which volumes go through a model.

    Args:
        model: whose inference settings are changed.
        overrides: ``inference.key=value`` with the value in YAML, applied in order.

    Raises:
        UsageError: an unknown or wrong entry, or one that does not fit the network.
    """
    values = model.model_dump(mode="json")
    for override in overrides or ():
        if not override.startswith("inference."):
            raise UsageError(f"--set {override!r}: expected inference.key=value")
        _apply(values, override)
    try:
        return ModelSettings.model_validate(values).inference
    except ValidationError as error:
        raise UsageError(f"--set: {problems(error, values)}") from error


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML; `load_config` reads it back unchanged."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    with replace_when_written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _completed_by_weights(values: dict[str, Any]) -> dict[str, Any]:
    """What a configuration leaves open, as the model has it whose weights it starts from."""
    asked = {"preprocessing", "guidance", "network", "inference"} - values.keys()
    if values.get("weights") is None or not asked:
        return values
    model = read_model_settings(values["weights"])
    completed = model.model_dump(mode="json", include=asked) | values
    training = dict(values.get("training") or {})
    if isinstance(model.inference, SlidingWindows):
        training.setdefault("crop", model.inference.window)
    if completed["guidance"] is None:
        training.setdefault("simulation", None)
    return completed | {"training": training}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not valid YAML in UTF-8: {' '.join(str(error).split())}"
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected settings as 'key: value', got {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {override!r}: expected key=value, e.g. training.epochs=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override!r}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    if _chooses(parents, last) and place.get(last) != value:
        place.clear()  # the settings of one kind mean nothing to another
    place[last] = value


def _chooses(parents: Sequence[str], key: str) -> bool:
    """Whether an entry decides which other entries there are beside it."""
    return key == "kind" or (key == "name" and parents[-1:] in (["strategy"], ["stopping"]))


def _keys(location: tuple[int | str, ...], values: Any) -> list[str]:
    """The keys that lead to a problem; pydantic's location also has the kinds settings are of."""
    keys: list[str] = []
    for number, key in enumerate(location):
        is_last = number == len(location) - 1
        if isinstance(values, dict) and key not in values and not is_last:
            continue
        keys.append(str(key))
        if isinstance(values, dict):
            values = values.get(key)
        elif isinstance(values, list) and isinstance(key, int):
            values = values[key]
    return keys


def _validated(values: dict[str, Any], source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{source}: {problems(error, values)}") from error


def problems(error: ValidationError, values: Any = None) -> str:
    """What is wrong with the values that were given, each in its place."""
    return "; ".join(_problem(problem, values) for problem in error.errors())


def _problem(problem: ErrorDetails, values: Any) -> str:
    place = ".".join(_keys(problem["loc"], values)) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{place}: there is no such setting (docs/reference/configuration.md lists them)"
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"] or isinstance(problem["input"], Mapping):
        return f"{place}: {message}" if problem["loc"] else message  # which names the settings
    return f"{place}: {message} (got {str(problem['input'])[:60]})"
