"""A checkpoint of SW-FastEdit, through our commands, gives what the original's pipeline gives.

The original is built here from MONAI: its network, transforms and inferer with its parameters, in
its order (voxclick/model_files/sw_fastedit.py says which). Both ways begin with the same files of
weights, image and clicks, and are compared three times: what the network sees, its logits, and the
mask on the file's grid. Only the network's weights are random and its windows smaller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.layers import GaussianFilter
from monai.networks.nets.dynunet import DynUNet
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

import voxclick
from voxclick.cli.main import main
from voxclick.geometry.box import Box
from voxclick.guidance import build_encoder
from voxclick.networks.channels_last import in_plain_layout
from voxclick.preprocessing import Preprocessing

WINDOW = 32

SAME_INTENSITY = 1e-6
"""Both interpolate in float64 and keep values from 0 to 1 as float32, rounded by up to 6e-8."""

SAME_LOGITS = 5e-4
"""Random weights enlarge float32's rounding, to 1.4e-4 in differences of logits from -11 to 24."""

UNDECIDED = 2e-3
"""Nearer to equal logits than this, rounding may decide on a voxel's label: the command keeps the
network in a layout that is faster on a CPU, and rounds its norms by 1e-4."""

SHAPE = (46, 36, 30)
"""Of the file. On the network's turned grid more overlap would make for more windows."""

SPACING = (2.03642011, 2.03642011, 3.0)

# two clusters, in which disks shrink together, and lone clicks; some at the border
CLICKS = {
    "tumor": [[20, 18, 12], [20, 19, 12], [21, 18, 12], [20, 18, 13], [6, 30, 22], [0, 0, 0]],
    "background": [[31, 9, 20], [32, 9, 20], [12, 25, 4], [45, 35, 29]],
}

SCALINGS = {
    "percentile": ScaleIntensityRangePercentilesd(
        keys="image", lower=0.05, upper=99.95, b_min=0.0, b_max=1.0, clip=True, relative=False
    ),
    "range": ScaleIntensityRanged(keys="image", a_min=0, a_max=43, b_min=0.0, b_max=1.0, clip=True),
}

TURN = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])

GRIDS = {
    # axes to the (superior, left, posterior), oblique by 0.1 radians, another spacing
    "turned": TURN @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ np.diag([3.5, 2.6, 2.2]),
    # autoPET's own: x runs to the left, nothing is resampled
    "autopet": np.diag([-1.0, 1.0, 1.0]) @ np.diag(SPACING),
}
"""Columns: one step along each axis of the file, in mm to the right, anterior, superior."""


@dataclass(frozen=True)
class Original:
    """What SW-FastEdit makes of a file.

    Attributes:
        inputs: of the network: the image, the clicks on tumor, those on background.
        network: foreground logits minus background logits on the network's grid.
        file: the same on the file's.
    """

    inputs: torch.Tensor
    network: torch.Tensor
    file: torch.Tensor


@pytest.fixture(scope="module")
def original_network() -> DynUNet:
    torch.manual_seed(11)
    return DynUNet(
        spatial_dims=3,
        in_channels=3,
        out_channels=2,
        kernel_size=[3, 3, 3, 3, 3, 3],
        strides=[1, 2, 2, 2, 2, [2, 2, 1]],
        upsample_kernel_size=[2, 2, 2, 2, [2, 2, 1]],
        norm_name="instance",
        deep_supervision=False,
        res_block=True,
    ).eval()


@pytest.fixture(scope="module")
def checkpoint(original_network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "151_best_0.8534.pt"
    torch.save({"trainer": {"iteration": 7}, "net": original_network.state_dict()}, path)
    return path


def write_image(path: Path, steps: np.ndarray) -> None:
    """SUV with hot spots, one of them beyond 43."""
    rng = np.random.default_rng(3)
    grid = np.indices(SHAPE).astype(float)
    suv = rng.gamma(2.0, 0.7, size=SHAPE)
    for centre, radius, hottest in [((20, 18, 12), 6, 60.0), ((6, 30, 22), 4, 20.0)]:
        squared = sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))
        is_hot = squared <= radius**2
        suv[is_hot] = rng.uniform(hottest * 0.8, hottest, size=is_hot.sum())
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = (12.0, -40.0, 7.0)
    nibabel.save(nibabel.Nifti1Image(suv.astype(np.float32), affine), path)


