"""Heat maps lie where a network's decision was made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.explain import NothingToExplain, grad_cam


class Bright(nn.Module):
    """Says how much bright there is (class 0), and how much dark (class 1), in two or three dimensions."""

    def __init__(self, axes: int, *, in_place: bool = False) -> None:
        super().__init__()
        convolution = nn.Conv2d if axes == 2 else nn.Conv3d
        self.look = convolution(1, 2, 3, padding=1, stride=2, bias=False)
        with torch.no_grad():
            self.look.weight[0], self.look.weight[1] = 1.0, -1.0
        self.relu = nn.ReLU(inplace=in_place)
        self.drop = nn.Dropout(1.0)  # while training, nothing is left of an answer

    def forward(self, image: Tensor) -> Tensor:
        """Return (batch, 2)."""
        return self.drop(self.relu(self.look(image))).flatten(2).mean(dim=2)


def bright(output: Tensor) -> Tensor:
    """The first class."""
    return output[0, 0]


def dark(output: Tensor) -> Tensor:
    """The second class."""
    return output[0, 1]


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
@pytest.mark.parametrize("shape", [(24, 40), (12, 20, 28)], ids=["2-D", "3-D"])
def test_the_heat_lies_on_what_decides_the_class(shape: tuple[int, ...], in_place: bool) -> None:
    """A bright patch and a dark one: each class's map lies on its own, in the image's size, from 0 to 1."""
    patches = tuple(slice(2, 8) for _ in shape), tuple(slice(n - 8, n - 2) for n in shape)
    image = torch.zeros(1, 1, *shape)
    image[(0, 0, *patches[0])], image[(0, 0, *patches[1])] = 1.0, -1.0
    for target, patch in zip((bright, dark), patches, strict=True):
        heat = grad_cam(Bright(len(shape), in_place=in_place), image, target)
        assert heat.shape == shape
        assert float(heat.min()) >= 0.0
        assert float(heat.max()) == pytest.approx(1.0)
        grown = tuple(slice(s.start - 2, s.stop + 2) for s in patch)
        assert float(heat[grown].sum() / heat.sum()) > 0.95


def test_what_speaks_against_the_class_leaves_no_heat() -> None:
    """All dark: nothing speaks for bright, and nothing is divided by nothing."""
    heat = grad_cam(Bright(2), torch.full((1, 1, 16, 16), -1.0), bright)
    assert float(heat.abs().max()) == 0.0


def test_frozen_weights_are_explained_and_the_network_is_left_as_it_was() -> None:
    """No gradient stays, no hook, no mode, though the caller switched gradients off and the next layer overwrites."""
    network = Bright(2, in_place=True).train()
    network.requires_grad_(False)
    network.drop.eval()
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 4:8, 4:8] = 1.0
    with torch.no_grad():
        heat = grad_cam(network, image, bright)
    assert float(heat.max()) == pytest.approx(1.0)
    assert not heat.requires_grad
    assert (network.training, network.look.training, network.drop.training) == (True, True, False)
    assert not network.look._forward_hooks
    assert network.look.weight.grad is None


def test_what_cannot_be_explained_is_said() -> None:
    """No convolution; a target that is no number; a layer that is not run; two images."""
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(NothingToExplain, match="no convolution"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), image, bright)
    with pytest.raises(NothingToExplain, match="no single number"):
        grad_cam(Bright(2), image, lambda output: output)
    with pytest.raises(NothingToExplain, match="does not run through"):
        grad_cam(Bright(2), image, bright, layer=nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="must be"):
        grad_cam(Bright(2), torch.zeros(2, 1, 8, 8), bright)
