"""What the scanner adds: slice thickness, blur, kernel, noise, streaks, a circular field with padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from models.generator.body import Wish
from models.generator.frame import Frame, Grid
from models.generator.patient import Dice, Facts

_THICK = 2.6  # mm: wider slices are averages of several


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanner:
    """One protocol."""

    blur: float  # mm, sigma of the point spread in the plane
    sharpen: float  # edge enhancement, 0 is none
    noise: float  # HU
    grain: float  # mm, sigma of the noise's texture
    streaks: float  # HU, of noise along the patient's width
    padding: float  # HU outside a circular field; 0 is none
    field: float  # radius of that field as a share of half the picture's width


def draw_scanner(seed: int, wish: Wish, facts: Facts) -> Scanner:
    """Return the protocol of a *seed*."""
    dice = Dice(seed, "scanner", facts)
    kernel = dice.one_of("kernel", ("smooth", "medium", "sharp"), (0.4, 0.35, 0.25))
    blur, sharpen, grain, low, high = {
        "smooth": (0.75, 0.0, 0.95, 5, 26), "medium": (0.55, 0.35, 0.6, 10, 40), "sharp": (0.38, 0.9, 0.38, 25, 85),
    }[kernel]  # fmt: skip
    noise = dice.between("noise_hu", low, high) if wish.noise is None else wish.noise
    low_dose = dice.chance("low_dose", 0.2) and not wish.tidy
    padding = float(dice.one_of("padding", ("0", "-1024", "-2000", "-3024"), (0.5, 0.15, 0.25, 0.1)))
    if wish.padding is not None or wish.tidy:
        padding = wish.padding or 0.0
    facts.update(padding=padding, noise_hu=round(noise, 2))
    return Scanner(
        blur=blur * dice.between("blur_by", 0.85, 1.25), sharpen=sharpen * dice.between("sharpen_by", 0.6, 1.3),
        noise=noise * (1.5 if low_dose else 1.0), grain=grain, streaks=noise * 0.9 if low_dose else 0.0,
        padding=padding, field=dice.between("field", 0.94, 1.04),
    )  # fmt: skip


def slices_for(spacing: tuple[float, float, float]) -> int:
    """Return how many thin slices (odd) are averaged to one."""
    return 1 + 2 * int(np.ceil((spacing[0] / _THICK - 1) / 2 - 0.1))


def scanned(voxels: Grid, frame: Frame, thin: int, scanner: Scanner, rng: np.random.Generator) -> Grid:
    """Return what the scanner makes of *voxels* with *thin* slices for each of the *frame*: whole HU."""
    shape = frame.shape
    if thin > 1:
        voxels = voxels.reshape(shape[0], thin, *shape[1:]).mean(axis=1, dtype=np.float32)
    _, dy, dx = frame.spacing
    voxels = _blurred(voxels, scanner.blur / dy, scanner.blur / dx)
    if scanner.sharpen:
        wide = 1.1
        voxels += np.float32(scanner.sharpen) * (voxels - _blurred(voxels, wide / dy, wide / dx))
    voxels += _noise(frame, scanner, rng)
    np.rint(voxels, out=voxels)
    np.clip(voxels, -1024, 3071, out=voxels)
    if scanner.padding:
        _pad(voxels, scanner)
    return voxels


def _blurred(voxels: Grid, *sigmas: float) -> Grid:
    """Return *voxels* blurred along y and x."""
    for axis, sigma in zip((1, 2), sigmas, strict=True):
        if sigma > 0.22:
            voxels = ndimage.gaussian_filter1d(voxels, sigma, axis=axis, mode="nearest", truncate=3.0)
    return voxels.copy() if all(sigma <= 0.22 for sigma in sigmas) else voxels


def _noise(frame: Frame, scanner: Scanner, rng: np.random.Generator) -> Grid:
    """Return noise of the kernel's texture, a little alike from slice to slice where slices are thin."""
    dz, dy, dx = frame.spacing
    noise = _scaled(
        _blurred(rng.standard_normal(frame.shape, dtype=np.float32), scanner.grain / dy, scanner.grain / dx)
    )
    if dz < 2.0:
        noise = _scaled(ndimage.gaussian_filter1d(noise, 0.7 / dz, axis=0, mode="nearest", truncate=2.0))
    noise *= np.float32(scanner.noise)
    if scanner.streaks:
        along = rng.standard_normal(frame.shape, dtype=np.float32)
        along = ndimage.gaussian_filter1d(along, 14.0 / dx, axis=2, mode="nearest", truncate=2.0)
        noise += np.float32(scanner.streaks) * _scaled(
            ndimage.gaussian_filter1d(along, 0.5 / dy, axis=1, mode="nearest")
        )
    return noise


def _scaled(noise: Grid) -> Grid:
    """Return *noise* with a standard deviation of 1, as measured on a part of it."""
    noise /= np.float32(max(float(noise[:: max(1, noise.shape[0] // 8)].std()), 1e-6))
    return noise


def _pad(voxels: Grid, scanner: Scanner) -> None:
    rows, columns = np.ogrid[: voxels.shape[1], : voxels.shape[2]]
    half = (np.array(voxels.shape[1:]) - 1) / 2
    away = ((rows - half[0]) / max(half[0], 1)) ** 2 + ((columns - half[1]) / max(half[1], 1)) ** 2
    voxels[:, away > scanner.field**2] = scanner.padding
