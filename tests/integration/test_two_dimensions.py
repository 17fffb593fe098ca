"""2D images from training to masks: PNG files, and one-slice NIfTI along every axis."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets.dynunet import DynUNet
from PIL import Image
from scipy import ndimage

import voxclick
from voxclick.cli.main import main
from voxclick.geometry.box import Box
from voxclick.sliding_window import TensorSource

CONFIG = Path(__file__).resolve().parents[2] / "configs/png-2d.yaml"
SMALLER = [
    "data.validation_fraction=0.1",
    "network.options.filters=[8,16,16,16]",
    "network.options.deep_supervision_heads=0",
    "inference.window=[32,32,1]",
    "inference.precision=float32",
    "training.crop=[32,32,1]",
    "training.precision=float32",
    "training.epochs=2",
    "training.steps_per_epoch=100",
    "training.batch_size=4",
    "training.pool_size=24",
    "training.validate_every=2",
    "training.optimizer.learning_rate=0.006",
    "training.schedule.warmup_steps=10",
]
WINDOW = (32, 32)

PLACES = ((14, 12), (13, 38), (36, 14), (35, 40))
"""Of the blobs, (row, column)."""


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of four like blobs of which two are meant, and their mask; uint8 (row, column).

    No network can tell which two before it is shown.
    """
    generator = np.random.default_rng(seed)
    meant = generator.permutation(4)[:2]
    rows, columns = np.ogrid[:50, :54]
    picture, mask = np.full((50, 54), 60.0), np.zeros((50, 54), np.uint8)
    for number, (row, column) in enumerate(PLACES):
        a, b = generator.uniform(4, 8, 2)
        blob = ((rows - row) / a) ** 2 + ((columns - column) / b) ** 2 <= 1
        picture[blob] = 160
        mask[blob] = number in meant
    noise = generator.normal(0, 12, picture.shape)
    return np.clip(ndimage.gaussian_filter(picture, 1) + noise, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The folder that nnU-Net expects for its NaturalImage2DIO."""
    folder = tmp_path_factory.mktemp("pictures")
    for part, seeds in (("Tr", range(12)), ("Ts", range(12, 15))):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir()
        for seed in seeds:
            picture, mask = draw(seed)
            Image.fromarray(picture).save(folder / f"images{part}/case_{seed:02d}_0000.png")
            Image.fromarray(mask).save(folder / f"labels{part}/case_{seed:02d}.png")
    described = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, "blob": 1},
        "numTraining": 12,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    settings = [part for setting in SMALLER for part in ("--set", setting)]
    command = ["train", str(pictures), "--out", str(run), "--config", str(CONFIG), *settings]
    assert main([*command, "--device", "cpu"]) == 0
    return run / "model.safetensors"


@pytest.fixture
def picture_file(pictures) -> Path:
    return pictures / "imagesTs/case_12_0000.png"


def mask_of(*arguments: object, out: Path) -> np.ndarray:
    """What `voxclick segment` writes."""
    assert main(["segment", *map(str, arguments), "--out", str(out), "--device", "cpu"]) == 0
    if out.suffix == ".png":
        return np.asarray(Image.open(out))
    return np.asarray(nib.load(out).dataobj)


def scores(pictures: Path, model: Path, out: Path, *more: str) -> pd.DataFrame:
    command = ["evaluate", str(pictures), "--model", str(model), "--out", str(out), *more]
    assert main([*command, "--device", "cpu"]) == 0
    return pd.read_csv(out / "scores.csv")


def test_clicks_say_which_blobs_are_meant(pictures, model, tmp_path):
    table = scores(pictures, model, tmp_path, "--steps", "5")
    by_step = table.groupby("step")["dice"].mean()
    assert by_step[0] < 0.75  # half of the blobs are too many
    assert by_step[5] > by_step[0] + 0.2
    assert table["nsd"].between(0, 1).all()
    assert (tmp_path / "report.html").is_file()
    assert pd.read_csv(tmp_path / "baselines.csv")["dice"].between(0, 1).all()


@pytest.mark.parametrize("protocol", ["corrective", "autopet4", "autopet5", "cvpr2025"])
def test_every_protocol_has_a_user_for_pictures(protocol, pictures, model, tmp_path):
    options = ["--protocol", protocol, "--limit", "1", "--no-baselines"]
    table = scores(pictures, model, tmp_path, *options)
    assert table["clicks"].iloc[-1] > 0
    assert table["dice"].iloc[-1] > table["dice"].iloc[0]


# how a slice lies in the file, which voxel a pixel becomes, and where its axes point in RAS
# where the picture's columns go from left to right and its rows from top to bottom
LAYOUTS = {
    "two axes": (lambda pixels: pixels, "{0},{1},0", (-1, -1, 1)),
    "axial": (lambda pixels: pixels[:, :, None], "{0},{1},0", (-1, -1, 1)),
    "coronal": (lambda pixels: pixels[:, None, :], "{0},0,{1}", (-1, 1, -1)),
    "sagittal": (lambda pixels: pixels[None, :, :], "0,{0},{1}", (1, -1, -1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slice_along_any_axis_gets_the_mask_of_the_picture(layout, picture_file, model, tmp_path):
    (row, column), other = PLACES[0], PLACES[3]
    clicks = ["--click", f"{column},{row},0:blob", "--click", f"{other[1]},{other[0]},0:background"]
    expected = mask_of(picture_file, "--model", model, *clicks, out=tmp_path / "mask.png")
    assert expected.shape == (50, 54)
    assert expected.dtype == np.uint8
    assert expected[row, column] == 1
    assert expected[other] == 0

    arrange, voxel, directions = LAYOUTS[layout]
    pixels = np.asarray(Image.open(picture_file)).T
    image = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(arrange(pixels), np.diag([*directions, 1.0])), image)
    clicks = ["--click", voxel.format(column, row) + ":blob"]
    clicks += ["--click", voxel.format(other[1], other[0]) + ":background"]
    mask = mask_of(image, "--model", model, *clicks, out=tmp_path / "mask.nii.gz")
    assert np.array_equal(mask.squeeze(), expected.T)


def test_masks_are_those_of_a_2d_network_in_monai(picture_file, model, tmp_path):
    (row, column), other = PLACES[1], PLACES[2]
    clicks = ["--click", f"{column},{row},0:blob", "--click", f"{other[1]},{other[0]},0:background"]
    mask = mask_of(picture_file, "--model", model, *clicks, out=tmp_path / "mask.png")
    logits = logits_of_monai(picture_file, model, {"blob": (row, column), "background": other})
    assert np.array_equal(mask, logits.argmax(axis=0))
    without = logits_of_monai(picture_file, model, {})
    assert not np.array_equal(mask, without.argmax(axis=0))

    session = voxclick.InteractiveSession(
        voxclick.load_model(model, "cpu"), voxclick.read_volume(picture_file)
    )
    session.click((column, row, 0), "blob")
    session.click((other[1], other[0], 0), "background")
    margins = session.margins(Box.of_shape((54, 50, 1)))[0, ..., 0].numpy()
    expected = (logits[1] - logits[0]).T[::-1, ::-1]
    np.testing.assert_allclose(margins, expected, atol=2e-5)


def logits_of_monai(picture_file: Path, model: Path, clicks) -> np.ndarray:
    """Logits (label, row, column) by MONAI's 2D network and inferer, from the PNG on."""
    network = DynUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=2,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        filters=[8, 16, 16, 16],
        norm_name="batch",
    )
    weights = {
        name: tensor.squeeze(-1) if tensor.ndim == 5 else tensor
        for name, tensor in voxclick.load_model(model, "cpu").network.state_dict().items()
    }
    network.load_state_dict(weights)
    pixels = np.asarray(Image.open(picture_file)).astype(np.float32)
    low, high = np.percentile(pixels, (0.5, 99.5))
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    guidance = np.zeros((2, *pixels.shape), np.float32)
    for channel, label in enumerate(("background", "blob")):
        if label in clicks:
            row, column = clicks[label]
            guidance[channel] = (rows - row) ** 2 + (columns - column) ** 2 <= 18
    scaled = np.clip((pixels - low) / (high - low), 0, 1)
    network_input = np.concatenate([scaled[None], guidance])
    # RAS+: the picture's columns go to the patient's left, its rows to the back
    turned = torch.from_numpy(network_input.transpose(0, 2, 1)[:, ::-1, ::-1].copy()).float()
    inferer = SlidingWindowInferer(WINDOW, overlap=0.25, mode="gaussian", sigma_scale=0.125)
    with torch.no_grad():
        (logits,) = inferer(turned[None], network.eval())
    return logits.numpy()[:, ::-1, ::-1].transpose(0, 2, 1)


