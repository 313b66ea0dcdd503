"""Samples changed at random, a batch at a time and where the network runs; each change within a recipe's bounds.

Left and right are never exchanged in a picture alone: where it is mirrored, so are its labels. All that is drawn comes
from one numpy generator, so the same seed gives the same batch (on one kind of device).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.sampling import HIGHEST, LOWEST
from models.train.recipe import Augmentation

_SIDES = (1, 2)  # labels of the left and the right lung
_RADIUS = 3  # samples that a blur reaches to each side


def normalised(hounsfield: Tensor) -> Tensor:
    """Return HU clipped and scaled to [-1, 1], as `models.sampling.normalised` does."""
    return (hounsfield.clamp(LOWEST, HIGHEST) - LOWEST) * (2.0 / (HIGHEST - LOWEST)) - 1.0


def augmented_slices(
    images: Tensor, labels: Tensor, size: int, spacing: float, how: Augmentation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return *images* (n, slices, y, x) in HU and *labels* (n, y, x), changed, *size* samples a side, HU normalised.

    *spacing* is that of the plane in mm. Where a picture is continued there is air, and no label.
    """
    images = images.float()
    images, labels = _mirrored(images, labels, how.flip_x, rng)
    images = _along_z(images, how, rng)
    grid = _plane(images.shape, size, spacing, how, rng).to(images.device)
    images = functional.grid_sample(images - LOWEST, grid, mode="bilinear", align_corners=False) + LOWEST
    labels = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].byte()
    images = _noisy(_blurred(images, how.blur, rng), how, rng)
    seen = _field(images.shape, how, rng).to(images.device)  # (n, y, x)
    images = torch.where(seen[:, None], images, LOWEST)
    return normalised(images), labels * seen


