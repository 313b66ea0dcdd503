"""Where a network looked: gradient-weighted class activation maps of any network with convolutions, in 2-D or 3-D."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Picks the number to be explained out of a network's output, e.g. ``lambda out: out[0, 2]``, before any softmax.
Target = Callable[[Tensor], Tensor]

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


class NothingToExplain(ValueError):
    """The network has no convolution, or its answer does not depend on the one that was asked for."""


def grad_cam(network: nn.Module, image: Tensor, target: Target, layer: nn.Module | None = None) -> Tensor:
    """Return a heat map of *image*'s size, 0 to 1: how far each place spoke for the *target*.

    *image* is one input with its batch axis, (1, channels, y, x) or (1, channels, z, y, x); the map is (y, x) or
    (z, y, x), on the image's device. *layer* is the network's last convolution unless it is given. The map is
    relu(sum over channels of mean gradient times activation), enlarged linearly and divided by its greatest value;
    all 0 where nothing spoke for the target (Selvaraju et al. 2017, 10.1007/s11263-019-01228-7). It tells where the
    layer was moved by, not why, and no finer than the layer's own grid.

    The network is left as it was: its mode, its gradients and its hooks. Answers are those of evaluation, so dropout
    and batch norms do not make the map a matter of chance.
    """
    if image.ndim not in (4, 5) or image.shape[0] != 1:
        raise ValueError(f"the image must be (1, channels, [z,] y, x), not {tuple(image.shape)}")
    chosen = layer if layer is not None else last_convolution(network)
    with torch.enable_grad(), _evaluating(network):
        activation, score = _seen(network, image, chosen, target)
        (gradient,) = torch.autograd.grad(score, activation, allow_unused=True)
    if gradient is None:
        raise NothingToExplain("the target does not depend on the layer")
    places = tuple(range(2, gradient.ndim))
    weights = gradient.mean(dim=places, keepdim=True)
    heat = torch.relu((weights * activation.detach()).sum(dim=1, keepdim=True))
    heat = nn.functional.interpolate(
        heat.float(), size=tuple(image.shape[2:]), mode="bilinear" if image.ndim == 4 else "trilinear",
        align_corners=False,
    )[0, 0]  # fmt: skip
    greatest = heat.max()
    return heat / greatest if greatest > 0 else heat


def last_convolution(network: nn.Module) -> nn.Module:
    """Return the convolution of *network* that was registered last; NothingToExplain where there is none."""
    found = [module for module in network.modules() if isinstance(module, _CONVOLUTIONS)]
    if not found:
        raise NothingToExplain("the network has no convolution in two or three dimensions")
    return found[-1]


def _seen(network: nn.Module, image: Tensor, layer: nn.Module, target: Target) -> tuple[Tensor, Tensor]:
    """Run *network*; return the activation of *layer*, as part of the graph, and the number to be explained."""
    caught: list[Tensor] = []
    # The layer's answer is made a variable of its own where nothing before it asks for a gradient (frozen weights).
    # It goes on as a copy: an activation in place behind the layer would overwrite what is weighed here.
    handle = layer.register_forward_hook(lambda _module, _given, answer: _catch(caught, answer))
    try:
        score = target(network(image))
    finally:
        handle.remove()
    if not caught:
        raise NothingToExplain("the network does not run through the layer")
    if score.ndim or not score.requires_grad:
        raise NothingToExplain("the target is no single number that depends on the layer")
    return caught[-1], score


def _catch(caught: list[Tensor], answer: Tensor) -> Tensor:
    caught.append(answer if answer.requires_grad else answer.detach().requires_grad_())
    return caught[-1].clone()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Have *network* in evaluation mode, and each of its modules in its own again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
