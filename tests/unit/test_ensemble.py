"""Ensembles: MONAI's inferer and its vote are the oracles, and some answers are known by hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import VoteEnsemble
from torch import nn

from voxclick import Click, InteractiveSession, Volume, load_ensemble, load_model
from voxclick.errors import ModelFileError, SessionFileError, UsageError
from voxclick.geometry.box import Box
from voxclick.guidance import DiskGuidance
from voxclick.model_files import Model, ModelSettings, save_model
from voxclick.model_files.ensemble import EnsembleNetwork
from voxclick.networks import NetworkSettings
from voxclick.preprocessing import PreprocessingSettings, RangeScaling
from voxclick.sliding_window import OnePass, SlidingWindows, TensorSource

LABELS = ("background", "tumor", "liver")
SHAPE = (28, 20, 16)
WINDOWS = SlidingWindows(window=(16, 16, 16), precision="float32")
APART = WINDOWS.model_copy(update={"overlap": 0.0, "blending": "constant"})
"""Every voxel is seen by one window, if the volume is made of whole windows."""


def settings(**changes) -> ModelSettings:
    values = {
        "labels": LABELS,
        "channels": ("PET",),
        "preprocessing": PreprocessingSettings(intensity=(RangeScaling(low=0, high=1),)),
        "guidance": DiskGuidance(),
        "network": NetworkSettings(
            name="dynunet-light", options={"filters": (4, 8, 8), "strides": (1, 2, 2)}
        ),
        "inference": WINDOWS,
    }
    return ModelSettings(**{**values, **changes})


def write(path: Path, seed: int = 0, **changes) -> Path:
    torch.manual_seed(seed)
    written = settings(**changes)
    save_model(path, written, written.build_network())
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three models that differ in nothing but their random weights."""
    return [write(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]


def network_input(shape=SHAPE) -> torch.Tensor:
    return torch.rand((1 + len(LABELS), *shape), generator=torch.Generator().manual_seed(0))


def margins(model: Model, volume: torch.Tensor, inference: SlidingWindows) -> torch.Tensor:
    box = Box.of_shape(volume.shape[1:])
    return model.inference(box.shape, inference).margins(TensorSource(volume), box)


@torch.inference_mode()
def by_monai(files: list[Path], volume: torch.Tensor, inference: SlidingWindows) -> torch.Tensor:
    """Logits (model, label, i, j, k): every model's own over the whole volume."""
    inferer = SlidingWindowInferer(
        inference.window, overlap=inference.overlap, mode=inference.blending
    )
    networks = [load_model(path, "cpu").network for path in files]
    return torch.cat([inferer(volume[None], network) for network in networks])


def labels_of(margins: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(margins[:1]), margins]).argmax(dim=0)


# How answers are put together


def test_the_mean_is_that_of_the_members_logits_over_the_whole_volume(files):
    logits = by_monai(files, network_input(), WINDOWS)
    assert (logits[0] - logits[1]).abs().mean() > 0.1  # members that do differ
    expected = logits.mean(dim=0)
    found = margins(load_ensemble(files, "cpu"), network_input(), WINDOWS)
    torch.testing.assert_close(found, expected[1:] - expected[:1], rtol=1e-4, atol=1e-4)


def test_the_vote_is_monais_wherever_there_is_no_tie(files):
    volume = network_input((32, 16, 32))
    chosen = by_monai(files, volume, APART).argmax(dim=1, keepdim=True)
    expected = VoteEnsemble(num_classes=len(LABELS))(list(chosen))[0]
    found = labels_of(margins(load_ensemble(files, "cpu", combination="vote"), volume, APART))
    is_tie = torch.stack([(chosen == label).sum(0) for label in range(3)]).amax(0)[0] == 1
    assert 0 < is_tie.float().mean() < 0.5
    assert len(expected[~is_tie].unique()) == len(LABELS)
    assert torch.equal(found[~is_tie], expected[~is_tie])


class Says(nn.Module):
    """The same logits for every voxel."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.logits.view(1, -1, 1, 1, 1).expand(len(windows), -1, *windows.shape[2:])


def softmax_of_vote(*members: nn.Module) -> list[float]:
    logits = EnsembleNetwork(members, "vote")(torch.zeros(1, 1, 1, 1, 1))
    return logits.softmax(dim=1).flatten().tolist()


def test_votes_go_before_probability():
    sure, unsure = Says(0.98, 0.01, 0.01), Says(0.4, 0.5, 0.1)
    # two votes and a mean probability of 1.01 / 3 against one and 1.78 / 3
    expected = [(1 + 1.78 / 3) / 4, (2 + 1.01 / 3) / 4, 0.21 / 3 / 4]
    assert softmax_of_vote(sure, unsure, unsure) == pytest.approx(expected)


def test_among_equally_many_votes_the_more_probable_label_wins():
    """MONAI's vote would take the lower index, whatever the members think."""
    first, second = Says(0.5, 0.4, 0.1), Says(0.1, 0.8, 0.1)
    for members in ((first, second), (second, first)):
        assert softmax_of_vote(*members) == pytest.approx([1.3 / 3, 1.6 / 3, 0.1 / 3])


