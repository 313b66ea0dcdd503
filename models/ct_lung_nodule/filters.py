"""Multi-scale blob filter in torch: the Laplacian of a Gaussian, normalised by scale (Lindeberg 1998)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Grid = NDArray[np.float32]  # (z, y, x)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """One maximum of the filter over place and scale."""

    index: tuple[int, int, int]  # (z, y, x)
    sigma: float  # mm; the blob's radius is about sigma * sqrt(3)
    strength: float  # HU


def blobs(values: Grid, spacing: tuple[float, ...], sigmas: Sequence[float], weakest: float, device: str) -> list[Blob]:
    """Return the bright blobs of *values* (HU), strongest first; *sigmas* in mm."""
    grid = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    best = torch.full_like(grid, -torch.inf)
    scale = torch.zeros_like(grid)
    with torch.inference_mode():
        for sigma in sigmas:
            response = _laplacian(_blurred(grid, sigma, spacing), spacing).mul_(-(sigma**2))
            scale = torch.where(response > best, torch.full_like(scale, sigma), scale)
            best = torch.maximum(best, response)
        peaks = (best == functional.max_pool3d(best[None, None], 3, stride=1, padding=1)[0, 0]) & (best > weakest)
        places = torch.nonzero(peaks).cpu().numpy()
        strengths = best[peaks].cpu().numpy()
        scales = scale[peaks].cpu().numpy()
    found = [
        Blob(index=(int(z), int(y), int(x)), sigma=float(sigma), strength=float(strength))
        for (z, y, x), sigma, strength in zip(places, scales, strengths, strict=True)
    ]
    return sorted(found, key=lambda blob: (-blob.strength, blob.index))


def _blurred(grid: torch.Tensor, sigma: float, spacing: tuple[float, ...]) -> torch.Tensor:
    """Return *grid* under a Gaussian of *sigma* mm: one matrix per axis costs the same at every scale."""
    along_z, along_y, along_x = (_gaussian(n, sigma / mm, grid) for n, mm in zip(grid.shape, spacing, strict=True))
    flat = along_z @ grid.reshape(grid.shape[0], -1)
    return (along_y @ flat.reshape(grid.shape)) @ along_x.T


def _gaussian(n: int, width: float, like: torch.Tensor) -> torch.Tensor:
    """Return the (n, n) matrix that blurs n samples by *width* samples; at the ends only what is in view counts."""
    place = torch.arange(n, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((place[:, None] - place[None, :]) / width) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True)).to(like)


def _laplacian(grid: torch.Tensor, spacing: tuple[float, ...]) -> torch.Tensor:
    """Return the sum of second differences per mm2; the outermost voxels lack a neighbour and have none."""
    total = torch.zeros_like(grid)
    for axis, mm in enumerate(spacing):
        inner = grid.shape[axis] - 2
        if inner < 1:
            continue  # two slices have no curvature
        low, middle, high = (grid.narrow(axis, start, inner) for start in range(3))
        total.narrow(axis, 1, inner).add_(low + high - 2.0 * middle, alpha=1.0 / mm**2)
    return total
