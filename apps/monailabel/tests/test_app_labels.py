"""Labels that were saved by clients of the MONAI Label app, in the model's own numbers."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from lib.labels import OfOtherModelsError, read_saved_label
from voxclick.errors import DatasetError, GeometryError

LABELS = ("background", "liver", "tumor")


def saved(folder, *values, affine=None):
    """A label map whose first row along k holds the values."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[0, 0, : len(values)] = values
    path = folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def told(*entries):
    return {"label_info": [{"name": name, "idx": idx} for name, idx in entries]}


def read(path, info, labels=LABELS, others=(), image=None):
    label_map = read_saved_label(path, info, labels, others, image)
    assert label_map.labels == labels
    assert label_map.voxels.dtype == np.uint8
    return label_map.voxels[0, 0].tolist()


def test_without_names_the_values_are_the_models(tmp_path):
    assert read(saved(tmp_path, 1, 2, 0, 2), {}) == [1, 2, 0, 2, 0, 0]
    with pytest.raises(DatasetError, match="holds '3', but the labels are background, liver"):
        read(saved(tmp_path, 3), {})


def test_names_count_and_not_the_values(tmp_path):
    info = told(("tumor", 1), ("liver", 2))
    assert read(saved(tmp_path, 1, 2, 1), info) == [2, 1, 2, 0, 0, 0]
    # values of a client's own
    assert read(saved(tmp_path, 7, 40), told(("tumor", 7), ("liver", 40)))[:2] == [2, 1]


def test_slicers_numbers_with_segments_left_out(tmp_path):
    # of the segments background, tumor, scribbles, liver it saves the second and fourth, as 1 and 2
    info = told(("tumor", 2), ("liver", 4))
    assert read(saved(tmp_path, 1, 2), info)[:2] == [2, 1]
    assert read(saved(tmp_path, 1, 1), info)[:2] == [2, 2]
    # a 2 alone may be the second segment that was saved, or the one at the second place
    with pytest.raises(DatasetError, match=r"may be \['tumor'\], .*or \['liver'\]"):
        read(saved(tmp_path, 2), info)


def test_an_answer_of_the_app(tmp_path):
    info = {"model": "x", "params": {"label_names": {"background": 0, "tumor": 1}}}
    assert read(saved(tmp_path, 1, 0, 1), info) == [2, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("name", ["Tumor", "Segment_1"])
def test_names_that_nobody_knows_are_refused(name, tmp_path):
    path = saved(tmp_path, 1, 2)
    with pytest.raises(DatasetError, match=f"{path}: holds '{name}', but the labels are"):
        read(path, told((name, 1), ("liver", 2)))
    # a segment that is empty may be called anything
    assert read(saved(tmp_path, 2), told((name, 1), ("liver", 2)))[:1] == [1]


def test_labels_of_other_models_become_background(tmp_path):
    info = told(("tumor", 1), ("kidney", 2))
    assert read(saved(tmp_path, 1, 2), info, others=("kidney",))[:2] == [2, 0]
    with pytest.raises(OfOtherModelsError, match="holds 'kidney' alone, and none of liver, tumor"):
        read(saved(tmp_path, 2), info, others=("kidney",))
    assert read(saved(tmp_path), info, others=("kidney",)) == [0] * 6  # nothing there: no tumor


def test_a_label_lies_on_its_image(tmp_path):
    image = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), image)
    assert read(saved(tmp_path, 1), {}, image=image)[:1] == [1]
    moved = saved(tmp_path, 1, affine=np.diag([1, 1, 1.1, 1]))
    with pytest.raises(GeometryError, match="lies on another grid"):
        read(moved, {}, image=image)


@pytest.mark.parametrize(
    "info",
    [
        {"label_info": [{"name": "tumor"}]},
        {"label_info": ["tumor"]},
        {"label_info": [{"name": "tumor", "idx": None}]},
        {"label_info": "tumor"},
        {"params": {"label_names": ["tumor"]}},
        {"params": {"label_names": {"tumor": "one"}}},
    ],
)
def test_names_of_another_form_are_refused(info, tmp_path):
    with pytest.raises(DatasetError, match="names of another form than MONAI Label's"):
        read(saved(tmp_path, 1), info)


@pytest.mark.parametrize("info", [{"params": None}, {"params": "x"}, {"label_info": None}])
def test_what_says_nothing_of_names_is_passed_over(info, tmp_path):
    assert read(saved(tmp_path, 1), info)[:1] == [1]
