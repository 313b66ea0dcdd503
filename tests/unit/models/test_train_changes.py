"""Augmentation and losses: nothing unsaid changes, sides stay sides, and what is unknown counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.train.augment import augmented_cubes, augmented_slices, middle
from models.train.losses import binary_loss, cross_entropy, segmentation_loss, soft_dice
from models.train.recipe import Augmentation

NONE = Augmentation(
    turn=0.0, scale=0.0, shift=0.0, flip_z=0.0, flip_x=0.0, brightness=0.0, contrast=0.0, noise=0.0, blur=0.0,
    circle=0.0, cut=0.0, dropped=0.0,
)  # fmt: skip


def slices(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return stacks of two unlike lungs in soft tissue, in HU, with their labels: left is at the greater x."""
    images = torch.full((count, 5, 40, 40), 40.0)
    labels = torch.zeros((count, 40, 40), dtype=torch.uint8)
    for label, (y, x), value in ((2, np.s_[8:30, 5:15], -850.0), (1, np.s_[12:34, 24:36], -700.0)):
        images[:, :, y, x], labels[:, y, x] = value, label
    images += torch.arange(5)[None, :, None, None]  # slices can be told apart
    return images, labels


def changed(how: Augmentation, seed: int = 1, size: int = 40, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the augmented scene."""
    images, labels = slices(count)
    return augmented_slices(images, labels, size, 3.0, how, np.random.default_rng(seed))


def with_one(**one: float) -> Augmentation:
    """Return an augmentation that makes one change alone."""
    return replace(NONE, **one)  # type: ignore[arg-type]


def test_no_change_is_no_change() -> None:
    """The identity to the last label, and to rounding in the values."""
    images, labels = slices()
    same, own = changed(NONE)
    torch.testing.assert_close(same, middle(images, 40), atol=1e-5, rtol=0)
    assert torch.equal(own, labels)


@pytest.mark.parametrize("name", ["turn", "scale", "shift", "flip_z", "flip_x", "brightness", "contrast", "noise",
                                  "blur", "circle", "cut", "dropped"])  # fmt: skip
def test_every_setting_changes_something_and_a_seed_settles_what(name: str) -> None:
    """No option does nothing; the same seed gives the same batch, another seed another."""
    how = with_one(**{name: 20.0 if name in ("turn", "shift", "brightness", "noise") else 1.0})
    first, again, other = (changed(how, seed, count=8)[0] for seed in (1, 1, 2))
    plain = changed(NONE, count=8)[0]
    assert torch.equal(first, again)
    assert not torch.allclose(first, plain, atol=1e-4)
    if not name.startswith("flip"):
        assert not torch.allclose(first, other, atol=1e-6)


def test_a_mirrored_patient_has_his_left_lung_on_his_left() -> None:
    """The picture is mirrored and so are the names: label 1 stays at the greater x."""
    images, labels = changed(with_one(flip_x=1.0))
    where = torch.arange(40.0).expand_as(labels)
    assert where[labels == 1].mean() > where[labels == 2].mean()
    assert images[:, 2][labels == 1].mean() < images[:, 2][labels == 2].mean()  # the right one was the darker


def test_labels_move_with_their_picture() -> None:
    """Turned, scaled and shifted, dark is lung and lung is dark."""
    images, labels = changed(with_one(turn=40.0, scale=0.3, shift=6.0), seed=5, size=20, count=12)
    dark = images[:, 2] < -0.1
    assert ((labels > 0) == dark).float().mean() > 0.97
    assert ((slices(12)[1][:, 10:30, 10:30] > 0) == dark).float().mean() < 0.95


def test_what_is_out_of_the_field_is_air_without_label() -> None:
    """A network is not to guess lungs behind the border of the images."""
    images, labels = changed(with_one(circle=1.0, cut=1.0), count=12)
    gone = (images == -1.0).all(dim=1)
    assert gone.any()
    assert (labels[gone] == 0).all()
    assert (labels > 0).sum() < (slices(12)[1] > 0).sum()


def test_a_cut_out_lies_in_the_middle_of_its_canvas() -> None:
    """A smaller size shows the middle, at the same spacing."""
    small, labels = changed(NONE, size=20)
    images, whole = slices()
    torch.testing.assert_close(small, middle(images, 20), atol=1e-5, rtol=0)
    assert torch.equal(labels, whole[:, 10:30, 10:30])


def test_cubes_are_turned_and_keep_their_middle() -> None:
    """A ball in the middle stays there however it is turned and mirrored; unchanged it is itself."""
    place = torch.arange(24.0) - 11.5
    away = (place[:, None, None] ** 2 + place[:, None] ** 2 + place**2).sqrt()
    cubes = torch.where(away < 5.0, 40.0, -850.0).repeat(4, 1, 1, 1)
    turned = augmented_cubes(cubes, 16, 1.0, with_one(turn=180.0), np.random.default_rng(0))
    assert turned.shape == (4, 1, 16, 16, 16)
    assert ((turned[:, 0] > 0) == (cubes[:, 4:20, 4:20, 4:20] > 0)).float().mean() > 0.98


def test_a_cube_may_be_cut_by_the_border_of_the_images_but_its_middle_never_is() -> None:
    """On one side, by less than half; lesions and everything else alike, so that a border tells nothing."""
    cubes = torch.zeros((40, 16, 16, 16))
    seen = augmented_cubes(cubes, 16, 1.0, with_one(cut=0.5), np.random.default_rng(0))[:, 0] > -1.0
    share = seen.float().mean(dim=(1, 2, 3))
    assert 8 < int((share < 1.0).sum()) < 32
    assert bool(seen[:, 7:9, 7:9, 7:9].all()) and float(share.min()) > 0.5


def logits(labels: torch.Tensor, sure: float = 20.0, classes: int = 4) -> torch.Tensor:
    """Return logits that are *sure* of *labels*."""
    one_hot = torch.nn.functional.one_hot(labels.long() % classes, classes)
    return sure * one_hot.movedim(-1, 1).float()


def test_a_right_answer_costs_nothing_and_a_wrong_one_much() -> None:
    """Both parts of the loss are least where the answer is the truth."""
    truth = slices()[1]
    assert segmentation_loss(logits(truth), truth) == pytest.approx(0.0, abs=1e-4)
    wrong = logits((truth + 1) % 4)
    assert soft_dice(wrong, truth) == pytest.approx(0.0, abs=1e-3)
    assert segmentation_loss(wrong, truth) > 10.0


def test_what_is_unknown_counts_for_nothing() -> None:
    """Whatever a network says where the label is 255, its loss and the way down are the same."""
    truth = slices()[1]
    truth[:, :20] = 255
    first, second = logits(slices()[1]), logits(slices()[1])
    second[:, 1, :20] += 50.0
    assert segmentation_loss(first, truth) == segmentation_loss(second, truth)
    second.requires_grad_()
    segmentation_loss(second, truth).backward()
    assert second.grad is not None
    assert (second.grad[:, :, :20] == 0).all()
    assert cross_entropy(first, torch.full_like(truth, 255)) == 0.0


def test_a_class_that_is_not_there_costs_no_dice() -> None:
    """Airways are in few slices: their absence must not pull the mean down."""
    truth = slices()[1]
    assert soft_dice(logits(truth), truth) == pytest.approx(1.0, abs=1e-3)
    assert soft_dice(logits(truth), torch.zeros_like(truth)) == 1.0


def test_half_an_overlap_is_half_a_dice() -> None:
    """Two of four voxels found, two beside: 2 * 2 / (4 + 4)."""
    truth = torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 0, 1, 1, 1, 1, 0, 0]]], dtype=torch.uint8)
    assert soft_dice(logits(found, classes=2), truth) == pytest.approx(0.5, abs=1e-3)


def test_a_binary_loss_is_least_at_the_truth() -> None:
    """ln 2 where nothing is known."""
    truth = torch.tensor([0, 1])
    assert binary_loss(torch.zeros(2), truth) == pytest.approx(np.log(2.0), abs=1e-6)
    assert binary_loss(torch.tensor([-9.0, 9.0]), truth) < 0.001 < binary_loss(torch.tensor([9.0, -9.0]), truth)
