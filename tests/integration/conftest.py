"""A small world: four torsos, a network of a few thousand weights, seconds of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxclick.datasets.phantom_folder import write_phantom_dataset
from voxclick.phantoms import PhantomSettings

CONFIG = """
seed: 5
data: {validation_fraction: 0}
preprocessing:
  spacing_mm: [10, 10, 10]
  intensity: [{kind: log, high: 10}]
guidance: {kind: disk}
network:
  name: dynunet-light
  options: {filters: [4, 8, 8], strides: [1, 2, 2]}
inference: {kind: sliding-windows, window: [16, 16, 16], window_batch: 8, precision: float32}
training:
  epochs: 3
  steps_per_epoch: 4
  batch_size: 2
  crop: [16, 16, 16]
  precision: float32
  average_decay: 0.9
  gradient_clip: 1
  validate_every: 1
  validation: {stopping: {name: max-steps, max_steps: 2}}
  simulation: {stopping: {name: max-steps, max_steps: 2}}
"""


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    settings = PhantomSettings(region="torso", spacing_mm=(10, 10, 10), lesions=(2, 5))
    write_phantom_dataset(folder, cases=4, seed=0, settings=settings, test_fraction=0.25)
    return folder


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, phantom_folder, config_file) -> Path:
    """A finished run that tests may read and must not change."""
    from voxclick.cli.main import main

    run = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(["train", str(phantom_folder), "--out", str(run), "--config", str(config_file)]) == 0
    )
    return run