def test_of_equal_logits_a_member_chooses_the_lower_index():
    assert softmax_of_vote(Says(0.2, 0.4, 0.4)) == pytest.approx([0.1, 0.7, 0.2])


def test_a_vote_is_finite_where_every_member_is_certain():
    logits = EnsembleNetwork([Says(1.0, 0.0), Says(1.0, 0.0)], "vote")(torch.zeros(1, 1, 1, 1, 1))
    assert logits.flatten().tolist() == pytest.approx([np.log(3), -20])


# Of one model


def test_of_one_file_it_is_the_model_itself(files):
    alone = load_model(files[0], "cpu")
    for combination in ("mean", "vote"):
        loaded = load_ensemble(files[:1], "cpu", combination=combination)
        assert type(loaded) is Model
        assert loaded.fingerprint == alone.fingerprint


def test_of_one_model_three_times_it_answers_like_the_model(tmp_path):
    copies = [write(tmp_path / f"{copy}.safetensors", seed=5) for copy in "abc"]
    volume = network_input((32, 16, 32))
    alone = margins(load_model(copies[0], "cpu"), volume, APART)
    mean = margins(load_ensemble(copies, "cpu"), volume, APART)
    torch.testing.assert_close(mean, alone, rtol=1e-6, atol=1e-6)  # a third of three is rounded
    vote = margins(load_ensemble(copies, "cpu", combination="vote"), volume, APART)
    assert torch.equal(labels_of(vote), labels_of(alone))


# Which models go together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("background", "liver", "tumor")}, "has labels .*'liver', 'tumor'"),
        ({"channels": ("CT",)}, r"has channels \('CT',\)"),
        (
            {
                "preprocessing": PreprocessingSettings(
                    spacing_mm=(2, 2, 3), intensity=settings().preprocessing.intensity
                )
            },
            r"has preprocessing.spacing_mm \(2.0, 2.0, 3.0\), but .*0.safetensors has None",
        ),
        (
            {"preprocessing": PreprocessingSettings(intensity=(RangeScaling(low=0, high=9),))},
            "has preprocessing.intensity .*'high': 9.0.* but .*'high': 1.0",
        ),
        ({"guidance": DiskGuidance(sigma=2)}, "has guidance.sigma 2, but .* has 1"),
        ({"guidance": None}, "has guidance None, but .* has {'kind': 'disk'"),
        (
            {"inference": SlidingWindows(window=(32, 16, 16))},
            r"has inference.window \(32, 16, 16\), but .* has \(16, 16, 16\)",
        ),
        ({"inference": OnePass()}, "has inference {'kind': 'one-pass'"),
    ],
)
def test_models_that_do_not_agree_are_refused(changes, message, files, tmp_path):
    other = write(tmp_path / "other.safetensors", **changes)
    with pytest.raises(ModelFileError, match=rf"other\.safetensors: {message}") as error:
        load_ensemble([*files, other], "cpu")
    assert "the members of an ensemble must agree in this" in str(error.value)


def test_networks_and_the_ways_to_blend_may_differ(files, tmp_path):
    other = write(
        tmp_path / "other.safetensors",
        network=NetworkSettings(
            name="dynunet-light", options={"filters": (4, 8, 8, 8), "strides": (1, 2, 2, 2)}
        ),
        inference=WINDOWS.model_copy(update={"overlap": 0.5, "window_batch": 2}),
    )
    model = load_ensemble([files[0], other], "cpu")
    assert model.settings.inference == WINDOWS  # the first one's
    assert model.window_multiple == (8, 8, 8)
    with pytest.raises(UsageError, match=r"multiples of \(8, 8, 8\) voxels, got \(12, 16, 16\)"):
        model.check_inference(WINDOWS.model_copy(update={"window": (12, 16, 16)}))


@pytest.mark.parametrize(
    ("thresholds", "expected"), [((0.2, 0.1), 0.1), ((0.2, None), None), ((None, None), None)]
)
def test_air_is_what_every_member_takes_for_air(thresholds, expected, tmp_path):
    paths = [
        write(tmp_path / f"{number}.safetensors", number, air_below=air)
        for number, air in enumerate(thresholds)
    ]
    assert load_ensemble(paths, "cpu").settings.air_below == expected


