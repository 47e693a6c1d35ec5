"""Augmentation: whole batches, each image its own, repeated by a seed."""

import importlib
import sys
from functools import partial

import pytest
import torch
from kornia.augmentation import RandomGaussianBlur
from torch.nn import functional

from onward.data.augmentation import simclr_augmentation, supervised_augmentation
from onward.errors import MissingExtraError

ROUNDING = 1e-6  # of the weights of a blur or of resampling, whose sum is 1


def batch(size, channels, count=8, seed=0):
    """Smooth random images: noise of a quarter of the size, enlarged."""
    noise = torch.rand(count, channels, max(2, size // 4), max(2, size // 4),
                       generator=torch.Generator().manual_seed(seed))  # fmt: skip
    return functional.interpolate(noise, size=(size, size), mode="bilinear")


def augmentations(size, channels):
    return [
        simclr_augmentation(size, channels, flip=True),
        supervised_augmentation(size, flip=True),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [2, 8, 32, 64])
def test_a_batch_keeps_its_shape_and_range(size, channels):
    images = batch(size, channels)
    for augment in augmentations(size, channels):
        torch.manual_seed(0)
        changed = augment(images)
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert torch.isfinite(changed).all()
        assert changed.min() >= -ROUNDING
        assert changed.max() <= 1 + ROUNDING


@pytest.mark.parametrize("size", [8, 32, 64])
def test_a_seed_repeats_the_changes(size):
    images = batch(size, 3)
    for augment in augmentations(size, 3):
        torch.manual_seed(5)
        first, second = augment(images), augment(images)
        torch.manual_seed(5)
        assert torch.equal(augment(images), first)
        assert torch.equal(augment(images), second)
        assert not torch.equal(first, second)


def test_each_image_is_changed_in_its_own_way():
    images = batch(8, 1, count=1).repeat(16, 1, 1, 1)
    for augment in augmentations(8, 1):
        torch.manual_seed(0)
        changed = augment(images)
        assert len({image.numpy().tobytes() for image in changed}) > 8


def test_images_given_are_left_as_they_are():
    images = batch(8, 3)
    before = images.clone()
    for augment in augmentations(8, 3):
        augment(images)
        assert torch.equal(images, before)


def test_a_batch_of_one_stays_a_batch():
    for augment in augmentations(8, 1):
        assert augment(batch(8, 1, count=1)).shape == (1, 1, 8, 8)


def test_small_images_are_shifted_with_a_mirrored_border():
    images = batch(8, 1, count=32)
    torch.manual_seed(0)
    shifted = supervised_augmentation(8, flip=False)(images)
    padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
    offsets = set()
    for image, result in zip(padded, shifted, strict=True):
        fits = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(image[:, top : top + 8, left : left + 8], result)
        ]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) > 5


def test_what_is_a_random_crop_already_is_neither_cropped_again_nor_shifted():
    images = batch(64, 3)
    for size in (8, 64):
        given = batch(size, 3)
        assert torch.equal(supervised_augmentation(size, flip=False, cropped=True)(given), given)
    augment = simclr_augmentation(32, 3, strength=0.0, cropped=True)
    images = batch(32, 3, count=1).repeat(32, 1, 1, 1)
    torch.manual_seed(0)
    changed = augment(images)  # some grey, all else as it was
    same = (changed - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 16 < same.sum() < 32


def test_images_are_mirrored_only_if_asked_for():
    ramp = torch.linspace(0, 1, 8).repeat(64, 1, 8, 1)
    for make in (partial(simclr_augmentation, channels=1), supervised_augmentation):
        torch.manual_seed(0)
        kept, mirrored = make(8, flip=False)(ramp), make(8, flip=True)(ramp)
        assert (kept[..., -1] >= kept[..., 0]).all()
        share = (mirrored[..., -1] < mirrored[..., 0]).any(dim=(1, 2)).float().mean()
        assert 0.25 < share < 0.75


def test_crops_of_tiny_images_keep_half_and_others_a_fifth():
    def smallest_share(size):
        ramp = torch.linspace(0, 1, size).repeat(200, 1, size, 1)
        augment = simclr_augmentation(size, 1, strength=0.0)
        spans = []
        for images in (ramp, ramp.transpose(2, 3)):
            torch.manual_seed(0)  # the same crops across and down
            changed = augment(images).flatten(1)
            spans.append(changed.amax(dim=1) - changed.amin(dim=1))
        return (spans[0] * spans[1]).min()

    assert 0.35 < smallest_share(8) < 0.6
    assert 0.15 < smallest_share(32) < 0.3


def test_blur_is_for_images_above_32_pixels():
    def blurs(size):
        return any(isinstance(step, RandomGaussianBlur) for step in simclr_augmentation(size, 3))

    assert [blurs(size) for size in (8, 32, 33, 224)] == [False, False, True, True]


def test_grey_images_get_brightness_and_contrast():
    flat = torch.full((64, 1, 8, 8), 0.5)
    torch.manual_seed(0)
    changed = simclr_augmentation(8, 1)(flat)
    assert changed.std() > 0.05


def test_without_kornia_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.delitem(sys.modules, "onward.data.augmentation")
    with pytest.raises(MissingExtraError, match=r"kornia .* pip install 'onward\[vision\]'"):
        importlib.import_module("onward.data.augmentation")
