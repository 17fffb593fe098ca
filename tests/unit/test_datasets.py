"""Layouts of data sets, against folders written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from voxclick.datasets import (
    Case,
    check_cases,
    first_by_name,
    is_dataset,
    k_folds,
    read_dataset,
    read_images,
    train_validation_split,
)
from voxclick.errors import DatasetError, UsageError


def write(path: Path, shape=(4, 5, 6), *, value=0, origin=0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(shape, dtype=np.uint8)
    voxels[0, 0, 0] = value
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = origin
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(cases) -> list[str]:
    return [case.name for case in cases]


def test_nnunet_folder_with_two_channels(tmp_path):
    touch(
        tmp_path,
        *(f"imagesTr/{name}_{channel}.nii.gz" for name in "ba" for channel in ("0000", "0001")),
        *(f"labelsTr/{name}.nii.gz" for name in "ab"),
        "imagesTs/c_0000.nii.gz",
        "imagesTs/c_0001.nii.gz",
        "imagesTr/.hidden_0000.nii.gz",
        "imagesTr/readme.txt",
    )
    description = {
        "channel_names": {"1": "PET", "0": "CT"},
        "labels": {"background": 0, "lesion": 1, "bladder": 2},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert names(dataset.train) == ["a", "b"]
    assert [path.name for path in dataset.train[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.train[0].label == tmp_path / "labelsTr" / "a.nii.gz"
    assert names(dataset.test) == ["c"]
    assert dataset.test[0].label is None
    assert dataset.channels == ("CT", "PET")
    assert dataset.labels == ("background", "lesion", "bladder")


def test_nnunet_folder_without_json_and_channel_numbers(tmp_path):
    touch(tmp_path, "imagesTr/STS_001.nii.gz", "labelsTr/STS_001.nii.gz")
    dataset = read_dataset(tmp_path)
    assert names(dataset.train) == ["STS_001"]
    assert (dataset.labels, dataset.channels) == (("background", "tumor"), ("image",))
    assert read_dataset(tmp_path, ("background", "gtv")).labels == ("background", "gtv")


def test_names_that_end_in_a_number_are_not_channels(tmp_path):
    touch(
        tmp_path,
        *(f"imagesTr/BRATS_000{number}.nii.gz" for number in (1, 2)),
        *(f"labelsTr/BRATS_000{number}.nii.gz" for number in (1, 2)),
        "imagesTs/BRATS_0007.nii.gz",
    )
    dataset = read_dataset(tmp_path)
    assert names(dataset.train) == ["BRATS_0001", "BRATS_0002"]
    assert names(dataset.test) == ["BRATS_0007"]
    assert dataset.channels == ("image",)


def test_capital_suffixes_are_suffixes(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.PNG", "labelsTr/a.Png", "imagesTr/b.NII.GZ", "labelsTr/b.nii")
    assert names(read_dataset(tmp_path).train) == ["a", "b"]


def test_nnunet_problems_are_named_all_at_once(tmp_path):
    touch(
        tmp_path,
        "imagesTr/a_0000.nii.gz",
        "imagesTr/b_0001.nii.gz",
        "labelsTr/b.nii.gz",
        "labelsTr/c.nii.gz",
        "imagesTr/d_0000.nii.gz",
        "imagesTr/d_0000.nrrd",
        "labelsTr/d.nrrd",
    )
    with pytest.raises(DatasetError) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert "4 problem(s)" in text
    assert "a has no label" in text
    assert "b lacks channel(s) [0]" in text
    assert "c.nii.gz has no image" in text
    assert "the same channel" in text


def test_decathlon_json(tmp_path):
    content = {
        "modality": {"0": "PET"},
        "labels": {"0": "bg", "1": "tumor"},
        "training": [
            {"image": "./imagesTr/p2.nii.gz", "label": "./labelsTr/p2.nii.gz", "group": "P"},
            {"image": "./imagesTr/p1.nii.gz", "label": "./labelsTr/p1.nii.gz", "group": "P"},
        ],
        "validation": [{"image": ["v_0000.nii.gz"], "label": "v.nii.gz"}],
        "test": ["./imagesTs/t.nii.gz"],
    }
    touch(tmp_path, "imagesTr/p1.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "dataset.json"):
        dataset = read_dataset(path)
        assert names(dataset.train) == ["p1", "p2", "v"]
        assert [case.group for case in dataset.train] == ["P", "P", None]
        assert names(dataset.test) == ["t"]
        assert dataset.labels == ("background", "tumor")
        assert dataset.channels == ("PET",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"training": {"a": 1}}', "expected a list of cases"),
        ('{"training": [{"label": "a"}]}', "expected a case as"),
        ('{"training": [{"image": "a.nii"}]}', "a has no label"),
        ('{"labels": {"0": "background", "2": "x"}, "training": []}', "without a gap"),
        ('{"labels": {"background": 0, "x": [1, 2]}, "training": []}', "regions"),
        ('{"labels": "tumor", "training": []}', "expected labels as"),
        ('{"modality": "CT", "training": []}', "expected channels as"),
        ('{"channel_names": {"ct": "CT"}, "training": []}', "expected channels as"),
        ('{"training": [{"image": null, "label": "a"}]}', "expected the image as"),
        ('{"training": [{"image": ["a.nii", 3], "label": "a"}]}', "expected the image as"),
        ('{"training": [{"image": [], "label": "a"}]}', "expected the image as"),
    ],
)
def test_json_of_another_form_is_refused(content, message, tmp_path):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=r"dataset\.json") as error:
        read_dataset(tmp_path)
    assert message in str(error.value)


def test_labels_may_be_a_list_in_order(tmp_path):
    content = {"labels": ["background", "liver", "tumor"], "training": []}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert read_dataset(tmp_path).labels == ("background", "liver", "tumor")


def test_one_folder_per_case(tmp_path):
    cases = [{"image": f"p{i}/SUV.nii", "label": f"p{i}/SEG.nii"} for i in range(2)]
    cases.append({"image": "p2/SUV.nii", "label": "p2/SEG.nii", "name": "third"})
    (tmp_path / "dataset.json").write_text(json.dumps({"training": cases}))
    assert names(read_dataset(tmp_path).train) == ["p0_SUV", "p1_SUV", "third"]
    listed = tmp_path / "cases.csv"
    listed.write_text("image,label\np0/SUV.nii,p0/SEG.nii\np1/SUV.nii,p1/SEG.nii\n")
    assert names(read_dataset(listed).train) == ["p0_SUV", "p1_SUV"]


def test_list_file_with_channels_groups_and_a_split(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(
        "image_CT,image_PET,label,split,group,name\n"
        "b/ct.nii,b/pet.nii,b/seg.nii,,P1,second\n"
        "a/ct.nii,a/pet.nii,a/seg.nii,train,P1,first\n"
        "c/ct.nii,c/pet.nii,,test,,third\n"
    )
    dataset = read_dataset(path)
    assert names(dataset.train) == ["first", "second"]
    assert dataset.train[0] == Case(
        "first",
        (tmp_path / "a/ct.nii", tmp_path / "a/pet.nii"),
        tmp_path / "a/seg.nii",
        "P1",
    )
    assert dataset.test[0].label is None
    assert dataset.channels == ("CT", "PET")


def test_list_file_as_spreadsheets_save_it(tmp_path):
    path = tmp_path / "cases.CSV"
    path.write_text("image,label,,\na.nii,l.nii,,,\n,,,\nb.nii,m.nii\n", encoding="utf-8-sig")
    assert [case.name for case in read_dataset(path).train] == ["a", "b"]
    path.write_text("image,label\na.nii,l.nii,left\n")
    with pytest.raises(DatasetError, match="line 2: has more entries than the header"):
        read_dataset(path)
    for encoding in ("cp1252", "utf-16"):
        path.write_text("image,label\nMüller.nii,l.nii\n", encoding=encoding)
        with pytest.raises(DatasetError, match="is no table in UTF-8"):
            read_dataset(path)


@pytest.mark.parametrize("name", ["p1/s1", "..", "a\\b"])
def test_a_case_is_called_as_a_file_can_be(name, tmp_path):
    (tmp_path / "cases.csv").write_text(f"image,label,name\na.nii,l.nii,{name}\n")
    entry = {"image": "a.nii", "label": "l.nii", "name": name}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    for path in (tmp_path / "cases.csv", tmp_path / "dataset.json"):
        with pytest.raises(DatasetError, match=f"{path.name}.*expected one without / and"):
            read_dataset(path)


def test_a_label_that_is_there_twice_is_refused(tmp_path):
    for file in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a.mha"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(DatasetError, match=r"labelsTr/a\.nii\.gz and a\.mha are the same image"):
        read_dataset(tmp_path)


def test_list_file_names_every_bad_line(tmp_path):
    path = tmp_path / "cases.tsv"
    path.write_text("image\tlabel\tsplit\na.nii\t\ttrain\n\tb.nii\ttrain\nc.nii\tc\tvalid\n")
    with pytest.raises(DatasetError) as error:
        read_dataset(path)
    text = str(error.value)
    assert "3 problem(s)" in text
    assert "line 2: a training case needs a label" in text
    assert "line 3: image is empty" in text
    assert "line 4: split must be train or test, got 'valid'" in text


@pytest.mark.parametrize("text", ["", "image,label\n", "scan,label\na,b\n", "image,colour\na,b\n"])
def test_list_file_without_the_columns_is_refused(text, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match="expected the columns image"):
        read_dataset(path)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such data set"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a data set"):
        read_dataset(tmp_path)


def test_training_cases_may_lack_their_label_where_none_is_required(tmp_path):
    touch(
        tmp_path,
        "data/imagesTr/a.nii.gz",
        "data/imagesTr/b_0000.nii.gz",
        "data/labelsTr/a.nii.gz",
        "data/imagesTs/c.nii.gz",
    )
    (tmp_path / "listed.json").write_text(
        '{"training": [{"image": "a.nii", "label": "a"}, {"image": "b.nii"}], "test": ["c.nii"]}'
    )
    (tmp_path / "listed.csv").write_text("image,label,split\na.nii,l.nii,\nb.nii,,\nc.nii,,test\n")
    for path in (tmp_path / "data", tmp_path / "listed.json", tmp_path / "listed.csv"):
        assert is_dataset(path)
        with pytest.raises(DatasetError, match=r"1 problem\(s\)"):
            read_dataset(path)
        dataset = read_dataset(path, labels_required=False)
        assert names(dataset.train) == ["a", "b"]
        assert [case.label is None for case in dataset.train] == [False, True]
        assert names(dataset.test) == ["c"]


def test_bare_images(tmp_path):
    touch(
        tmp_path, *(f"in/{name}" for name in ("b.nrrd", "a_0000.nii.gz", "a_0001.nii.gz", "c.txt"))
    )
    touch(tmp_path, "in/deep/b.nii", "in/deep/d.mha", "in/.hidden.nii")
    folder = tmp_path / "in"
    assert not is_dataset(folder)
    assert read_images([folder], 1) == (
        Case("a_0000", (folder / "a_0000.nii.gz",), None),
        Case("a_0001", (folder / "a_0001.nii.gz",), None),
        Case("b", (folder / "b.nrrd",), None),
    )
    two = read_images([folder], 2)
    assert [(case.name, len(case.images)) for case in two] == [("a", 2), ("b", 1)]
    # a file named twice is one case, and equal names get their folder's in front
    both = read_images([folder, folder / "b.nrrd", folder / "deep"], 1)
    assert names(both) == ["a_0000", "a_0001", "d", "deep_b", "in_b"]


def test_what_is_no_image_is_named_all_at_once(tmp_path):
    touch(tmp_path, "empty/notes.txt", "a_0000.nii", "a_0002.nii")
    paths = [tmp_path / name for name in ("empty", "gone.nii", "a_0000.nii", "a_0002.nii")]
    with pytest.raises(DatasetError) as error:
        read_images([*paths, tmp_path / "empty/notes.txt"], 3)
    text = str(error.value)
    assert "4 problem(s)" in text
    assert "empty: holds no image" in text
    assert "gone.nii: there is no such file or folder" in text
    assert "notes.txt: neither a data set nor an image" in text
    assert "a lacks channel(s) [1]" in text


def test_check_names_every_problem_of_every_case(tmp_path):
    def case(name, image, label):
        return Case(name, (image,), label)

    good = case("good", write(tmp_path / "g.nii"), write(tmp_path / "gl.nii", value=1))
    check_cases([good], ("background", "tumor"), ("image",))
    cases = [
        good,
        case("good", good.images[0], good.label),
        case("shape", write(tmp_path / "s.nii"), write(tmp_path / "sl.nii", (4, 5, 7))),
        case("affine", write(tmp_path / "a.nii"), write(tmp_path / "al.nii", origin=3)),
        case("label", write(tmp_path / "l.nii"), write(tmp_path / "ll.nii", value=3)),
        case("missing", tmp_path / "m.nii", write(tmp_path / "ml.nii")),
        Case("channels", (good.images[0], good.images[0]), good.label),
    ]
    seen: list[str] = []
    with pytest.raises(DatasetError) as error:
        check_cases(
            cases, ("background", "tumor"), ("image",), on_case=lambda c: seen.append(c.name)
        )
    text = str(error.value)
    assert "6 problem(s)" in text
    assert seen == names(cases)
    for line in (
        "good: 2 cases have this name",
        "shape: ",
        "(4, 5, 7)",
        "affine: ",
        "first voxel at (3, 0, 0) mm",
        "label: ",
        "missing: ",
        "channels: expected 1 image(s) (image), got 2",
    ):
        assert line in text


def some_cases(groups: str) -> list[Case]:
    return [Case(f"c{i:02d}", (), None, group) for i, group in enumerate(groups)]


def test_split_keeps_patients_together_and_follows_the_seed():
    cases = some_cases("AABBCCDDEEFFGGHH")
    training, validation = train_validation_split(cases, 0.25, seed=1)
    assert {c.group for c in training}.isdisjoint({c.group for c in validation})
    assert (len(training), len(validation)) == (12, 4)
    assert train_validation_split(cases[::-1], 0.25, seed=1) == (training, validation)
    others = {train_validation_split(cases, 0.25, seed=seed)[1] for seed in range(10)}
    assert len(others) > 1
    assert train_validation_split(cases, 0, seed=1) == (tuple(cases), ())
    with pytest.raises(UsageError, match="leaves none"):
        train_validation_split(cases, 0.99, seed=1)


def test_every_case_is_validated_in_exactly_one_fold():
    cases = some_cases("ABCDEFFGHI")
    folds = k_folds(cases, 3, seed=0)
    validated = sorted(name for _, validation in folds for name in names(validation))
    assert validated == names(cases)
    assert all(sorted(names(a) + names(b)) == names(cases) for a, b in folds)
    with pytest.raises(UsageError):
        k_folds(cases, 10, seed=0)


def test_the_first_by_name():
    assert names(first_by_name(some_cases("ABCD")[::-1], 2)) == ["c00", "c01"]


def test_real_folders_are_read(data_root):
    dataset = read_dataset(data_root / "pet-sts")
    assert (len(dataset.train), len(dataset.test)) == (28, 8)
    check_cases((*dataset.train, *dataset.test), dataset.labels, dataset.channels)
