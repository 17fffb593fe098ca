"""Tables, summaries and pictures of an evaluation, from scores made up by hand."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pytest
from matplotlib import image as picture
from rich.console import Console

from voxclick import Click, LabelMap, Volume
from voxclick.cli.evaluate import print_summary
from voxclick.evaluation.plots import _CanonicalView, plot_case, plot_curve
from voxclick.evaluation.results import StepScore, scores_table, summarise
from voxclick.evaluation.settings import EvaluationSettings

SETTINGS = EvaluationSettings(steps=2)


def scores(name: str, dice: list[float], *, empty=False) -> list[StepScore]:
    return [
        StepScore(name, step, value, {"tumor": value}, empty, {"tumor": empty}, step, 8, 0.5)
        for step, value in enumerate(dice)
    ]


def test_means_spread_and_improvement_by_hand():
    table = scores_table([*scores("a", [0.2, 0.6, 0.5]), *scores("b", [0.4, 0.8, 0.9])])
    assert list(table.columns[:3]) == ["case", "step", "dice"]
    summary = summarise(table, SETTINGS)
    assert summary["dice"] == [0.3, 0.7, 0.7]
    assert summary["dice_std"] == pytest.approx([0.1, 0.1, 0.2])
    assert summary["dice_per_label"] == {"tumor": [0.3, 0.7, 0.7]}
    assert summary["consistent_improvement"] == 0.75
    assert (summary["protocol"], summary["cases"], summary["steps"]) == ("largest-error", 2, 2)
    assert "lesion_free" not in summary


def test_lesion_free_cases_stand_apart():
    table = scores_table([*scores("a", [0.2, 0.6, 0.6]), *scores("n", [0, 1, 1], empty=True)])
    summary = summarise(table, SETTINGS)
    assert summary["cases"] == 2
    assert summary["dice"] == [0.2, 0.6, 0.6]
    assert summary["lesion_free"] == {
        "cases": 1,
        "dice": [0.0, 1.0, 1.0],
        "dice_std": [0.0, 0.0, 0.0],
    }


def test_a_label_that_a_case_does_not_have_is_left_out_of_its_mean():
    dice, empty = {"liver": 0.4, "tumor": 0.6}, {"liver": False, "tumor": False}
    both = StepScore("a", 0, 0.5, dice, False, empty, clicks=0, windows=8, seconds=2.0)
    dice, empty = {"liver": 0.8, "tumor": 1.0}, {"liver": False, "tumor": True}
    liver = StepScore("b", 0, 0.8, dice, False, empty, clicks=0, windows=0, seconds=0.0)
    summary = summarise(scores_table([both, liver]), EvaluationSettings(steps=0))
    assert summary["dice_per_label"] == {"liver": [0.6], "tumor": [0.6]}
    # and times are those of predictions that were made
    assert (summary["seconds_per_step"], summary["windows_per_step"]) == (2.0, 8.0)


def test_nothing_but_lesion_free_cases(tmp_path):
    table = scores_table(scores("n", [0, 1, 1], empty=True))
    summary = summarise(table, SETTINGS)
    assert summary["dice"] == []
    assert summary["consistent_improvement"] is None
    plot_curve(table, tmp_path / "curve.png", "none")
    assert picture.imread(tmp_path / "curve.png").std() > 0
    text = io.StringIO()
    print_summary(summary, Console(file=text))
    assert "1.0000" in text.getvalue()
    assert "1 lesion-free" in text.getvalue()


def test_curve_of_many_cases(tmp_path):
    table = scores_table([*scores("a", [0.2, 0.6, 0.5]), *scores("b", [0.4, 0.8, 0.9])])
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