def test_what_is_no_ensemble_is_refused(files):
    with pytest.raises(UsageError, match="at least one model file, got none"):
        load_ensemble([])
    twice = files[0].parent / ".." / files[0].parent.name / files[0].name
    with pytest.raises(UsageError, match="is named twice"):
        load_ensemble([files[0], twice], "cpu")
    with pytest.raises(UsageError, match="no combination 'median'; expected one of mean, vote"):
        load_ensemble(files, "cpu", combination="median")


def test_ensembles_that_answer_otherwise_have_another_fingerprint(files):
    ensembles = [
        load_ensemble(files, "cpu"),
        load_ensemble(files, "cpu", combination="vote"),
        load_ensemble(files[:2], "cpu"),
        load_ensemble(files[:1], "cpu"),
    ]
    assert len({model.fingerprint for model in ensembles}) == len(ensembles)
    assert load_ensemble(files, "cpu").fingerprint == ensembles[0].fingerprint


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
@pytest.mark.parametrize("combination", ["mean", "vote"])
def test_members_may_run_by_openvino(combination, files):
    by_torch, by_openvino = (
        load_ensemble(files, "cpu", backend, combination) for backend in ("torch", "openvino")
    )
    expected, found = (
        margins(model, network_input(), WINDOWS) for model in (by_torch, by_openvino)
    )
    certain = expected.abs().amin(dim=0) > 0.1
    assert (labels_of(found) == labels_of(expected))[certain].float().mean() > 0.99
    # the same weights, but results that are rounded otherwise and must not be mixed
    assert by_openvino.fingerprint == by_torch.fingerprint
    names = [model.inference(SHAPE).computed_by for model in (by_torch, by_openvino)]
    assert [name.split()[0] for name in names] == ["torch", "openvino"]


# In a session


FIRST, SECOND = Click((2, 1, 4), "tumor"), Click((25, 18, 8), "background")


def opened(model: Model, clicks=()) -> InteractiveSession:
    voxels = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    session = InteractiveSession(model, Volume(voxels, np.eye(4)))
    session.add(clicks)
    return session


def assert_same_bits(one: InteractiveSession, other: InteractiveSession) -> None:
    whole = Box.of_shape(SHAPE)
    assert torch.equal(one.margins(whole), other.margins(whole))
    first, second = one.predict().label_map.voxels, other.predict().label_map.voxels
    assert np.array_equal(first, second)
    assert len(np.unique(first)) > 1


@pytest.mark.parametrize("combination", ["mean", "vote"])
def test_clicks_one_by_one_give_the_bits_of_a_fresh_session(combination, files):
    model = load_ensemble(files, "cpu", combination=combination)
    session = opened(model)
    without = session.predict().label_map.voxels.copy()
    for click in (FIRST, SECOND):
        session.add([click])
        session.predict()
    assert_same_bits(session, opened(model, [SECOND, FIRST]))
    session.undo()
    assert_same_bits(session, opened(model, [FIRST]))
    session.undo()
    assert np.array_equal(session.predict().label_map.voxels, without)


@pytest.mark.parametrize("combination", ["mean", "vote"])
def test_a_click_runs_the_windows_that_it_touches_once_in_every_member(combination, files):
    model = load_ensemble(files, "cpu", combination=combination)
    runs = [0] * len(files)

    def count(number: int):
        def hook(network, inputs, output):
            runs[number] += len(inputs[0])

        return hook

    for number, member in enumerate(model.network.members):
        member.register_forward_hook(count(number))

    # windows start at 0, 12 / 0, 4 / 0: the balls around the clicks are in one corner each
    session = opened(model)
    assert session.predict().windows == 4
    assert runs == [4, 4, 4]
    for total, click in ((5, FIRST), (6, SECOND)):
        session.add([click])
        assert session.predict().windows == 1
        assert runs == [total] * 3
    session.undo()
    assert session.predict().windows == 0
    assert runs == [6, 6, 6]


def test_a_saved_session_goes_on_with_the_same_ensemble_alone(files, tmp_path):
    session = opened(load_ensemble(files, "cpu"), [FIRST])
    session.predict()
    session.save(tmp_path / "session.safetensors")
    back = InteractiveSession.load(tmp_path / "session.safetensors", load_ensemble(files, "cpu"))
    assert back.predict().windows == 0
    assert_same_bits(back, session)
    with pytest.raises(SessionFileError, match="was made with another model"):
        InteractiveSession.load(
            tmp_path / "session.safetensors", load_ensemble(files, "cpu", combination="vote")
        )
