"""Samples: drawn once, never mistaken, parted the same way each time; real cases land where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract import Volume
from models.phantom import Phantom
from models.train import sources
from models.train.recipe import Data
from models.train.samples import lung_sample
from models.train.sources import Cache, Case, Sample, SampleError, parted, read_cases, save_case


class Drawer:
    """Draws numbers and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, seed: int) -> Sample:
        """Return a sample of nothing but its seed."""
        self.asked.append(seed)
        voxels = np.full((2, 3, 4), seed, np.int16)
        return Sample(name=f"body-{seed}", voxels=voxels, labels=np.zeros((2, 3, 4), np.uint8))


def test_what_was_drawn_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seeds and wishes come from the folder; another wish, or another generator, does not."""
    draw, cache = Drawer(), Cache(folder=tmp_path)
    first = cache.samples(draw, range(3), {"spacing": 3.0}, "bodies")
    again = cache.samples(draw, range(1, 4), {"spacing": 3.0}, "bodies")
    assert draw.asked == [0, 1, 2, 3]
    assert [one.name for one in again] == ["body-1", "body-2", "body-3"]
    assert np.array_equal(again[0].voxels, first[1].voxels)
    cache.samples(draw, [0], {"spacing": 2.0}, "bodies")
    monkeypatch.setattr(sources, "generator_digest", lambda: "another")
    cache.samples(draw, [0], {"spacing": 3.0}, "bodies")
    assert draw.asked == [0, 1, 2, 3, 0, 0]


def test_the_parts_are_settled_by_name_and_seed() -> None:
    """Each case is in one part; one more case moves no other; another seed parts otherwise."""
    names = [f"case-{n}" for n in range(40)]
    learnt, held = parted(names, 0.25, 1)
    assert sorted(learnt + held) == list(range(40))
    assert 4 <= len(held) <= 18
    assert parted([*names, "late"], 0.25, 1)[1][: len(held)] == held
    assert parted(names, 0.25, 2)[1] != held


def test_a_case_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Voxels, place, labels and facts; what is broken is refused by name."""
    affine = np.diag([3.0, 2.0, 1.0, 1.0])[[2, 1, 0, 3]]
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    labels = np.array([0, 1, 255], np.uint8)[np.arange(24) % 3].reshape(2, 3, 4)
    case = Case(name="one", volume=Volume(voxels=voxels, affine=affine), labels=labels, facts={"licence": "CC BY 3.0"})
    save_case(case, tmp_path / "one.npz")
    (back,) = read_cases(tmp_path)
    assert (back.name, back.facts) == ("one", {"licence": "CC BY 3.0"})
    assert np.array_equal(back.volume.voxels, voxels)
    assert np.array_equal(back.volume.affine, affine)
    assert np.array_equal(back.labels, labels)
    np.savez(tmp_path / "two.npz", voxels=voxels)
    with pytest.raises(SampleError, match=r"two\.npz: is no prepared case"):
        read_cases(tmp_path)
    with pytest.raises(SampleError, match="holds no prepared case"):
        read_cases(tmp_path / "nowhere")


def test_a_body_keeps_its_lungs_on_the_training_grid(phantom: Phantom, thorax: Volume) -> None:
    """Each lung's volume and middle, in the canvas's own millimetres; and dark is where the labels say lung."""
    labels = (phantom.left_lung + 2 * phantom.right_lung).astype(np.uint8)
    data = Data(bodies=1, validation_bodies=1, canvas=140)
    sample = lung_sample("phantom", thorax, labels, data)
    assert sample.voxels.shape[1:] == (140, 140)
    for n, truth in ((1, phantom.left_lung), (2, phantom.right_lung)):
        assert (sample.labels == n).sum() * 27.0 == pytest.approx(truth.sum() * np.prod(thorax.spacing), rel=0.03)
        middle = np.argwhere(sample.labels == n).mean(0) - (np.array(sample.labels.shape) - 1) / 2
        expected = np.argwhere(truth).mean(0) - (np.array(truth.shape) - 1) / 2
        assert middle * 3.0 == pytest.approx(expected * thorax.spacing, abs=0.6)
    assert np.median(sample.voxels[sample.labels > 0]) < -800


def test_behind_padding_nothing_is_labelled(phantom: Phantom, thorax: Volume) -> None:
    """A lung that goes on behind the border of a circular field cannot be seen there."""
    labels = (phantom.left_lung + 2 * phantom.right_lung).astype(np.uint8)
    voxels = thorax.voxels.copy()
    voxels[:, :, 64:] = -3024.0
    padded = Volume(voxels=voxels, affine=thorax.affine)
    sample = lung_sample("padded", padded, labels, Data(bodies=1, validation_bodies=1, canvas=140))
    expected = phantom.right_lung.sum() * np.prod(thorax.spacing) / 27.0
    assert (sample.labels == 2).sum() == pytest.approx(expected, rel=0.03)
    assert not (sample.labels[:, :, 72:] > 0).any()
