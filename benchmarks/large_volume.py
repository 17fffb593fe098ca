"""A volume larger than memory: opened, clicked and written; prints the peak memory.

    python benchmarks/large_volume.py --edge 1024 --folder /somewhere/with/60/GB

The volume is a ball of noise in air, 16-bit NIfTI; windows of air are skipped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from inference import report

import voxclick
from voxclick.bench.click import shipped_model
from voxclick.bench.memory import peak_bytes, reset_peak
from voxclick.hardware import device_name
from voxclick.session import InteractiveSession
from voxclick.sliding_window import CacheSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=1024)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="for the volume and all temporary files")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    voxclick.reuse_freed_memory()  # as the command line does
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_ball(folder / "ball.nii", options.edge)
        reset_peak(torch.device("cpu"))
        figures: dict[str, object] = {"device": device_name(device), "edge": options.edge}
        start = time.perf_counter()

        def done(step: str) -> None:
            figures[step] = {
                "seconds": round(time.perf_counter() - start, 1),
                "peak_gib_so_far": round((peak_bytes(torch.device("cpu")) or 0) / 2**30, 2),
            }
            print(step, figures[step], flush=True)

        tempfile.tempdir = str(folder)
        volume = voxclick.read_volume(folder / "ball.nii")
        done("read")
        session = InteractiveSession(
            shipped_model(options.window, device),
            volume,
            cache=CacheSettings(host_gib=0.5, disk_gib=40, folder=folder),
            skip_air=True,
        )
        del volume
        done("opened")
        first = session.predict()
        figures["windows"] = first.windows
        del first
        done("first prediction")
        middle = options.edge // 2
        for update in session.click((middle, middle, middle), "tumor"):
            done(f"click, {update.kind}")
        voxclick.write_label_map(session.predict().label_map, folder / "mask.nii.gz")
        done("written")
    report(figures, options.out)


def write_ball(path: Path, edge: int) -> None:
    """A ball of uptake around 2 with a hotter middle, a slab at a time."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((edge, edge, edge))
    header.set_sform(np.eye(4), code=1)
    header.set_slope_inter(0.001, 0)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    generator = np.random.default_rng(0)
    axis = (np.arange(edge) - edge / 2) / (edge / 2)
    in_plane = axis[:, None] ** 2 + axis[None, :] ** 2
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in axis:
            radius = np.sqrt(in_plane + z**2)
            slab = np.zeros((edge, edge), dtype=np.int16)
            inside = radius < 0.5
            noise = generator.integers(-300, 300, inside.sum())
            slab[inside] = np.where(radius[inside] < 0.1, 12000, 2000) + noise
            file.write(slab.tobytes(order="F"))


if __name__ == "__main__":
    main()
