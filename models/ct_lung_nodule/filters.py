"""Multi-scale blob filter in torch: the Laplacian of a Gaussian, normalised by scale (Lindeberg 1998)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Grid = NDArray[np.float32]  # (z, y, x)

_REACH = 3.0  # standard deviations that a kernel reaches


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """One maximum of the filter over place and scale."""

    index: tuple[int, int, int]  # (z, y, x)
    sigma: float  # mm; the blob's radius is about sigma * sqrt(3)
    strength: float  # HU


def blobs(
    values: Grid, spacing: tuple[float, ...], sigmas: Sequence[float], weakest: float, device: str
) -> list[Blob]:
    """Return the bright blobs of *values* (HU), strongest first; *sigmas* in mm."""
    grid = torch.from_numpy(np.ascontiguousarray(values))[None, None].to(device)
    best = torch.full_like(grid, -torch.inf)
    scale = torch.zeros_like(grid)
    with torch.inference_mode():
        for sigma in sigmas:
            response = _laplacian(_blurred(grid, sigma, spacing), spacing).mul_(-(sigma**2))
            scale = torch.where(response > best, torch.full_like(scale, sigma), scale)
            best = torch.maximum(best, response)
        peaks = (best == functional.max_pool3d(best, 3, stride=1, padding=1)) & (best > weakest)
        places = torch.nonzero(peaks[0, 0]).cpu().numpy()
        strengths = best[peaks].cpu().numpy()
        scales = scale[peaks].cpu().numpy()
    found = [
        Blob(index=(int(z), int(y), int(x)), sigma=float(sigma), strength=float(strength))
        for (z, y, x), sigma, strength in zip(places, scales, strengths, strict=True)
    ]
    return sorted(found, key=lambda blob: (-blob.strength, blob.index))


def _blurred(grid: torch.Tensor, sigma: float, spacing: tuple[float, ...]) -> torch.Tensor:
    for axis, mm in enumerate(spacing):
        width = sigma / mm
        reach = max(1, int(_REACH * width + 0.5))
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=grid.device)
        kernel = torch.exp(-0.5 * (offsets / width) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = -1
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = reach
        padded = functional.pad(grid, padding, mode="replicate")
        grid = functional.conv3d(padded, (kernel / kernel.sum()).reshape(shape))
    return grid


def _laplacian(grid: torch.Tensor, spacing: tuple[float, ...]) -> torch.Tensor:
    """Return the sum of second differences per mm2."""
    padded = functional.pad(grid, [1] * 6, mode="replicate")
    centre = padded[:, :, 1:-1, 1:-1, 1:-1]
    before = (padded[:, :, :-2, 1:-1, 1:-1], padded[:, :, 1:-1, :-2, 1:-1], padded[:, :, 1:-1, 1:-1, :-2])
    after = (padded[:, :, 2:, 1:-1, 1:-1], padded[:, :, 1:-1, 2:, 1:-1], padded[:, :, 1:-1, 1:-1, 2:])
    total = torch.zeros_like(grid)
    for mm, low, high in zip(spacing, before, after, strict=True):
        total += (low + high - 2.0 * centre) / mm**2
    return total