def test_a_volume_is_looked_at_slice_by_slice(model):
    loaded = voxclick.load_model(model, "cpu")
    volume = torch.rand(3, 50, 40, 4, generator=torch.Generator().manual_seed(0))

    def margins_of(volume: torch.Tensor) -> torch.Tensor:
        shape = tuple(volume.shape[1:])
        return loaded.inference(shape).margins(TensorSource(volume), Box.of_shape(shape))

    of_slices = [margins_of(volume[..., k : k + 1]) for k in range(4)]
    assert torch.equal(margins_of(volume), torch.cat(of_slices, dim=-1))


def test_a_network_for_volumes_refuses_a_picture(picture_file, trained_run, tmp_path, capsys):
    arguments = ["segment", str(picture_file), "--model", str(trained_run / "model.safetensors")]
    assert main([*arguments, "--out", str(tmp_path / "mask.png")]) == 1
    shown = capsys.readouterr().err
    assert "case_12_0000.png" in shown
    assert "is a single slice, but the network looks at 16 together" in shown
    assert not (tmp_path / "mask.png").exists()


def test_training_with_crops_of_several_slices_refuses_pictures(
    pictures, config_file, tmp_path, capsys
):
    options = ["--set", "preprocessing.spacing_mm=null", "--config", str(config_file)]
    assert main(["train", str(pictures), "--out", str(tmp_path / "run"), *options]) == 1
    assert "case_00: is a single slice" in " ".join(capsys.readouterr().err.split())


