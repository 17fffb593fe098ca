"""Which cases a model is measured on: those whose labels and channels are the model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voxclick.cli import rank
from voxclick.config import RunConfig
from voxclick.datasets import Dataset
from voxclick.errors import DatasetError
from voxclick.model_files import ModelSettings
from voxclick.runs import Split, choose_cases


def model(labels=("background", "liver", "tumor"), channels=("CT", "PET")) -> ModelSettings:
    return RunConfig().model_settings(Dataset(Path(), (), (), labels, channels))


def list_file(folder: Path, *image_columns: str) -> Path:
    columns = [*image_columns, "label", "split"]
    values = [*(f"{column}.nii" for column in image_columns), "label.nii", "test"]
    path = folder / "cases.csv"
    path.write_text(f"{','.join(columns)}\n{','.join(values)}\n")
    return path


def dataset_json(folder: Path, **declared: object) -> Path:
    path = folder / "dataset.json"
    case = {"image": ["ct.nii", "pet.nii"], "label": "label.nii"}
    path.write_text(json.dumps({"training": [], "test": [case], **declared}))
    return path


@pytest.mark.parametrize("columns", [("image_CT", "image_PET"), ("image_PET", "image_CT")])
def test_channels_are_taken_in_the_models_order(tmp_path, columns):
    (case,) = choose_cases(list_file(tmp_path, *columns), Split.test, model())
    assert [path.name for path in case.images] == ["image_CT.nii", "image_PET.nii"]


def test_channels_of_other_names_are_refused(tmp_path):
    other = list_file(tmp_path, "image_CT", "image_MR")
    with pytest.raises(DatasetError, match="channels are CT, MR, but the model expects CT, PET"):
        choose_cases(other, Split.test, model())


@pytest.mark.parametrize(
    ("declared", "expected", "taken"),
    [
        ("CT", "PET", False),
        ("pet", "PET", True),
        ("SUV", "PET", False),
        ("image", "PET", True),
        ("CT", "channel 0", True),
        ("CT", "image", True),
    ],
)
def test_one_channel_by_its_name(declared, expected, taken, tmp_path):
    of_case = {"image": "ct.nii", "label": "label.nii"}
    data = dataset_json(tmp_path, test=[of_case], modality={"0": declared})
    settings = model().model_copy(update={"channels": (expected,)})
    if taken:
        assert len(choose_cases(data, Split.test, settings)) == 1
    else:
        with pytest.raises(DatasetError, match=f"channels are {declared}, but"):
            choose_cases(data, Split.test, settings)


def test_labels_in_the_models_order_are_taken_and_in_another_refused(tmp_path):
    same = dataset_json(tmp_path, labels={"background": 0, "liver": 1, "tumor": 2})
    assert len(choose_cases(same, Split.test, model())) == 1
    swapped = dataset_json(tmp_path, labels={"background": 0, "tumor": 1, "liver": 2})
    expected = "labels are background, tumor, liver, but the model expects background, liver, tumor"
    with pytest.raises(DatasetError, match=expected):
        choose_cases(swapped, Split.test, model())


def test_a_data_set_that_declares_nothing_is_taken(tmp_path):
    assert len(choose_cases(dataset_json(tmp_path), Split.test, model())) == 1


def test_channels_that_are_called_channel_are_still_names(tmp_path):
    data = dataset_json(tmp_path, channel_names={"0": "channel b", "1": "channel a"})
    (case,) = choose_cases(data, Split.test, model(channels=("channel a", "channel b")))
    assert [path.name for path in case.images] == ["pet.nii", "ct.nii"]


def test_a_model_gets_its_own_channels_by_their_names(tmp_path):
    data = list_file(tmp_path, "image_CT", "image_pet", "image_MR")
    (case,) = choose_cases(data, Split.test, model(channels=("PET", "CT")))
    assert [path.name for path in case.images] == ["image_pet.nii", "image_CT.nii"]
    (case,) = rank.choose_cases([data], model(channels=("PET",)), every=True)
    assert [path.name for path in case.images] == ["image_pet.nii"]
    with pytest.raises(DatasetError, match="channel 'SUV', found none; its channels are CT, pet"):
        choose_cases(data, Split.test, model(channels=("SUV",)))


def test_of_channels_without_names_none_is_guessed(tmp_path):
    with pytest.raises(DatasetError, match="channels are channel 0, channel 1"):
        choose_cases(dataset_json(tmp_path), Split.test, model(channels=("PET",)))
