"""What the gate saw of a scan that it refuses: three slices, and below them what spoke for what it took them for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from models.contract import Picture, Volume
from models.explain import grad_cam, last_convolution
from models.network import SliceClassifier

_SIDE = 240  # pixels of one slice
_SHOWN = (0.2, 0.5, 0.8)  # how far up the scan the slices lie
_WINDOW = (-100.0, 1400.0)  # HU, centre and width: lung and bone both show something
_HOT = np.array((255.0, 120.0, 0.0))  # sRGB of the most that spoke for it
_STRENGTH = 0.6  # of that colour over the grey

Heat = NDArray[np.float32]  # (y, x), 0 to 1, on the network's grid about the middle of the slice


class _OfSlice(nn.Module):
    """The classifier of one slice alone, so that a heat map tells of that slice."""

    def __init__(self, network: SliceClassifier) -> None:
        super().__init__()
        self._network = network

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits (regions,) of a single slice (1, 1, y, x)."""
        of_slices: Tensor = self._network(slices)[0]
        return of_slices[0, 0]


def heat_of(network: SliceClassifier, picture: Tensor, region: int) -> Heat:
    """Return what of *picture* (y, x) spoke for the *region* of that number."""
    layer = last_convolution(network.look)  # that of the part which tells phase and turns comes after it
    heat = grad_cam(_OfSlice(network), picture[None, None], lambda logits: logits[region], layer)
    return np.asarray(heat.cpu().numpy(), dtype=np.float32)


def plain(volume: Volume) -> Picture:
    """Return three slices of *volume* side by side."""
    places = _shown(np.arange(volume.voxels.shape[0]))
    return np.concatenate([_coloured(_grey(volume, int(z))) for z in places], axis=1)


def draw(
    volume: Volume, places: NDArray[np.int64], heat: Callable[[int], Heat], sample_mm: float
) -> Picture:
    """Return three of the slices at *places* side by side, and below each the same with its heat map over it.

    *heat* gives the map of a place by its number, of *sample_mm* a sample.
    """
    upper, lower = [], []
    for number in _shown(np.arange(len(places))):
        grey = _grey(volume, int(places[number]))
        upper.append(_coloured(grey))
        lower.append(_coloured(grey, _laid_over(heat(int(number)), sample_mm, _pixel_mm(volume))))
    return np.concatenate([np.concatenate(upper, axis=1), np.concatenate(lower, axis=1)], axis=0)


def _shown(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return three of *numbers*; fewer where there are not so many."""
    return np.unique(numbers[np.rint(np.array(_SHOWN) * (len(numbers) - 1)).astype(int)])


def _pixel_mm(volume: Volume) -> float:
    """Return the millimetres of a pixel of the picture: a whole slice fits into it."""
    _, rows, columns = volume.voxels.shape
    _, dy, dx = volume.spacing
    return float(max(rows * dy, columns * dx)) / _SIDE


def _grey(volume: Volume, z: int) -> NDArray[np.float64]:
    """Return slice *z* in a square (y, x), 0 to 1, seen from the feet; modalities but CT over their own range."""
    values = volume.voxels[z].astype(np.float64)
    centre, width = _WINDOW
    if volume.modality != "CT":
        low, high = np.percentile(values, (1, 99))
        centre, width = (low + high) / 2.0, max(high - low, 1e-6)
    square = _square(values, volume.spacing[1:], _pixel_mm(volume), outside=float(values.min()))
    return np.asarray(np.clip((square - centre) / width + 0.5, 0.0, 1.0))


def _laid_over(heat: Heat, sample_mm: float, pixel_mm: float) -> NDArray[np.float64]:
    return _square(heat.astype(np.float64), (sample_mm, sample_mm), pixel_mm, outside=0.0)


def _square(
    values: NDArray[np.float64], spacing: tuple[float, float], pixel_mm: float, outside: float
) -> NDArray[np.float64]:
    """Return *values* (y, x) at *spacing* mm on the picture's pixels, with the same middle."""
    at = [
        (np.arange(_SIDE) - (_SIDE - 1) / 2) * pixel_mm / mm + (n - 1) / 2
        for n, mm in zip(values.shape, spacing, strict=True)
    ]  # fmt: skip
    return np.asarray(
        ndimage.map_coordinates(values, np.meshgrid(*at, indexing="ij"), order=1, mode="constant", cval=outside)
    )


def _coloured(grey: NDArray[np.float64], heat: NDArray[np.float64] | None = None) -> Picture:
    picture = np.repeat(grey[..., None] * 255.0, 3, axis=2)
    if heat is not None:
        picture += _STRENGTH * heat[..., None] * (_HOT - picture)
    return np.asarray(np.rint(picture), dtype=np.uint8)