def test_the_mask_goes_where_the_format_can_store_it(
    picture_file, model, phantom_folder, tmp_path, capsys
):
    volume = phantom_folder / "imagesTs/PHANTOM_003.nii.gz"
    arguments = ["segment", str(volume), "--model", str(model), "--out", str(tmp_path / "mask.png")]
    assert main(arguments) == 2
    assert "a PNG holds one slice" in capsys.readouterr().err
    mask = mask_of(picture_file, "--model", model, out=tmp_path / "mask.nii.gz")
    assert mask.shape == (54, 50, 1)


def test_another_backend_and_an_ensemble_take_pictures(picture_file, model, tmp_path):
    clicks = [f"--click={column},{row},0:background" for row, column in PLACES[:2]]
    alone = mask_of(picture_file, "--model", model, *clicks, out=tmp_path / "alone.png")
    twin = shutil.copy(model, tmp_path / "twin.safetensors")
    for options in (["--backend", "openvino"], ["--model", twin]):
        mask = mask_of(picture_file, "--model", model, *clicks, *options, out=tmp_path / "mask.png")
        assert np.array_equal(mask, alone)
    assert 0 < np.count_nonzero(alone) < alone.size / 2


def test_pictures_are_ranked_and_their_masks_scored(pictures, model, tmp_path):
    folder = tmp_path / "masks"
    for image in sorted((pictures / "imagesTs").iterdir()):
        name = image.name.replace("_0000", "")
        mask_of(image, "--model", model, out=folder / name)
    arguments = ["metrics", str(pictures / "labelsTs"), str(folder), "--labels", "background,blob"]
    assert main([*arguments, "--out", str(tmp_path / "scores")]) == 0
    by_file = pd.read_csv(tmp_path / "scores/scores.csv")["dice"]
    options = ["--steps", "1", "--no-baselines"]
    evaluated = scores(pictures, model, tmp_path / "evaluated", *options)
    assert by_file.tolist() == pytest.approx(evaluated.query("step == 0")["dice"].tolist())

    ranking = tmp_path / "ranking.csv"
    arguments = ["rank", str(pictures / "imagesTs"), "--model", str(model), "--out", str(ranking)]
    assert main(arguments) == 0
    for voxel in pd.read_csv(ranking)["voxel"]:
        i, j, k = map(int, voxel.split(","))
        assert (0 <= i < 54, 0 <= j < 50, k) == (True, True, 0)


def test_a_session_on_a_picture_takes_clicks_back(picture_file, model, tmp_path):
    loaded, picture = voxclick.load_model(model, "cpu"), voxclick.read_volume(picture_file)
    session = voxclick.InteractiveSession(loaded, picture)
    first = session.predict().label_map.voxels.copy()
    session.click((PLACES[0][1], PLACES[0][0], 0), "background")
    clicked = session.predict().label_map.voxels.copy()
    session.save(tmp_path / "session")
    again = voxclick.InteractiveSession.load(tmp_path / "session", loaded)
    assert np.array_equal(again.predict().label_map.voxels, clicked)
    session.undo()
    assert np.array_equal(session.predict().label_map.voxels, first)
    assert not np.array_equal(first, clicked)
