"""Masks from elsewhere: which file belongs to which, and what cannot be scored."""

from __future__ import annotations

import numpy as np
import pytest

from voxclick import LabelMap, Volume, write_label_map, write_volume
from voxclick.errors import UsageError
from voxclick.evaluation.masks import (
    Mismatch,
    label_files,
    masks_table,
    match_masks,
    score_masks,
    summarise_masks,
)

LABELS = ("background", "tumor")
SHAPE = (8, 8, 8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def folders(tmp_path):
    for name in ("labels", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path / "labels", tmp_path / "masks"


def put(path, *boxes, value=1, shape=SHAPE, affine=AFFINE):
    """A label map with boxes (start, stop) along i of 2 x 2 voxels."""
    voxels = np.zeros(shape, dtype=np.int16)
    for start, stop in boxes:
        voxels[start:stop, 2:4, 2:4] = value
    write_label_map(LabelMap(voxels, affine), path)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def paired(labels, masks, annotations=None):
    pairs, mismatches = match_masks(labels, masks, annotations)
    found = [(pair.name, pair.label.name, pair.prediction.name) for pair in pairs]
    return found, [(mismatch.name, mismatch.problem) for mismatch in mismatches]


def test_masks_are_matched_by_name_whatever_their_suffix(folders):
    labels, masks = folders
    touch(labels, "a.nii.gz", "b.mha", "notes.txt", ".hidden.nii.gz")
    touch(masks, "b.nii.gz", "a.nrrd", "._a.nii.gz")
    assert paired(labels, masks) == (
        [("a", "a.nii.gz", "a.nrrd"), ("b", "b.mha", "b.nii.gz")],
        [],
    )


def test_names_of_nnunets_images_are_tolerated_on_either_side(folders):
    labels, masks = folders
    touch(labels, "a.nii", "b_0000.nii", "c_0000.nii", "c_0001.nii")
    touch(masks, "a_0000.nii", "b.nii", "c_0000.nii", "c_0001.nii")
    found, mismatches = paired(labels, masks)
    assert [(label, mask) for _, label, mask in found] == [
        ("a.nii", "a_0000.nii"),
        ("b_0000.nii", "b.nii"),
        ("c_0000.nii", "c_0000.nii"),
        ("c_0001.nii", "c_0001.nii"),
    ]
    assert mismatches == []


def test_what_has_no_counterpart_or_two_is_listed(folders):
    labels, masks = folders
    touch(labels, "a.nii", "lonely.nii")
    touch(masks, "a.mha", "a_0000.nii", "stray.nii")
    found, mismatches = paired(labels, masks)
    assert found == [("a", "a.nii", "a.mha")]
    assert mismatches == [
        ("a", f"{masks / 'a_0000.nii'}: has the name of a.mha, which was taken instead"),
        ("stray", f"{masks / 'stray.nii'}: has no label of this name in {labels}"),
        ("lonely", f"{labels / 'lonely.nii'}: has no mask of this name in {masks}"),
    ]


def test_masks_of_annotators_belong_to_their_case(folders):
    labels, masks = folders
    touch(labels, "a.nii", "b.nii", "b_ben.nii")
    touch(masks, "a.nii", "a_anna.nii", "a_ben.nii", "b_ben.nii")
    annotations = {"a_anna": "a", "a_ben": "a", "b_ben": "b"}
    found, mismatches = paired(labels, masks, annotations)
    assert [(name, label) for name, label, _ in found] == [
        ("a", "a.nii"),
        ("a_anna", "a.nii"),
        ("a_ben", "a.nii"),
        ("b_ben", "b_ben.nii"),  # a case of that very name comes first
    ]
    assert [name for name, _ in mismatches] == ["b"]


def test_two_files_belong_together_whatever_their_names(folders, tmp_path):
    labels, masks = folders
    touch(labels, "truth.nii")
    touch(masks, "other.mha")
    one, other = labels / "truth.nii", masks / "other.mha"
    assert paired(one, other) == ([("truth", "truth.nii", "other.mha")], [])
    assert label_files(one) == {"truth": one}
    with pytest.raises(UsageError, match="expected two folders or two files, got one of each"):
        match_masks(one, masks)
    for arguments in ((tmp_path / "none", masks), (labels, tmp_path / "none")):
        with pytest.raises(UsageError, match="none: there is no such file or folder"):
            match_masks(*arguments)
    with pytest.raises(UsageError, match="LABELS"):
        label_files(tmp_path / "none")
    other.unlink()
    with pytest.raises(UsageError, match=r"PREDICTIONS .* holds no image \(\.nii"):
        match_masks(labels, masks)


def scored(labels, masks, names=LABELS):
    pairs, unmatched = match_masks(labels, masks)
    told = []
    found, unscored = score_masks(pairs, names, lambda: told.append(1))
    assert len(told) == len(pairs)
    return masks_table(found), (*unmatched, *unscored)


def test_scores_by_hand(folders):
    labels, masks = folders
    put(labels / "a.nii.gz", (0, 4))  # 16 voxels of 8 mm³
    put(masks / "a.nii.gz", (2, 4), (6, 7))  # 8 of them, and 4 elsewhere
    put(labels / "b.nii.gz", (0, 4))
    put(masks / "b.nii.gz", (0, 4))
    put(labels / "c.nii.gz")
    put(masks / "c.nii.gz", (0, 1))
    table, mismatches = scored(labels, masks)
    assert list(table.case) == ["a", "b", "c"]
    assert list(table.dice) == pytest.approx([2 * 8 / (12 + 16), 1, 0])
    assert list(table.fpv_ml) == pytest.approx([0.032, 0, 0.032])
    assert list(table.lesion_precision) == pytest.approx([0.5, 1, 0])
    assert mismatches == ()
    summary = summarise_masks(table, mismatches)
    assert summary["masks"] == 3
    assert summary["dice"] == {"mean": 0.7857, "std": 0.2143, "median": 0.7857}
    assert summary["fpv_ml"]["mean"] == 0.016
    assert summary["lesion_free"] == {
        "masks": 1,
        "dice": {"mean": 0.0, "std": 0.0, "median": 0.0},
        "fpv_ml": {"mean": 0.032, "std": 0.0, "median": 0.032},
    }
    assert summary["mismatches"] == []


def test_several_labels_each_have_their_own_scores(folders):
    labels, masks = folders
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[0:2], voxels[4:6] = 1, 2
    names = ("background", "liver", "tumor")
    write_label_map(LabelMap(voxels, AFFINE), labels / "both.nii")
    write_label_map(LabelMap(voxels, AFFINE), masks / "both.nii")
    put(labels / "liver.nii", (0, 4))
    put(masks / "liver.nii", (0, 2))
    table, mismatches = scored(labels, masks, names)
    assert mismatches == ()
    summary = summarise_masks(table, mismatches)
    assert summary["per_label"]["liver"]["dice"]["mean"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)
    # the tumour counts only where there is one
    assert summary["per_label"]["tumor"]["dice"] == {"mean": 1.0, "std": 0.0, "median": 1.0}


def test_nothing_but_lesion_free_cases_leaves_scores_undefined(folders):
    labels, masks = folders
    put(labels / "a.nii")
    put(masks / "a.nii")
    summary = summarise_masks(*scored(labels, masks))
    assert summary["dice"] == {"mean": None, "std": None, "median": None}
    assert summary["lesion_free"]["dice"]["mean"] == 1


def test_what_cannot_be_scored_does_not_stop_the_rest(folders):
    labels, masks = folders
    moved, probable = AFFINE.copy(), np.full(SHAPE, 0.5, dtype=np.float32)
    moved[0, 3] = 3
    for name in "abcdef":
        put(labels / f"{name}.nii.gz", (0, 4))
    put(masks / "a.nii.gz", (0, 4), shape=(8, 8, 9))
    put(masks / "b.nii.gz", (0, 4), affine=moved)
    put(masks / "c.nii.gz", (0, 2), (4, 6), value=300)
    (masks / "d.nii.gz").write_bytes(b"no image")
    write_volume(Volume(probable, AFFINE), masks / "e.nii.gz")
    put(masks / "f.nii.gz", (0, 4))
    table, mismatches = scored(labels, masks)
    assert list(table.case) == ["f"]
    problems = {mismatch.name: mismatch.problem for mismatch in mismatches}
    assert "another grid" in problems["a"]
    assert "expected (8, 8, 8) voxels, got (8, 8, 9)" in problems["a"]
    assert "corners lie up to 3 mm apart" in problems["b"]
    assert "holds values without a label: 300" in problems["c"]
    assert "with --labels background,tumor,NAME" in problems["c"]
    assert "d.nii.gz" in problems["d"]
    assert "whole numbers" in problems["e"]
    assert "--labels" not in problems["d"] + problems["e"]
    assert not any("\n" in problem for problem in problems.values())
    summary = summarise_masks(table, mismatches)
    assert summary["masks"] == 1
    assert [entry["name"] for entry in summary["mismatches"]] == list("abcde")


def test_a_label_at_fault_is_listed_for_its_masks(folders):
    labels, masks = folders
    put(labels / "a.nii", (0, 4), value=2)
    put(masks / "a.nii", (0, 4))
    table, mismatches = scored(labels, masks)
    assert table.empty
    assert [mismatch.name for mismatch in mismatches] == ["a"]
    assert "labels/a.nii: holds values without a label: 2" in mismatches[0].problem
    summary = summarise_masks(table, mismatches)
    assert summary == {
        "masks": 0,
        "mismatches": [{"name": "a", "problem": mismatches[0].problem}],
    }
    assert isinstance(mismatches[0], Mismatch)
