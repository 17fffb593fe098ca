"""Pictures of an evaluation."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
from matplotlib import image as picture

from voxclick import Click, LabelMap, Volume
from voxclick.evaluation.plots import _CanonicalView, plot_case, plot_curve


def scores(name: str, *dice: float, empty=False) -> list[dict[str, object]]:
    return [
        {"case": name, "repeat": 0, "step": step, "dice": value, "empty_label": empty}
        for step, value in enumerate(dice)
    ]


def test_curve_of_lesion_free_cases_alone(tmp_path):
    plot_curve(pd.DataFrame(scores("n", 0, 1, 1, empty=True)), tmp_path / "curve.png", "none")
    assert picture.imread(tmp_path / "curve.png").std() > 0


def test_curve_of_many_cases(tmp_path):
    table = pd.DataFrame([*scores("a", 0.2, 0.6, 0.5), *scores("b", 0.4, 0.8, 0.9)])
    plot_curve(table, tmp_path / "curve.png", "two cases")
    assert picture.imread(tmp_path / "curve.png").shape[:2] == (630, 960)


def test_a_case_is_drawn_upright_whatever_its_orientation(tmp_path):
    """The same scan stored in two orientations gives the same picture, clicks included."""
    rng = np.random.default_rng(0)
    voxels = rng.random((16, 18, 20)).astype(np.float32)
    label = np.zeros(voxels.shape, np.uint8)
    label[4:9, 5:9, 6:12] = 1
    click = (5, 6, 8)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    orientation = np.array([[2, -1], [0, 1], [1, -1]])
    turned = nibabel.Nifti1Image(voxels, affine).as_reoriented(orientation)
    turned_label = nibabel.Nifti1Image(label, affine).as_reoriented(orientation)
    to_turned = np.linalg.inv(turned.affine) @ affine
    i, j, k = np.rint(to_turned @ [*click, 1])[:3].astype(int).tolist()
    for name, image, truth, index in (
        ("plain", voxels, label, click),
        ("turned", turned.get_fdata(dtype=np.float32), np.asarray(turned_label.dataobj), (i, j, k)),
    ):
        matrix = affine if name == "plain" else turned.affine
        mask = LabelMap(np.ascontiguousarray(truth), matrix)
        plot_case(
            Volume(np.ascontiguousarray(image), matrix),
            mask,
            {"after": mask},
            [Click(index, "tumor")],
            tmp_path / f"{name}.png",
        )
    plain, turned_picture = (picture.imread(tmp_path / f"{n}.png") for n in ("plain", "turned"))
    assert np.array_equal(plain, turned_picture)


def test_canonical_voxels_by_hand():
    view = _CanonicalView(np.diag([-2.0, 3.0, 4.0, 1.0]), (10, 11, 12))
    assert view.index((0, 1, 2)) == (9, 1, 2)
    assert view.spacing == (2.0, 3.0, 4.0)
    assert view.aspect(0, 2) == 2.0


def test_a_volume_without_anything_above_zero_can_be_drawn(tmp_path):
    mask = LabelMap(np.zeros((6, 6, 6), np.uint8), np.eye(4))
    for name, voxels in (("ct", np.linspace(-2, -1, 216)), ("flat", np.zeros(216))):
        image = Volume(voxels.reshape(6, 6, 6).astype(np.float32), np.eye(4))
        plot_case(image, mask, {"after": mask}, [], tmp_path / f"{name}.png")
        assert picture.imread(tmp_path / f"{name}.png").size


def test_of_a_slice_there_is_one_view_whatever_its_orientation(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.random((16, 18)).astype(np.float32)
    truth = np.zeros(pixels.shape, np.uint8)
    truth[4:9, 5:9] = 1
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    pictures = []
    for flips in (1, -1):
        matrix = affine * (1, flips, 1, 1)
        turned = [array[:, ::flips, None] for array in (pixels, truth)]
        mask = LabelMap(turned[1], matrix)
        click = Click((5, 6 if flips == 1 else 18 - 1 - 6, 0), "tumor")
        plot_case(Volume(turned[0], matrix), mask, {"after": mask}, [click], tmp_path / "a.png")
        pictures.append(picture.imread(tmp_path / "a.png"))
    assert np.array_equal(*pictures)
    height, width = pictures[0].shape[:2]
    assert height < width  # truth and one prediction, side by side
    without = LabelMap(np.zeros((1, 16, 18), np.uint8), affine)
    plot_case(Volume(pixels[None], affine), without, {"after": without}, [], tmp_path / "b.png")
    assert picture.imread(tmp_path / "b.png").std() > 0
