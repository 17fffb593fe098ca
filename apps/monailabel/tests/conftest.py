"""The server that all tests share.

Without MONAI Label, which has an environment of its own (docs/how-to/3d-slicer.md), the tests that
need it are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from app_server import GRIDS, Server, write_model, write_sw_fastedit
from voxclick.datasets.phantom_folder import write_phantom_dataset
from voxclick.weights import PHANTOM_PET


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """An nnU-Net folder: three whole-body phantoms with lesions."""
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantom_dataset(folder, cases=3, seed=1001, test_fraction=0)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory, phantoms) -> Iterator[Server]:
    """A server that all tests share; each uses images, or clients, of its own."""
    pytest.importorskip("monailabel")
    folder = tmp_path_factory.mktemp("server")
    models = folder / "models"
    write_model(models / "tiny.safetensors")
    write_model(models / "organs.safetensors", "liver", "tumor")
    write_model(models / "learns.safetensors")
    write_model(models / "two.safetensors", channels=("CT", "PET"))
    (models / "broken.safetensors").write_bytes(b"no model")
    write_sw_fastedit(models / "sw-fastedit.safetensors")
    names = ("tiny", "organs", "learns", "two", "sw-fastedit", "broken")
    words = [f"phantom-pet={PHANTOM_PET}", *(f"{n}={models / n}.safetensors" for n in names)]
    made = Server(folder, {"models": ",".join(words), "device": "cpu"})
    rng = np.random.default_rng(4)
    for name, affine in GRIDS.items():
        voxels = rng.uniform(size=(22, 19, 25)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), made.studies / f"{name}.nii.gz")
    for channel in ("0000", "0001"):
        shutil.copy(made.studies / "ras.nii.gz", made.studies / f"pair_{channel}.nii.gz")
    for image in sorted((phantoms / "imagesTr").iterdir()):
        shutil.copy(image, made.studies / image.name.replace("_0000", ""))
    process = made.start()
    try:
        made.wait(process)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=60)
