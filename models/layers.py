"""What the networks are built of: convolutions that are normalised and bent, and sides made to fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.01  # of the leaky ReLU below nought
CONV: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Conv3d)
UP: tuple[type[nn.Module], ...] = (nn.ConvTranspose2d, nn.ConvTranspose3d)
POOL: tuple[type[nn.Module], ...] = (nn.MaxPool2d, nn.MaxPool3d)


def in_groups(width: int) -> nn.Module:
    """Return a group normalisation of *width* channels: eight groups where they divide it."""
    return nn.GroupNorm(max(n for n in (8, 4, 2, 1) if width % n == 0), width)


def block(dims: int, before: int, width: int, norm: Callable[[int], nn.Module] = in_groups) -> nn.Sequential:
    """Return two convolutions of 3 voxels a side, each normalised and bent."""
    return nn.Sequential(*bent(dims, before, width, norm), *bent(dims, width, width, norm))


def step(dims: int, before: int, width: int, norm: Callable[[int], nn.Module] = in_groups) -> nn.Sequential:
    """Return a halving of the grid and two convolutions."""
    return nn.Sequential(POOL[dims - 2](2), block(dims, before, width, norm))


def bent(dims: int, before: int, width: int, norm: Callable[[int], nn.Module]) -> tuple[nn.Module, ...]:
    """Return a convolution of 3 voxels a side that keeps the size, normalised and bent."""
    convolution = CONV[dims - 2](before, width, kernel_size=3, padding=1, bias=False)
    return convolution, norm(width), nn.LeakyReLU(SLOPE, inplace=True)


def continued(images: Tensor, multiple: int) -> Tensor:
    """Return *images* with their last values repeated until each side is a multiple of *multiple*."""
    lacking = [-n % multiple for n in images.shape[2:]]
    if not any(lacking):
        return images
    pads = [pad for n in reversed(lacking) for pad in (0, n)]
    return functional.pad(images, pads, mode="replicate")


def cut(values: Tensor, shape: torch.Size) -> Tensor:
    """Return the first of *values* along the axes of *shape*."""
    for axis, n in enumerate(shape, 2):
        values = values.narrow(axis, 0, n)
    return values
