"""A real MONAI Label server with this app, on a copy of its folder, and models for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from monai.networks.nets.dynunet import DynUNet

from voxclick.cli.main import main
from voxclick.guidance import DiskGuidance
from voxclick.model_files import ModelSettings, save_model
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import SlidingWindows

APP = Path(__file__).resolve().parents[1]


def write_model(
    path: Path, *labels: str, channels: tuple[str, ...] = ("PET",), seed: int = 0
) -> Path:
    """A tiny network of random weights."""
    settings = ModelSettings(
        labels=("background", *(labels or ("tumor",))),
        channels=channels,
        preprocessing=PreprocessingSettings(
            intensity=tuple(RangeScaling(low=0, high=1) for _ in channels)
        ),
        guidance=DiskGuidance(),
        network=NetworkSettings(
            name="dynunet", options={"filters": [2, 4, 4], "strides": [1, 2, 2]}
        ),
        inference=SlidingWindows(window=(16, 16, 16)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_model(path, settings, settings.build_network())
    return path


def write_sw_fastedit(path: Path) -> None:
    """Random weights in a small network of SW-FastEdit's form, imported from its kind of file."""
    torch.manual_seed(0)
    network = DynUNet(
        spatial_dims=3,
        in_channels=3,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, [2, 2, 1]],
        upsample_kernel_size=[2, [2, 2, 1]],
        filters=[4, 6, 6],
        norm_name="instance",
        res_block=True,
    )
    checkpoint = path.with_suffix(".pt")
    torch.save({"net": network.state_dict()}, checkpoint)
    words = ["import-weights", checkpoint, "--out", path, "--window", 16, 16, 16]
    assert main([str(word) for word in words]) == 0


class Server:
    """`monailabel start_server` on a copy of the app, which it writes into.

    Args:
        folder: for the copy, the studies, and what the server prints.
        conf: of the app.
    """

    def __init__(self, folder: Path, conf: dict[str, str]) -> None:
        self.folder = folder
        self.app = folder / "app"
        self.studies = folder / "studies"
        self._conf = conf
        shutil.copytree(APP, self.app, ignore=shutil.ignore_patterns("tests", "model", "logs"))
        self.studies.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; it need not be up yet."""
        command = Path(sys.executable).parent / "monailabel"
        words = ["start_server", "--app", self.app, "--studies", self.studies]
        words += ["--host", "127.0.0.1", "--port", self._port]
        for key, value in self._conf.items():
            words += ["--conf", key, value]
        # it runs whatever python comes first
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        home = {"HOME": str(self.folder), "PATH": path}
        with (self.folder / "server.log").open("wb") as log:
            return subprocess.Popen(
                [str(word) for word in (command, *words)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | home,
                cwd=self.folder,
                start_new_session=True,
            )

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until it answers."""
        for _ in range(600):
            assert process.poll() is None, self.log[-4000:]
            try:
                urllib.request.urlopen(f"{self.url}/info/", timeout=60).read()
            except URLError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError(self.log[-4000:])

    def client(self, name: str | None = "anna"):
        """MONAI Label's own client, with files of its own."""
        from monailabel.client import MONAILabelClient

        folder = self.folder / f"client-{name}"
        folder.mkdir(exist_ok=True)
        return MONAILabelClient(self.url, tmpdir=str(folder), client_id=name)


GRIDS = {
    "ras": np.diag([2.0, 3, 4, 1]),
    "lps": np.diag([-2.0, -3, 4, 1]),
    "flipped": np.array([[0, 0, 3.0, 5], [-2, 0, 0, 7], [0, 4, 0, -90], [0, 0, 0, 1]]),
    "oblique": np.array([[1.8, -0.6, 0, 20], [0.8, 2.7, 0, -7], [0, 0, 4.0, 3], [0, 0, 0, 1.0]]),
}
"""Affines of the small images in the studies, voxel index to RAS+ mm."""
GRIDS["oblique"][:3, 1] = np.cross(GRIDS["oblique"][:3, 2], GRIDS["oblique"][:3, 0]) / 3