def augmented_cubes(cubes: Tensor, size: int, spacing: float, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return *cubes* (n, z, y, x) in HU turned every way, shifted and changed: (n, 1, size, size, size), normalised.

    A nodule knows neither left nor right, nor head nor feet, so cubes are mirrored freely; *shift* and *spacing* in mm.
    """
    count, side = cubes.shape[0], cubes.shape[-1]
    turn = np.stack([_rotation(rng, np.deg2rad(how.turn)) for _ in range(count)])
    mirror = rng.choice([-1.0, 1.0], (count, 1, 3))
    stretch = np.exp(rng.uniform(-1, 1, (count, 1, 1)) * np.log1p(how.scale)) * size / side
    shift = rng.uniform(-1, 1, (count, 3, 1)) * how.shift / spacing * 2.0 / side
    theta = torch.from_numpy(np.concatenate([turn * mirror * stretch, shift], axis=2).astype(np.float32))
    grid = functional.affine_grid(theta, [count, 1, size, size, size], align_corners=False).to(cubes.device)
    values = functional.grid_sample(cubes[:, None].float() - LOWEST, grid, align_corners=False) + LOWEST
    planes = _noisy(_blurred(values[:, 0], how.blur, rng), how, rng)
    return normalised(torch.where(_in_view(planes.shape, how, rng).to(planes.device), planes, LOWEST))[:, None]


def middle(images: Tensor, size: int) -> Tensor:
    """Return the middle *size* samples of the last axes that are longer, HU normalised: what validation sees."""
    for axis in range(2, images.dim()):
        length = min(size, images.shape[axis])
        images = images.narrow(axis, (images.shape[axis] - length) // 2, length)
    return normalised(images.float())


def _mirrored(
    images: Tensor, labels: Tensor, share: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror a *share* of the batch, left lungs and right lungs exchanged in the labels too."""
    chosen = torch.from_numpy(rng.random(images.shape[0]) < share).to(images.device)
    images = torch.where(chosen[:, None, None, None], images.flip(-1), images)
    left, right = _SIDES
    other = torch.where(labels == left, right, torch.where(labels == right, left, labels)).flip(-1)
    return images, torch.where(chosen[:, None, None], other.to(labels.dtype), labels)


def _along_z(images: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Reverse the row of slices of some samples; in some let the middle slice stand for one of its neighbours."""
    count, slices = images.shape[:2]
    order = np.tile(np.arange(slices), (count, 1))
    order[rng.random(count) < how.flip_z] = np.arange(slices)[::-1]
    for row in np.flatnonzero(rng.random(count) < how.dropped):
        order[row, rng.integers(slices)] = slices // 2
    rows = torch.arange(count, device=images.device)[:, None]
    return images[rows, torch.from_numpy(order).to(images.device)]


def _plane(
    shape: torch.Size, size: int, spacing: float, how: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Return where in the plane each sample's picture is taken from: turned, scaled and shifted (n, size, size, 2)."""
    count, height, width = shape[0], shape[-2], shape[-1]
    angle = np.deg2rad(how.turn) * rng.uniform(-1, 1, count)
    scale = np.exp(rng.uniform(-1, 1, count) * np.log1p(how.scale))
    shift = how.shift / spacing * rng.uniform(-1, 1, (count, 2))  # samples
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    theta = np.zeros((count, 2, 3), np.float32)  # from the picture's (x, y), each -1 to 1, to the canvas's
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = cos * size / width, -sin * size / width, shift[:, 0] * 2 / width
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = sin * size / height, cos * size / height, shift[:, 1] * 2 / height
    return functional.affine_grid(torch.from_numpy(theta), [count, 1, size, size], align_corners=False)


def _blurred(images: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """Blur half of the batch in the plane by a Gaussian of at most *most* samples."""
    sigma = rng.uniform(0.0, most, images.shape[0]) * (rng.random(images.shape[0]) < 0.5)
    if not sigma.any():
        return images
    place = np.arange(-_RADIUS, _RADIUS + 1)
    kernels = np.exp(-0.5 * (place / np.maximum(sigma, 1e-3)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(axis=1, keepdims=True)).astype(np.float32)
    weights = torch.from_numpy(kernels).to(images.device).repeat_interleave(images.shape[1], 0)  # (n * slices, taps)
    flat = images.reshape(1, -1, *images.shape[-2:])
    flat = functional.pad(flat, [_RADIUS] * 4, mode="replicate")
    flat = functional.conv2d(flat, weights[:, None, :, None], groups=flat.shape[1])
    flat = functional.conv2d(flat, weights[:, None, None, :], groups=flat.shape[1])
    return flat.reshape(images.shape)


def _noisy(images: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Stretch, lift and roughen the values (HU) of each sample."""
    count = images.shape[0]
    stretch, lift, sigma = (
        torch.from_numpy(one.astype(np.float32)).to(images.device).view(count, 1, 1, 1)
        for one in (
            1.0 + how.contrast * rng.uniform(-1, 1, count), how.brightness * rng.uniform(-1, 1, count),
            how.noise * rng.uniform(0, 1, count) ** 2,
        )
    )  # fmt: skip
    source = torch.Generator(images.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(images.shape, generator=source, device=images.device)
    return (images + 500.0) * stretch - 500.0 + lift + sigma * noise


def _field(shape: torch.Size, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return what of each picture is in the field of view (n, y, x): all, within a circle, this side of a border."""
    count, height, width = shape[0], shape[-2], shape[-1]
    y, x = ((np.arange(n) - (n - 1) / 2) / (n / 2) for n in (height, width))  # -1 to 1
    seen = np.ones((count, height, width), bool)
    for n in np.flatnonzero(rng.random(count) < how.circle):
        (middle_y, middle_x), radius = rng.uniform(-0.15, 0.15, 2), rng.uniform(0.65, 1.05)
        seen[n] &= ((y - middle_y) ** 2)[:, None] + (x - middle_x) ** 2 < radius**2
    for n in np.flatnonzero(rng.random(count) < how.cut):
        border, towards = rng.uniform(0.1, 0.95), rng.integers(4)
        along = (y[:, None], -y[:, None], x[None], -x[None])[towards]
        seen[n] &= along < border
    return torch.from_numpy(seen)


def _in_view(shape: torch.Size, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return what of each cube lies within the images (n, z, y, x): all, or what is this side of a slice's border.

    Its middle always does, as a candidate's.
    """
    seen = np.ones(tuple(shape), bool)
    for n in np.flatnonzero(rng.random(shape[0]) < how.cut):
        axis, border = int(rng.integers(3)), int(rng.integers(shape[1] // 2 + 1, shape[1]))
        within = np.arange(shape[1]) < border
        within = within if rng.random() < 0.5 else within[::-1]
        seen[n] &= within.reshape([-1 if other == axis else 1 for other in range(3)])
    return torch.from_numpy(seen)


def _rotation(rng: np.random.Generator, most: float) -> NDArray[np.float64]:
    """Return a rotation by at most *most* radians about an axis drawn at random (Rodrigues)."""
    x, y, z = (axis := rng.normal(size=3)) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = rng.uniform(0.0, most)
    rotation: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation
