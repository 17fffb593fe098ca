"""Seconds of a request to a running MONAI Label server with voxclick's app, step by step.

    monailabel start_server --app apps/monailabel --studies STUDIES --host 127.0.0.1
    python benchmarks/monailabel_requests.py http://127.0.0.1:8000 IMAGE --out FOLDER

Clicks are added one by one at random voxels among the brightest tenth of the image. Each is asked
for as 3D Slicer does, with all clicks before it. ``seconds`` are the client's: request, segmenting,
and reading the whole mask into memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

STEPS = ("pre", "infer", "post", "write", "total")


def choose_voxels(client: MONAILabelClient, image: str, count: int) -> list[list[int]]:
    """Voxels (i, j, k) among the brightest tenth, in a random order that is always the same."""
    name = client.datastore()["objects"][image]["image"]["info"]["name"]
    url = f"{client.get_server_url()}/datastore/image"
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(requests.get(url, {"image": image}, timeout=600).content)
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T
    bright = np.argwhere(voxels > np.quantile(voxels, 0.9))
    chosen = np.random.default_rng(0).permutation(len(bright))[:count]
    return bright[chosen].tolist()


def ask(client: MONAILabelClient, model: str, image: str, clicks: list[list[int]]) -> dict:
    begin = time.perf_counter()
    request = {"tumor": clicks, "background": [], "label": "tumor"}
    request |= {"result_extension": ".nrrd", "result_dtype": "uint8"}
    path, params = client.infer(model, image, request)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(path))
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "shape": mask.T.shape, **params}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("image", help="an image of the studies, by its name")
    parser.add_argument("--model", default="phantom-pet")
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--out", type=Path, help="folder for monailabel.json")
    said = parser.parse_args()
    with TemporaryDirectory() as folder:
        client = MONAILabelClient(said.server, tmpdir=folder, client_id="benchmark")
        voxels = choose_voxels(client, said.image, said.clicks)
        answers = [ask(client, said.model, said.image, voxels[:n]) for n in range(len(voxels) + 1)]
        again = ask(client, said.model, said.image, voxels)
    first, clicks = answers[0], answers[1:]
    print(f"{said.image}: {first['shape']} voxels")
    rows = [("first", [first]), (f"click (median of {len(clicks)})", clicks), ("again", [again])]
    for name, of in rows:
        steps = {s: statistics.median(answer["latencies"][s] for answer in of) for s in STEPS}
        whole = statistics.median(answer["seconds"] for answer in of)
        windows = statistics.mean(answer["windows"] for answer in of)
        listed = "  ".join(f"{step} {seconds:.3f}" for step, seconds in steps.items())
        print(f"{name:22}  {whole:7.3f} s  {windows:5.1f} windows   {listed}")
    if said.out is not None:
        said.out.mkdir(parents=True, exist_ok=True)
        found = {
            "date": date.today().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "shape": first["shape"],
            "first": first,
            "clicks": clicks,
            "again": again,
        }
        (said.out / "monailabel.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
