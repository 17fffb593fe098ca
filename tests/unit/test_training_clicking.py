"""Fresh and pooled batches, with a 'network' whose answer is known."""

from __future__ import annotations

import itertools

import torch

from voxclick.guidance import DiskGuidance
from voxclick.simulation import LargestError, MaxSteps, SimulationSettings
from voxclick.training.clicking import FreshBatches, PooledBatches, SampleClicker
from voxclick.training.samples import Sample

CPU = torch.device("cpu")
SHAPE = (8, 8, 8)


def clicked_samples(steps: int):
    """Endless crops with a 4³ lesion, whose users click `steps` times."""
    label = torch.zeros(SHAPE, dtype=torch.uint8)
    label[2:6, 2:6, 2:6] = 1
    clicker = SampleClicker(
        DiskGuidance(),
        SimulationSettings(strategy=LargestError(), stopping=MaxSteps(max_steps=steps)),
        2,
        CPU,
    )
    for seed in itertools.count():
        yield clicker(Sample(torch.rand(1, *SHAPE), label, (1.0, 1.0, 1.0), seed, f"case {seed}"))


def predict_nothing(network_input: torch.Tensor) -> torch.Tensor:
    return torch.zeros((len(network_input), *SHAPE), dtype=torch.uint8)


def tumor_voxels(sample) -> int:
    return int(sample.network_input[2].sum())


def test_fresh_batches_are_clicked_to_the_end():
    batches = FreshBatches(clicked_samples(steps=3), 2, predict_nothing)
    for _ in range(2):
        batch = batches.next_batch()
        assert len(batch) == 2
        for sample in batch:
            # three different clicks in a lesion that is missed throughout
            assert tumor_voxels(sample) > 33
            assert int(sample.network_input[1].sum()) == 0  # none on the background
            assert sample.network_input.shape == (3, *SHAPE)


def test_pooled_batches_are_learnt_after_every_click():
    batches = PooledBatches(clicked_samples(steps=2), batch_size=1, pool_size=1, seed=0)
    seen = []
    for _ in range(6):
        batch = batches.next_batch()
        seen.append((batch[0].case, tumor_voxels(batch[0])))
        batches.learnt(batch, predict_nothing(batch[0].network_input[None]))
    cases = [case for case, _ in seen]
    assert cases == ["case 0"] * 3 + ["case 1"] * 3
    voxels = [count for _, count in seen]
    assert voxels[0] == voxels[3] == 0
    assert voxels[1] == voxels[4] == 33
    assert voxels[2] > 33


def test_a_pool_draws_without_repetition_within_a_batch():
    batches = PooledBatches(clicked_samples(steps=1), batch_size=3, pool_size=4, seed=0)
    for _ in range(5):
        batch = batches.next_batch()
        assert len({id(sample) for sample in batch}) == 3
        batches.learnt(batch, predict_nothing(torch.zeros(3, 3, *SHAPE)))


def test_without_clicks_the_input_is_the_image_alone():
    clicker = SampleClicker(None, None, 2, CPU)
    image = torch.rand(1, *SHAPE)
    sample = clicker(Sample(image, torch.zeros(SHAPE, dtype=torch.uint8), (1, 1, 1), 0, "a"))
    assert torch.equal(sample.network_input, image)
    assert not sample.respond(torch.ones(SHAPE, dtype=torch.uint8))


def test_a_click_is_meant_to_correct_its_surroundings_and_the_wrong_voxels_in_reach():
    label = torch.zeros((9, 9, 20), dtype=torch.uint8)
    label[4, 4, 2:18] = 1
    sample = SampleClicker(
        DiskGuidance(),
        SimulationSettings(strategy=LargestError(), stopping=MaxSteps(max_steps=1)),
        2,
        CPU,
        click_reach=4,
    )(Sample(torch.rand(1, 9, 9, 20), label, (1.0, 1.0, 1.0), 0, "a"))
    assert not sample.to_correct.any()
    prediction = torch.zeros_like(label)
    prediction[4, 4, 2:5] = 1
    assert sample.respond(prediction)
    # the voxels 5 to 17 are missed, all equally deep; the click is one of them
    (k,) = (int(p) for p in sample.network_input[2, 4, 4].nonzero().float().mean(dim=0))
    expected = torch.zeros_like(label, dtype=torch.bool)
    expected[2:7, 2:7, k - 2 : k + 3] = True
    expected[4, 4, max(5, k - 4) : min(18, k + 5)] = True
    assert torch.equal(sample.to_correct, expected)
