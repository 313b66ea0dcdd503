"""The networks: shapes, what changes nothing, and files that explain themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from models.network import (
    TURNS,
    Network,
    NoduleCNN,
    NoduleCNNSettings,
    Settings,
    SliceClassifier,
    SliceClassifierSettings,
    UNet,
    UNetSettings,
    WeightsError,
    build,
    load_network,
    read_facts,
    save,
)

SMALL_UNET = UNetSettings(in_channels=3, classes=2, channels=4, levels=3)
SMALL_CLASSIFIER = SliceClassifierSettings(
    regions=("chest", "head"), kinds=("chest", "legs"), phases=("none", "venous"), channels=4, hidden=6,
    whole_channels=2, whole_hidden=4,
)  # fmt: skip
SMALL_CNN = NoduleCNNSettings(channels=4, levels=3)
EACH = [SMALL_UNET, SMALL_CLASSIFIER, SMALL_CNN]


def fresh(settings: Settings) -> Network:
    """Return a network whose weights are the same each time."""
    torch.manual_seed(3)
    return build(settings).eval()


def answer(network: Network) -> torch.Tensor:
    """Return what *network* makes of one fixed input."""
    shape = (1, 1, 8, 8, 8) if isinstance(network, NoduleCNN) else (1, 3, 16, 16)
    values = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
    with torch.inference_mode():
        given = network(values)
    return given[1] if isinstance(given, tuple) else given


@pytest.mark.parametrize(("dims", "shape"), [(2, (40, 23)), (2, (1, 7)), (3, (5, 9, 14))])
def test_a_unet_answers_on_the_grid_that_it_was_given(dims: int, shape: tuple[int, ...]) -> None:
    """Sides that are no multiple of the coarsest step are continued and cut again."""
    network = fresh(UNetSettings(dims=dims, in_channels=2, classes=3, channels=4, levels=3))
    assert network(torch.zeros(2, 2, *shape)).shape == (2, 3, *shape)


def test_a_unet_learns_what_is_as_fine_as_a_pixel() -> None:
    """Each pixel's label is its left neighbour's sign, of noise: only the connections across carry that to the head."""
    network = fresh(UNetSettings(in_channels=1, classes=2, channels=8, levels=3)).train()
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    truth = (images.roll(1, dims=-1)[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), truth).backward()
        optimizer.step()
    right = network(images).argmax(dim=1) == truth
    assert right[..., 1:].float().mean() > 0.97


def test_slices_beyond_a_series_length_change_nothing() -> None:
    """A short series in a batch gets the answer that it gets alone."""
    network = fresh(SMALL_CLASSIFIER)
    torch.manual_seed(5)
    short, filler = torch.randn(1, 3, 16, 16), torch.full((1, 4, 16, 16), 9.0)
    long = torch.randn(1, 7, 16, 16)
    batch = torch.cat([torch.cat([short, filler], dim=1), long])
    with torch.inference_mode():
        regions, kinds = network(batch, torch.tensor([3, 7]))
        alone = network(short)
    torch.testing.assert_close(regions[:1, :3], alone[0])
    torch.testing.assert_close(kinds[:1], alone[1])


def test_a_slice_is_judged_by_its_neighbours_too() -> None:
    """The GRU carries what it saw both ways along the series."""
    network = fresh(SMALL_CLASSIFIER)
    torch.manual_seed(5)
    series = torch.randn(1, 5, 16, 16)
    changed = series.clone()
    changed[0, 2] += 3.0
    with torch.inference_mode():
        moved = (network(changed)[0] - network(series)[0]).abs().sum(dim=2)[0]
    assert (moved > 0).all()


def test_a_series_turned_gets_the_opposite_answer_about_that_turn_alone() -> None:
    """And the same phase: which way is right must be learnt of the patient, not of a habit of the network."""
    network = fresh(SMALL_CLASSIFIER)
    assert isinstance(network, SliceClassifier)
    torch.manual_seed(6)
    series = torch.randn(1, 5, 48, 48)
    with torch.inference_mode():
        phase, turns = network.whole(series)
        assert float(turns.abs().min()) > 1e-6
        for number, axis in enumerate((3, 2, 1)):
            sign = torch.ones(len(TURNS))
            sign[number] = -1.0
            other_phase, other_turns = network.whole(series.flip(axis))
            torch.testing.assert_close(other_phase, phase, atol=1e-5, rtol=0)
            torch.testing.assert_close(other_turns, turns * sign, atol=1e-6, rtol=0)


def test_a_nodule_cnn_pools_maps_that_can_be_looked_at() -> None:
    """Class activation maps need maps, and a judgement that is a weighted mean of them."""
    network = fresh(SMALL_CNN)
    assert isinstance(network, NoduleCNN)
    cubes = torch.randn(2, 1, 32, 32, 32)
    maps = network.features(cubes)
    assert maps.shape == (2, 16, 8, 8, 8)
    torch.testing.assert_close(network(cubes), network.judge(maps))
    torch.testing.assert_close(network.judge(maps), network.judge(maps.flip(2)))


@pytest.mark.parametrize("settings", EACH, ids=lambda one: type(one).__name__)
def test_a_network_comes_back_as_it_went(settings: Settings, tmp_path: Path) -> None:
    """Settings, facts and every weight; half as many bytes where asked, and then nearly the same answers."""
    network, whole, half = fresh(settings), tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save(network, whole, {"seed": 7, "score": 0.5})
    save(network, half, {}, half=True)
    back = load_network(whole, "cpu")
    assert (type(back), back.settings) == (type(network), settings)
    assert not back.training
    assert read_facts(whole) == {"seed": 7, "score": 0.5}
    torch.testing.assert_close(answer(back), answer(network), rtol=0, atol=0)
    rounded = load_network(half, "cpu")
    assert {one.dtype for one in rounded.parameters()} == {torch.float32}
    torch.testing.assert_close(answer(rounded), answer(network), rtol=0.02, atol=0.02)
    tensors = sum(one.numel() for one in network.state_dict().values())
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * tensors, abs=100)


def test_a_wrong_file_is_refused_by_name(tmp_path: Path) -> None:
    """Missing, no safetensors, somebody else's, of another kind, cut in its settings: each says what is wrong."""
    file = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError, match=r"weights\.safetensors: there is no such file"):
        load_network(file, "cpu")
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(WeightsError, match=r"weights\.safetensors: is no readable safetensors file"):
        load_network(file, "cpu")
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match=r"weights\.safetensors: its format is None"):
        load_network(file, "cpu")
    save(fresh(SMALL_CNN), file, {})
    with pytest.raises(WeightsError, match=r"holds a NoduleCNN, not a UNet"):
        load_network(file, "cpu", UNet)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"channels": 4, "levels": 3, "colour": 1}', "colour"),
        ('{"channels": 8, "levels": 3}', "do not fit"),
        ("{", "settings"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: str, words: str, tmp_path: Path) -> None:
    """A file of a later version, or one that was tampered with, is no reason to guess."""
    file = tmp_path / "weights.safetensors"
    text = {"format": "pacs-ai-node network 1", "network": "nodule-cnn", "settings": settings, "facts": json.dumps({})}
    save_file(fresh(SMALL_CNN).state_dict(), file, metadata=text)
    with pytest.raises(WeightsError, match=words):
        load_network(file, "cpu")


def test_impossible_settings_are_refused() -> None:
    """A network is valid when its settings are."""
    with pytest.raises(ValueError, match="dims is 4"):
        UNetSettings(dims=4)
    with pytest.raises(ValueError, match="levels is 0"):
        UNetSettings(levels=0)
    with pytest.raises(ValueError, match="regions"):
        SliceClassifierSettings(regions=("chest",), kinds=("a", "b"), phases=("c", "d"))
    with pytest.raises(ValueError, match="phases"):
        SliceClassifierSettings(regions=("chest", "head"), kinds=("a", "b"), phases=())
