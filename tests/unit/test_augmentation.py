"""Training crops: what they hold, and that a seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxclick.augmentation import AugmentationSettings, CropSampler, augment
from voxclick.geometry.box import Box

PLAIN = AugmentationSettings(flip_probability=0, rotate90_probability=0, positive_fraction=1)
ALL = AugmentationSettings(
    flip_probability=1,
    rotate90_probability=1,
    affine_probability=1,
    intensity_probability=1,
    blur_probability=1,
)


def volume(shape=(12, 14, 10), seed=0):
    """Every voxel's value names the voxel; the label is where the value is even."""
    image = torch.arange(float(np.prod(shape))).reshape(1, *shape) + 1
    return image, (image[0] % 2 == 0).to(torch.uint8)


def test_a_plain_crop_is_a_box_of_the_volume():
    image, label = volume()
    crop, crop_label = augment(image, label, (4, 6, 8), PLAIN, seed=3)
    assert crop.shape == (1, 4, 6, 8)
    i, j, k = np.argwhere(image[0].numpy() == crop[0, 0, 0, 0].item())[0]
    assert torch.equal(crop, image[:, i : i + 4, j : j + 6, k : k + 8])
    assert torch.equal(crop_label, label[i : i + 4, j : j + 6, k : k + 8])


def test_positive_crops_hold_foreground_and_prefer_its_centre():
    label = torch.zeros(40, 40, 40, dtype=torch.uint8)
    label[20, 21, 22] = 1
    sampler = CropSampler(label)
    for seed in range(20):
        start = sampler.draw_start((8, 8, 8), 1.0, np.random.default_rng(seed))
        assert start == (16, 17, 18)


def test_a_small_volume_lies_whole_somewhere_in_its_crop():
    image, label = volume((5, 6, 7))
    places = set()
    for seed in range(30):
        crop, crop_label = augment(image, label, (8, 8, 8), PLAIN, seed)
        inside = torch.nonzero(crop[0])
        assert len(inside) == image.numel()
        assert torch.equal(crop[0][crop[0] > 0], image.flatten())
        assert crop_label[crop[0] == 0].sum() == 0
        places.add(tuple(inside[0].tolist()))
    assert len(places) > 5


def test_flips_and_turns_only_move_voxels_and_move_the_label_along():
    image, label = volume((8, 8, 8))
    settings = AugmentationSettings(flip_probability=0.5, rotate90_probability=1)
    for seed in range(20):
        crop, crop_label = augment(image, label, (8, 8, 8), settings, seed)
        assert torch.equal(crop.flatten().sort().values, image.flatten().sort().values)
        assert torch.equal(crop_label, (crop[0] % 2 == 0).to(torch.uint8))


def test_a_seed_gives_the_same_crop_and_another_gives_another():
    image, label = volume((20, 20, 20))
    first = augment(image, label, (8, 8, 8), ALL, seed=1)
    again = augment(image, label, (8, 8, 8), ALL, seed=1, sampler=CropSampler(label))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], augment(image, label, (8, 8, 8), ALL, seed=2)[0])
    assert first[0].shape == (1, 8, 8, 8)
    assert torch.isfinite(first[0]).all()


def test_one_setting_does_not_move_the_crop_of_another():
    image, label = volume((20, 20, 20))
    noise = PLAIN.model_copy(update={"intensity_probability": 1.0, "noise": 1e-6})
    no_scaling = noise.model_copy(update={"intensity_scale": (1.0, 1.0), "gamma": (1.0, 1.0)})
    plain, noisy = (augment(image, label, (8, 8, 8), s, seed=7)[0] for s in (PLAIN, no_scaling))
    assert torch.allclose(plain, noisy, rtol=1e-5)


def test_an_affine_turns_image_and_label_alike():
    # a smooth ball: where the image is above a half, the label must be
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0) - 15.5] * 3, indexing="ij"))
    distance = grid.square().sum(dim=0).sqrt()
    image = torch.sigmoid(9 - distance)[None]
    label = (distance < 9).to(torch.uint8) * 2  # a label that is not 1
    settings = PLAIN.model_copy(update={"affine_probability": 1.0, "positive_fraction": 0.0})
    for seed in range(5):
        crop, crop_label = augment(image, label, (24, 24, 24), settings, seed)
        sure = (crop[0] - 0.5).abs() > 0.15
        assert torch.equal(crop_label[sure] == 2, crop[0][sure] > 0.5)
        assert set(crop_label.unique().tolist()) == {0, 2}


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("seed", range(3))
def test_nothing_from_beside_a_slice_gets_into_it(axis, seed):
    """A slice of ones stays one, wherever the zeros beyond its plane's border do not reach."""
    shape, crop = [90, 90, 90], [20, 20, 20]
    shape[axis] = crop[axis] = 1
    label = torch.zeros(shape, dtype=torch.uint8)
    label[tuple(n // 2 for n in shape)] = 1
    settings = AugmentationSettings(
        affine_probability=1, rotation_degrees=90, blur_probability=1, positive_fraction=1
    )
    image, _ = augment(torch.ones(1, *shape), label, tuple(crop), settings, seed)
    inner = image.squeeze(axis + 1)[0, 5:-5, 5:-5]
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=1e-4, rtol=0)


def test_intensities_are_scaled_within_the_limits():
    image, label = torch.ones(1, 4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.uint8)
    settings = PLAIN.model_copy(
        update={"intensity_probability": 1.0, "noise": 0.0, "intensity_scale": (0.5, 0.6)}
    )
    crop, _ = augment(image, label, (4, 4, 4), settings, seed=0)
    assert 0.5 <= crop.mean().item() <= 0.6
    assert crop.std().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("within", "starts"),
    [
        (Box((10, 0, 4), (30, 16, 12)), [(10, 22), (0, 8), (4, 4)]),  # fits in, or just so
        (Box((10, 3, 36), (14, 7, 40)), [(6, 10), (0, 3), (32, 32)]),  # smaller than a crop
    ],
)
def test_crops_without_foreground_lie_inside_a_box_as_far_as_they_fit(within, starts):
    sampler = CropSampler(torch.zeros(40, 40, 40, dtype=torch.uint8), within)
    drawn = np.array(
        [sampler.draw_start((8, 8, 8), 0.5, np.random.default_rng(seed)) for seed in range(300)]
    )
    assert [(int(a), int(b)) for a, b in zip(drawn.min(0), drawn.max(0), strict=True)] == starts
