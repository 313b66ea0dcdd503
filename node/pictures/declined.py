"""What a model shows of a volume that it declines."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LONGEST = 2048  # pixels a side: what a page can show; who makes the picture scales it


def encode_declined(picture: NDArray[np.uint8]) -> bytes:  # (y, x, 3)
    """Return an RGB picture as PNG; ValueError where it is none, or too large to be one for people."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        raise ValueError(f"a picture holds 8-bit values, not {getattr(picture, 'dtype', type(picture).__name__)}")
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture has the shape (y, x, 3), not {picture.shape}")
    if not all(1 <= side <= _LONGEST for side in picture.shape[:2]):
        raise ValueError(f"a picture has 1 to {_LONGEST} pixels a side, not {picture.shape[0]} x {picture.shape[1]}")
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(data, "PNG")
    return data.getvalue()
