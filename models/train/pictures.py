"""Pictures of what went worst: to be looked at by people, for a figure does not say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOURS = np.array([(0, 0, 0), (86, 180, 233), (230, 159, 0), (0, 158, 115)], np.float32)  # by label; 0 is not drawn
_STRENGTH = 0.45  # of a colour over the grey
_SIDE = 320  # least height of a picture in pixels
_WINDOW = (-600.0, 1500.0)  # HU, centre and width


def save_panel(
    file: Path, hounsfield: NDArray[np.generic], truth: NDArray[np.uint8], found: NDArray[np.uint8]
) -> None:
    """Write one slice (y, x) three times side by side: as it is, with the *truth*, with what was *found*."""
    save_strip(file, [coloured(hounsfield, labels) for labels in (np.zeros_like(truth), truth, found)])


def save_strip(file: Path, pictures: list[NDArray[np.uint8]]) -> None:
    """Write *pictures* (y, x, 3) of one size side by side, enlarged by a whole number."""
    strip = np.concatenate(pictures, axis=1)
    times = max(1, -(-_SIDE // strip.shape[0]))
    Image.fromarray(strip.repeat(times, axis=0).repeat(times, axis=1)).save(file)


def coloured(hounsfield: NDArray[np.generic], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a slice (y, x) in grey with its *labels* in colour over it, (y, x, 3)."""
    centre, width = _WINDOW
    grey = np.clip((hounsfield.astype(np.float32) - centre) / width + 0.5, 0.0, 1.0) * 255.0
    picture = np.repeat(grey[..., None], 3, axis=2)
    drawn = (labels > 0) & (labels < len(_COLOURS))
    picture[drawn] = (1 - _STRENGTH) * picture[drawn] + _STRENGTH * _COLOURS[labels[drawn].astype(int)]
    return np.asarray(picture, dtype=np.uint8)