def drawn(voxels: np.ndarray, shape: torch.Size) -> torch.Tensor:
    """A channel of clicks: all of them blurred, scaled to 0..1, and what exceeds 0.1 is 1."""
    signal = torch.zeros(shape)
    for i, j, k in voxels:
        signal[i, j, k] = 1.0
    blurred = GaussianFilter(3, sigma=1)(signal[None, None])[0, 0]
    return ((blurred - blurred.min()) / (blurred.max() - blurred.min()) > 0.1).float()


def original_way(network: DynUNet, image_path: Path, scaling: str) -> Original:
    transforms = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=SPACING),
            # below a million voxels MONAI rounds a percentile's rank to the dtype of the image
            CastToTyped(keys="image", dtype=torch.float64),
            SCALINGS[scaling],
        ]
    )
    prepared = transforms({"image": str(image_path)})
    image = prepared["image"]
    to_grid = np.linalg.inv(image.affine.numpy()) @ nibabel.load(image_path).affine
    channels = []
    for label in ("tumor", "background"):
        places = nibabel.affines.apply_affine(to_grid, np.array(CLICKS[label]))
        last = np.array(image.shape[1:]) - 1
        voxels = np.clip(np.rint(places), 0, last).astype(int)
        channels.append(drawn(voxels, image.shape[1:]))
    inputs = torch.cat([image.as_tensor(), torch.stack(channels)])
    inferer = SlidingWindowInferer(
        roi_size=(WINDOW,) * 3, sw_batch_size=1, overlap=0.25, mode="gaussian"
    )
    with torch.no_grad():
        logits = inferer(inputs[None], network)[0]
    # as the network's output has it in the original, with the image's record of transforms
    prepared["pred"] = image.clone()
    prepared["pred"].array = logits
    restored = Invertd(keys="pred", orig_keys="image", nearest_interp=False, transform=transforms)(
        prepared
    )["pred"]
    return Original(inputs, logits[1] - logits[0], restored[1] - restored[0])


@pytest.mark.parametrize(
    ("grid", "scaling"), [("turned", "percentile"), ("turned", "range"), ("autopet", "percentile")]
)
def test_whole_path_is_that_of_the_original(grid, scaling, original_network, checkpoint, tmp_path):
    image_path, clicks_path = tmp_path / "suv.nii.gz", tmp_path / "clicks.json"
    model_path, mask_path = tmp_path / "model.safetensors", tmp_path / "mask.nii.gz"
    write_image(image_path, GRIDS[grid])
    clicks_path.write_text(json.dumps(CLICKS))
    words = ["import-weights", str(checkpoint), "--out", str(model_path)]
    # the percentiles are the default
    assert main([*words, *(["--scaling", "range"] if scaling == "range" else [])]) == 0
    words = ["segment", str(image_path), "--model", str(model_path), "--device", "cpu"]
    words += ["--clicks", str(clicks_path), "--out", str(mask_path)]
    words += ["--set", f"inference.window=[{WINDOW},{WINDOW},{WINDOW}]"]
    assert main([*words, "--set", "inference.precision=float32"]) == 0
    expected = original_way(original_network, image_path, scaling)

    model = voxclick.load_model(model_path, "cpu")
    prepared = Preprocessing(model.settings.preprocessing).prepare(
        [voxclick.read_volume(image_path)]
    )
    clicks = voxclick.read_clicks(clicks_path)
    image, tumor, background = expected.inputs
    assert torch.allclose(prepared.image[0], image, rtol=0, atol=SAME_INTENSITY)
    assert model.settings.guidance is not None
    disks = build_encoder(model.settings.guidance, prepared.geometry.spacing_mm).encode(
        prepared.clicks_to_network(clicks, model.settings.labels), prepared.geometry.shape
    )
    assert torch.equal(disks, torch.stack([background, tumor]))  # in our order

    session = voxclick.InteractiveSession(
        replace(model, network=in_plain_layout(model.network)),
        prepared,
        model.settings.inference.model_copy(
            update={"window": (WINDOW,) * 3, "precision": "float32"}
        ),
    )
    session.add(clicks)
    (margins,) = session.margins(Box.of_shape(expected.network.shape))
    assert torch.allclose(margins, expected.network, rtol=0, atol=SAME_LOGITS)
    assert expected.network.std() > 0.5

    mask = nibabel.load(mask_path)
    assert np.allclose(mask.affine, nibabel.load(image_path).affine, atol=1e-5)
    voxels = np.asarray(mask.dataobj)
    is_undecided = expected.file.abs().numpy() < UNDECIDED
    assert np.array_equal(voxels[~is_undecided], expected.file.numpy()[~is_undecided] > 0)
    assert is_undecided.mean() < 0.01
    assert 0.05 < voxels.mean() < 0.95
