"""Published data sets: small stand-in trees under the names that the real files have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxclick.clicks import Click, read_clicks
from voxclick.config import RunConfig
from voxclick.datasets import (
    Case,
    ChallengeEdition,
    Dataset,
    challenge_clicks,
    challenge_mask,
    check_cases,
    is_autopet_challenge,
    is_dataset,
    k_folds,
    read_autopet_challenge,
    read_case_images,
    read_case_label,
    read_dataset,
    read_splits_final,
    select_channels,
    train_validation_split,
)
from voxclick.datasets.autopet_challenge import refuse_shared_clicks
from voxclick.datasets.image_files import read_images
from voxclick.errors import DatasetError, GeometryError
from voxclick.evaluation.case_records import digest_of_inputs
from voxclick.evaluation.runner import read_scan
from voxclick.io import read_label_map, write_label_map, write_volume
from voxclick.training.cache import PreparedCache
from voxclick.volume import LabelMap, Volume

PATIENT = "PETCT_0011f3deaf"
OTHER_PATIENT = "PETCT_01140d52d8"
STUDY = "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"
LATER_STUDY = "06-14-2004-NA-PET-CT Ganzkoerper nativ u. mit-95034"
OTHER_STUDY = "08-13-2005-NA-Unspecified CT ABDOMEN-56839"

UUID = "af3b6605-c2b9-4067-8af5-8b85aafb2ae3"
PET_UUID = "e260efef-0a29-4c68-972e-9e573c740de5"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(cases) -> list[str]:
    return [case.name for case in cases]


def affine(spacing: float = 2.0, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def image(path: Path, matrix: np.ndarray | None = None, shape=(8, 8, 8), value=1.0) -> Path:
    voxels = np.full(shape, value, np.float32)
    voxels[0, 0, 0] = 0
    write_volume(Volume(voxels, affine() if matrix is None else matrix), path)
    return path


def label(path: Path, matrix: np.ndarray | None = None, shape=(8, 8, 8), value=1) -> Path:
    voxels = np.zeros(shape, np.uint8)
    voxels[2:4, 2:4, 2:4] = value
    labels = ("background", "a", "b")
    write_label_map(LabelMap(voxels, affine() if matrix is None else matrix, labels=labels), path)
    return path


def parts_share_no_patient(training, validation) -> bool:
    return {c.group for c in training}.isdisjoint({c.group for c in validation})


# FDG-PET-CT-Lesions


def tcia(root: Path, *studies: str, files=("CT", "CTres", "PET", "SEG", "SUV")) -> None:
    touch(root, *(f"{study}/{name}.nii.gz" for study in studies for name in files))


def test_fdg_pet_ct_lesions_has_a_folder_for_each_study(tmp_path):
    studies = [f"{PATIENT}/{STUDY}", f"{PATIENT}/{LATER_STUDY}", f"{OTHER_PATIENT}/{OTHER_STUDY}"]
    tcia(tmp_path, *studies)
    touch(tmp_path, ".DS_Store", f"{PATIENT}/.DS_Store", f"{PATIENT}/{STUDY}/._SUV.nii.gz")
    touch(tmp_path, "Clinical Metadata FDG PET_CT Lesions.csv")
    assert is_dataset(tmp_path)
    dataset = read_dataset(tmp_path)
    folder = tmp_path / PATIENT / STUDY
    assert dataset.train[0] == Case(
        f"{PATIENT}_{STUDY}",
        (folder / "CTres.nii.gz", folder / "SUV.nii.gz"),
        folder / "SEG.nii.gz",
        PATIENT,
    )
    assert names(dataset.train) == [study.replace("/", "_") for study in studies]
    assert dataset.test == ()
    assert dataset.channels == ("CT", "PET")
    assert dataset.labels == ("background", "tumor")
    assert read_dataset(tmp_path, ("background", "lesion")).labels == ("background", "lesion")


def test_fdg_pet_ct_lesions_is_split_by_patients(tmp_path):
    for number in range(12):
        patient = f"PETCT_{number:010x}"
        tcia(tmp_path, *(f"{patient}/{study}" for study in (STUDY, LATER_STUDY)[: 1 + number % 2]))
    cases = read_dataset(tmp_path).train
    assert len(cases) == 18
    assert parts_share_no_patient(*train_validation_split(cases, 0.25, seed=0))
    assert all(parts_share_no_patient(*fold) for fold in k_folds(cases, 5, seed=0))


def test_studies_without_label_are_test_cases_and_without_any_ct_there_is_the_pet_alone(tmp_path):
    tcia(tmp_path, f"{PATIENT}/{STUDY}", files=("SUV", "SEG"))
    tcia(tmp_path, f"{OTHER_PATIENT}/{OTHER_STUDY}", files=("SUV",))
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("PET",)
    assert [len(case.images) for case in dataset.train] == [1]
    assert names(dataset.test) == [f"{OTHER_PATIENT}_{OTHER_STUDY}"]
    assert dataset.test[0].label is None


def test_mha_beside_nifti_is_the_same_image(tmp_path):
    """As `tcia_nifti_to_mha.py` leaves it when it is told the same folder twice."""
    tcia(tmp_path, f"{PATIENT}/{STUDY}")
    touch(tmp_path, *(f"{PATIENT}/{STUDY}/{name}.mha" for name in ("CTres", "SUV", "SEG")))
    touch(tmp_path, *(f"{OTHER_PATIENT}/{STUDY}/{name}.mha" for name in ("CTres", "SUV", "SEG")))
    first, second = read_dataset(tmp_path).train
    assert [path.name for path in first.images] == ["CTres.nii.gz", "SUV.nii.gz"]
    assert [path.name for path in second.images] == ["CTres.mha", "SUV.mha"]


def test_studies_that_lack_an_image_are_named_all_at_once(tmp_path):
    tcia(tmp_path, f"{PATIENT}/{STUDY}")
    tcia(tmp_path, f"{PATIENT}/{LATER_STUDY}", files=("SUV", "SEG"))
    tcia(tmp_path, f"{OTHER_PATIENT}/{OTHER_STUDY}", files=("CTres",))
    with pytest.raises(DatasetError) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert "2 problem(s)" in text
    assert f"{PATIENT}/{LATER_STUDY} lacks CTres" in text
    assert f"{OTHER_PATIENT}/{OTHER_STUDY} lacks SUV" in text


def test_the_dicom_download_is_no_data_set_yet(tmp_path):
    touch(tmp_path, f"{PATIENT}/{STUDY}/105.000000-SEGMENTATION/1-1.dcm")
    assert not is_dataset(tmp_path)
    with pytest.raises(DatasetError, match="not a data set"):
        read_dataset(tmp_path)


def test_a_lesion_free_study_passes_the_checks(tmp_path):
    folder = tmp_path / PATIENT / STUDY
    for name in ("CTres", "SUV"):
        image(folder / f"{name}.nii.gz")
    label(folder / "SEG.nii.gz", value=0)
    image(folder / "CT.nii.gz", affine(0.5), (16, 16, 16))  # not a channel, so on any grid
    dataset = read_dataset(tmp_path)
    check_cases(dataset.train, dataset.labels, dataset.channels)


# AutoPET as nnU-Net folders

FDG = ("fdg_0011f3deaf_03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445",)
PSMA = ("psma_95b833d46f153cd2_2017-11-18", "psma_95b833d46f153cd2_2018-04-16")


def nnunet(root: Path, cases, channels=("0000", "0001"), part: str = "Tr") -> None:
    touch(root, *(f"images{part}/{case}_{number}.nii.gz" for case in cases for number in channels))


def test_psma_fdg_pet_ct_lesions(tmp_path):
    """Its ``dataset.json`` calls both channels CT, which tells nnU-Net how to normalise them."""
    nnunet(tmp_path, FDG + PSMA)
    touch(tmp_path, *(f"labelsTr/{case}.nii.gz" for case in FDG + PSMA))
    touch(tmp_path, "dataset_fingerprint.json", "psma_metadata.csv", "fdg_metadata.csv")
    description = {
        "channel_names": {"0": "CT", "1": "CT"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert names(dataset.train) == [*FDG, *PSMA]
    groups = ["fdg_0011f3deaf", "psma_95b833d46f153cd2", "psma_95b833d46f153cd2"]
    assert [case.group for case in dataset.train] == groups
    assert dataset.channels == ("CT", "PET")
    first, second = dataset.train[0].images
    assert (first.name, second.name) == (f"{FDG[0]}_0000.nii.gz", f"{FDG[0]}_0001.nii.gz")
    assert parts_share_no_patient(*train_validation_split(dataset.train, 0.5, seed=0))


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("fdg_0011f3deaf_03232003", "fdg_0011f3deaf"),
        (f"{PATIENT}_{STUDY}", PATIENT),
        ("AutoPET_0af7ffe12a_96698", "AutoPET_0af7ffe12a"),
        ("fdg_0011f3deaf", None),
        ("STS_001_03232003", None),
    ],
)
def test_patients_by_the_names_of_cases(case, patient, tmp_path):
    nnunet(tmp_path, [case])
    touch(tmp_path, f"labelsTr/{case}.nii.gz")
    (read,) = read_dataset(tmp_path).train
    assert (read.name, read.group) == (case, patient)
    assert read_dataset(tmp_path).channels == (
        ("CT", "PET") if patient else ("channel 0", "channel 1")
    )


@pytest.mark.parametrize("declared", [None, {"channel_names": {"0": "CT", "1": "CT"}}])
def test_pets_that_were_taken_out_of_autopet(declared, tmp_path):
    nnunet(tmp_path, PSMA, channels=["0001"])
    nnunet(tmp_path, FDG, channels=["0001"], part="Ts")
    touch(tmp_path, *(f"labelsTr/{case}.nii.gz" for case in PSMA))
    if declared is not None:
        (tmp_path / "dataset.json").write_text(json.dumps(declared))
    dataset = read_dataset(tmp_path)
    assert names(dataset.train) == list(PSMA)
    assert [[path.name for path in case.images] for case in dataset.test] == [
        [f"{FDG[0]}_0001.nii.gz"]
    ]
    assert names(dataset.test) == list(FDG)
    assert dataset.channels == ("PET",)


def test_a_lone_second_channel_of_other_data_is_still_refused(tmp_path):
    nnunet(tmp_path, ["STS_001"], channels=["0001"])
    touch(tmp_path, "labelsTr/STS_001.nii.gz")
    with pytest.raises(DatasetError, match=r"STS_001 lacks channel\(s\) \[0\]"):
        read_dataset(tmp_path)


def test_autopet_with_the_pet_alone_under_names_of_one_s_own(tmp_path):
    touch(tmp_path, *(f"{part}Tr/{case}.nii.gz" for part in ("images", "labels") for case in "ab"))
    touch(tmp_path, "imagesTs/c.nii.gz", "labelsTs/c.nii.gz")
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "PET"}}')
    dataset = read_dataset(tmp_path)
    assert (names(dataset.train), names(dataset.test)) == (["a", "b"], ["c"])
    assert dataset.test[0].label == tmp_path / "labelsTs/c.nii.gz"
    assert dataset.channels == ("PET",)


def test_what_autopet_s_own_description_says_counts(tmp_path):
    nnunet(tmp_path, PSMA, channels=["0000", "0001", "0002"])
    touch(tmp_path, *(f"labelsTr/{case}.nii.gz" for case in PSMA))
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "CT", "1": "PET", "2": "clicks"}}'
    )
    assert read_dataset(tmp_path).channels == ("CT", "PET", "clicks")


def test_a_folder_of_nnunet_s_first_version_lists_names_that_no_file_has(tmp_path):
    nnunet(tmp_path, ["TCIA_001", "TCIA_002"])
    nnunet(tmp_path, ["TCIA_003"], part="Ts")
    touch(tmp_path, "labelsTr/TCIA_001.nii.gz", "labelsTr/TCIA_002.nii.gz")
    listed = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("TCIA_001", "TCIA_002")
    ]
    description = {
        "modality": {"0": "CT", "1": "PET"},
        "labels": {"0": "background", "1": "tumor"},
        "training": listed,
        "test": ["./imagesTs/TCIA_003.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert [len(case.images) for case in (*dataset.train, *dataset.test)] == [2, 2, 2]
    assert dataset.channels == ("CT", "PET")


# published splits


def splits_final(path: Path, *folds: tuple[str, str]) -> Path:
    path.write_text(json.dumps([{"train": list(a), "val": list(b)} for a, b in folds]))
    return path


def test_published_splits_are_followed(tmp_path):
    cases = [Case(name, (), None) for name in "dcba"]
    path = splits_final(tmp_path / "splits_final.json", ("ab", "cd"), ("cde", "ab"))
    folds = read_splits_final(path, cases)
    assert [(names(a), names(b)) for a, b in folds] == [
        (["a", "b"], ["c", "d"]),
        (["c", "d"], ["a", "b"]),
    ]
    assert [names(part) for part in read_splits_final(path, cases[1:3])[0]] == [["b"], ["c"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"train": ["a"], "val": ["b"]}]', "fold 0, but 1 are in neither or in both: c"),
        ('[{"train": ["a", "b"], "val": ["b", "c"]}]', "in neither or in both: b"),
        ('[{"train": ["x"], "val": ["a", "b", "c"]}]', "none of these cases to train on"),
        ('[{"train": ["a"]}]', "expected"),
        ("{", "expected"),
    ],
)
def test_splits_that_do_not_fit_are_refused(text, message, tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"splits_final\.json") as error:
        read_splits_final(path, [Case(name, (), None) for name in "abc"])
    assert message in str(error.value)
    with pytest.raises(DatasetError, match=r"gone\.json: there is no such file"):
        read_splits_final(tmp_path / "gone.json", [])


# autoPET challenges


def test_challenge_input(tmp_path):
    touch(tmp_path, f"images/ct/{UUID}.mha", f"images/pet/{PET_UUID}.mha")
    assert is_autopet_challenge(tmp_path)
    assert is_dataset(tmp_path)
    dataset = read_dataset(tmp_path)
    assert dataset == read_autopet_challenge(tmp_path)
    (case,) = dataset.test
    assert case == Case(
        UUID,
        (tmp_path / f"images/ct/{UUID}.mha", tmp_path / f"images/pet/{PET_UUID}.mha"),
        None,
        grid=tmp_path / f"images/pet/{PET_UUID}.mha",
    )
    assert (dataset.train, dataset.channels) == ((), ("CT", "PET"))
    assert challenge_clicks(tmp_path, case) is None


@pytest.mark.parametrize(
    "content",
    [
        {"tumor": [[1, 2, 3]], "background": [[4, 5, 6]]},
        {
            "version": {"major": 1, "minor": 0},
            "type": "Multiple points",
            "points": [
                {"point": [1, 2, 3], "name": "tumor"},
                {"point": [4, 5, 6], "name": "background"},
            ],
        },
    ],
)
@pytest.mark.parametrize("name", ["lesion-clicks.json", f"{UUID}.json"])
def test_clicks_of_a_challenge(content, name, tmp_path):
    touch(tmp_path, f"images/ct/{UUID}.mha", f"images/pet/{UUID}.mha")
    (tmp_path / name).write_text(json.dumps(content))
    (case,) = read_dataset(tmp_path).test
    path = challenge_clicks(tmp_path, case)
    assert path == tmp_path / name
    assert read_clicks(path) == [Click((1, 2, 3), "tumor"), Click((4, 5, 6), "background")]


@pytest.mark.parametrize(
    ("edition", "folder"),
    [
        (ChallengeEdition.autopet2, "automated-petct-lesion-segmentation"),
        (ChallengeEdition.autopet3, "automated-petct-lesion-segmentation"),
        (ChallengeEdition.autopet4, "tumor-lesion-segmentation"),
        (ChallengeEdition.autopet5, "tumor-lesion-segmentation"),
    ],
)
def test_where_the_mask_belongs(edition, folder, tmp_path):
    for path in (tmp_path / f"in/images/ct/{UUID}.mha", tmp_path / f"in/images/pet/{PET_UUID}.mha"):
        image(path)
    (case,) = read_dataset(tmp_path / "in").test
    pet = read_case_images(case)[1]
    path = challenge_mask(tmp_path / "out", case, edition)
    assert path == tmp_path / "out" / "images" / folder / f"{UUID}.mha"
    write_label_map(LabelMap(np.ones(pet.shape, np.uint8), pet.affine), path)
    assert read_label_map(path).geometry.matches(pet.geometry)


def test_challenge_inputs_of_several_cases(tmp_path):
    touch(tmp_path, *(f"images/{kind}/{name}.mha" for kind in ("ct", "pet") for name in "ba"))
    touch(tmp_path, "labels/a.mha", "images/ct/.hidden.mha")
    dataset = read_dataset(tmp_path)
    assert names(dataset.test) == ["a", "b"]
    assert [case.label for case in dataset.test] == [tmp_path / "labels/a.mha", None]
    touch(tmp_path, "a.json", "b.json")
    refuse_shared_clicks(dataset)
    touch(tmp_path, "lesion-clicks.json")
    assert challenge_clicks(tmp_path, dataset.test[1]) == tmp_path / "b.json"
    with pytest.raises(DatasetError, match="expected one case beside it, got 2"):
        refuse_shared_clicks(dataset)
    touch(tmp_path, "images/pet/c.mha")
    with pytest.raises(DatasetError, match="without the other are c"):
        read_dataset(tmp_path)


def test_challenge_input_with_the_pet_alone(tmp_path):
    touch(tmp_path, f"images/pet/{PET_UUID}.mha")
    dataset = read_dataset(tmp_path)
    assert names(dataset.test) == [PET_UUID]
    assert dataset.channels == ("PET",)


# HECKTOR 2022


def hecktor_case(root: Path, patient: str, part: str = "Tr") -> None:
    touch(root, *(f"images{part}/{patient}__{modality}.nii.gz" for modality in ("CT", "PT")))


def test_hecktor(tmp_path):
    for patient in ("MDA-002", "CHUM-001"):
        hecktor_case(tmp_path, patient)
        touch(tmp_path, f"labelsTr/{patient}.nii.gz", f"imagesTr/{patient}__CTPlanning.nii.gz")
    hecktor_case(tmp_path, "USZ-001", "Ts")
    touch(tmp_path, "hecktor2022_clinical_info_training.csv", "imagesTr/._CHUM-001__CT.nii.gz")
    assert is_dataset(tmp_path)
    dataset = read_dataset(tmp_path)
    ct, pet = (tmp_path / f"imagesTr/CHUM-001__{modality}.nii.gz" for modality in ("CT", "PT"))
    assert dataset.train[0] == Case(
        "CHUM-001", (ct, pet), tmp_path / "labelsTr/CHUM-001.nii.gz", "CHUM-001", ct
    )
    assert names(dataset.train) == ["CHUM-001", "MDA-002"]
    assert names(dataset.test) == ["USZ-001"]
    assert dataset.test[0].label is None
    assert dataset.channels == ("CT", "PET")
    assert dataset.labels == ("background", "GTVp", "GTVn")


@pytest.mark.parametrize("inner", ["", "hecktor2022"])
def test_hecktor_as_its_archives_are_unpacked(inner, tmp_path):
    training = tmp_path / "hecktor2022_training" / inner
    hecktor_case(training, "CHUM-001")
    touch(training, "labelsTr/CHUM-001.nii.gz")
    hecktor_case(tmp_path / "hecktor2022_testing" / inner, "USZ-001", "Ts")
    dataset = read_dataset(tmp_path)
    assert (names(dataset.train), names(dataset.test)) == (["CHUM-001"], ["USZ-001"])


def test_what_is_missing_in_hecktor_is_named_all_at_once(tmp_path):
    hecktor_case(tmp_path, "CHUM-001")
    touch(
        tmp_path,
        "imagesTr/CHUM-002__CT.nii.gz",
        "imagesTr/CHUM-002__CT.nii",
        "labelsTr/CHUM-002.nii.gz",
        "labelsTr/CHUM-003.nii.gz",
    )
    with pytest.raises(DatasetError) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert "4 problem(s)" in text
    assert "CHUM-001 has no label" in text
    assert "CHUM-002 lacks its PT" in text
    assert "CHUM-002__CT.nii.gz and CHUM-002__CT.nii are the same image" in text
    assert "CHUM-003.nii.gz has no image" in text
    dataset_of_one = tmp_path / "one"
    hecktor_case(dataset_of_one, "CHUM-001")
    assert read_dataset(dataset_of_one, labels_required=False).train[0].label is None


@pytest.fixture
def hecktor_scan(tmp_path) -> Dataset:
    """CT, PET and label on three grids: as real ones, the label has a row more than the CT."""
    image(tmp_path / "imagesTr/CHUP-008__CT.nii.gz", affine(1), (12, 12, 10), value=40)
    pet = affine(4, (-4, -4, -8))
    image(tmp_path / "imagesTr/CHUP-008__PT.nii.gz", pet, (5, 5, 9), value=3)
    label(tmp_path / "labelsTr/CHUP-008.nii.gz", affine(1), (12, 13, 10), value=2)
    return read_dataset(tmp_path)


def test_hecktor_is_read_on_the_grid_of_the_ct(hecktor_scan):
    (case,) = hecktor_scan.train
    check_cases(hecktor_scan.train, hecktor_scan.labels, hecktor_scan.channels)
    ct, pet = read_case_images(case)
    assert ct.shape == pet.shape == (12, 12, 10)
    assert pet.geometry.matches(ct.geometry)
    assert pet.voxels[1:, 1:, 1:].min() == 3  # the voxel of zeros is far below the CT's first slice
    found = read_case_label(case, hecktor_scan.labels)
    assert found.shape == ct.shape
    assert np.argwhere(found.mask("GTVn")).min(axis=0).tolist() == [2, 2, 2]
    assert found.mask("GTVn").sum() == 8


def test_hecktor_s_pet_alone_still_lies_on_the_grid_of_the_ct(hecktor_scan):
    (case,) = select_channels(hecktor_scan, ("PET",)).train
    (pet,) = read_case_images(case)
    assert pet.shape == (12, 12, 10)
    assert read_case_label(case, hecktor_scan.labels).geometry.matches(pet.geometry)
    check_cases([case], hecktor_scan.labels, ("PET",))


def test_training_and_evaluation_read_a_case_alike(hecktor_scan):
    (case,) = hecktor_scan.train
    settings = RunConfig().model_settings(hecktor_scan)
    prepared = PreparedCache(None, settings.preprocessing, settings.labels).get(case)
    scan = read_scan(case, settings)
    assert tuple(prepared.image.shape) == (2, 12, 12, 10)
    assert [volume.shape for volume in scan.volumes] == [(12, 12, 10)] * 2
    np.testing.assert_array_equal(prepared.label.numpy(), scan.label.voxels)
    assert scan.uptake is scan.volumes[1]


def test_the_grid_counts_among_what_a_case_comes_from(hecktor_scan):
    (case,) = hecktor_scan.train
    without = replace(case, grid=None)
    settings = RunConfig().model_settings(hecktor_scan)
    cache = PreparedCache(None, settings.preprocessing, settings.labels)
    assert cache.key(case) != cache.key(without)
    assert digest_of_inputs(case) != digest_of_inputs(without)


def test_without_a_grid_named_files_on_other_grids_are_refused_and_with_it_those_apart(tmp_path):
    one = image(tmp_path / "one.nii.gz", affine(1), (12, 12, 12))
    other = image(tmp_path / "other.nii.gz", affine(2), (6, 6, 6))
    apart = image(tmp_path / "apart.nii.gz", affine(2, (500, 0, 0)), (6, 6, 6))
    channels = ("a", "b")
    check_cases([Case("c", (one, other), None, grid=one)], ("background", "x"), channels)
    with pytest.raises(DatasetError, match=r"other\.nii\.gz lies on another grid than"):
        check_cases([Case("c", (one, other), None)], ("background", "x"), channels)
    lost = Case("c", (one, apart), None, grid=one)
    with pytest.raises(DatasetError, match=r"apart\.nii\.gz lies nowhere near") as error:
        check_cases([lost], ("background", "x"), channels)
    assert "1 problem(s)" in str(error.value)
    with pytest.raises(GeometryError, match="nowhere near"):
        read_case_images(lost)


def test_a_grid_that_cannot_be_read_is_named_once(tmp_path):
    gone = tmp_path / "gone.nii.gz"
    with pytest.raises(DatasetError) as error:
        check_cases([Case("c", (gone,), None, grid=gone)], ("background", "x"), ("a",))
    assert str(error.value).count("there is no such file") == 1


def test_a_case_on_one_grid_is_read_as_its_files_are(tmp_path):
    path = image(tmp_path / "a.nii.gz")
    truth = label(tmp_path / "l.nii.gz", affine(1))  # not the image's grid: nothing is resampled
    case = Case("a", (path,), truth)
    assert read_case_images(case)[0].shape == (8, 8, 8)
    assert read_case_label(case, ("background", "x")).spacing_mm == (1, 1, 1)
    with pytest.raises(DatasetError, match="a: has no label"):
        read_case_label(Case("a", (path,), None), ("background", "x"))


# Medical Segmentation Decathlon

SPLEEN = {
    "name": "Spleen",
    "description": "Spleen Segmentation",
    "reference": "Memorial Sloan Kettering Cancer Center",
    "licence": "CC-BY-SA 4.0",
    "release": "1.0 06/08/2018",
    "tensorImageSize": "3D",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "spleen"},
    "numTraining": 2,
    "numTest": 1,
    "training": [
        {"image": "./imagesTr/spleen_19.nii.gz", "label": "./labelsTr/spleen_19.nii.gz"},
        {"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"},
    ],
    "test": ["./imagesTs/spleen_15.nii.gz"],
}


@pytest.mark.parametrize("with_json", [True, False])
def test_task09_spleen(with_json, tmp_path):
    """With what macOS leaves in the archive: a hidden file beside each."""
    root = tmp_path / "Task09_Spleen"
    for name in ("spleen_19", "spleen_2"):
        image(root / f"imagesTr/{name}.nii.gz")
        label(root / f"labelsTr/{name}.nii.gz")
    image(root / "imagesTs/spleen_15.nii.gz")
    for path in sorted(root.rglob("*.nii.gz")):
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7 not NIfTI")
    if with_json:
        (root / "dataset.json").write_text(json.dumps(SPLEEN))
        (root / "._dataset.json").write_bytes(b"\0\5\x16\7 not JSON")
    dataset = read_dataset(root, None if with_json else ("background", "spleen"))
    assert names(dataset.train) == ["spleen_19", "spleen_2"]
    assert names(dataset.test) == ["spleen_15"]
    assert dataset.labels == ("background", "spleen")
    assert dataset.channels == (("CT",) if with_json else ("image",))
    check_cases((*dataset.train, *dataset.test), dataset.labels, dataset.channels)
    assert names(read_images([root / "imagesTs"], 1)) == ["spleen_15"]


# channels by name


def two_channels() -> Dataset:
    case = Case("a", (Path("a_ct.nii"), Path("a_pet.nii")), None)
    return Dataset(Path("data"), (case,), (case,), ("background", "x"), ("CT", "PET"))


def test_channels_are_chosen_by_name_and_put_in_order():
    dataset = select_channels(two_channels(), ("pet", "CT"))
    assert dataset.channels == ("pet", "CT")
    for case in (*dataset.train, *dataset.test):
        assert [path.name for path in case.images] == ["a_pet.nii", "a_ct.nii"]
    assert select_channels(two_channels(), ("PET",)).train[0].images == (Path("a_pet.nii"),)


@pytest.mark.parametrize("wanted", [("MR",), ("PET", "MR"), ("PET", "pet"), (), ("channel 1",)])
def test_channels_that_are_not_there_are_refused_with_those_that_are(wanted):
    with pytest.raises(DatasetError, match="CT, PET"):
        select_channels(two_channels(), wanted)


def test_channels_that_share_a_name_cannot_be_told_apart():
    case = Case("a", (Path("0.nii"), Path("1.nii")), None)
    dataset = Dataset(Path("data"), (case,), (), ("background", "x"), ("CT", "CT"))
    with pytest.raises(DatasetError, match="expected one channel 'CT', found 2"):
        select_channels(dataset, ("CT",))


def test_cases_with_another_number_of_images_are_named():
    dataset = two_channels()
    odd = Case("odd", (Path("0.nii"),), None)
    dataset = Dataset(dataset.root, (*dataset.train, odd), (), dataset.labels, dataset.channels)
    with pytest.raises(DatasetError, match=r"1 case\(s\) have another number: odd"):
        select_channels(dataset, ("PET",))
