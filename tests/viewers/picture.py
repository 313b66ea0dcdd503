"""What is to be seen on a picture of a viewport: where the CT lies, and which colours lie where on it."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SATURATED = 40  # least difference between the channels of a pixel that we call coloured
_HUE = 16.0  # degrees from the wanted hue within which a pixel has that hue
_DARK = 40  # brightest channel of what we call black
_LINE = 5  # rows or columns of the viewport's frame and scroll bar, which are coloured


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """The pixels of one hue, in voxels of the CT's grid."""

    area: float
    row: float
    column: float


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a viewport."""

    pixels: NDArray[np.uint8]  # (rows, columns, 3)

    @classmethod
    def of_png(cls, png: bytes) -> Picture:
        """Return the picture in *png*."""
        with Image.open(io.BytesIO(png)) as image:
            return cls(np.asarray(image.convert("RGB")))

    def save(self, path: Path) -> None:
        """Write the picture as a PNG of few colours: small, and good enough to look at."""
        path.parent.mkdir(parents=True, exist_ok=True)
        few = Image.fromarray(self.pixels).quantize(64, dither=Image.Dither.NONE)
        few.save(path, optimize=True)

    def coloured(self, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Return which pixels (rows, columns) have the hue of *colour*, the frame of the viewport left out."""
        rgb = self.pixels.astype(np.float64)
        high, low = rgb.max(axis=-1), rgb.min(axis=-1)
        spread = high - low
        safe = np.where(spread > 0, spread, 1)
        red, green, blue = (rgb[..., channel] for channel in range(3))
        sector = np.select(
            [high == red, high == green], [(green - blue) / safe, (blue - red) / safe + 2], (red - green) / safe + 4
        )
        wanted = 360 * colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))[0]
        away = np.abs((60 * sector - wanted + 180) % 360 - 180)
        return self._inside((spread > _SATURATED) & (away < _HUE))

    def any_colour(self) -> NDArray[np.bool_]:
        """Return which pixels (rows, columns) are coloured, the frame of the viewport left out."""
        return self._inside(np.ptp(self.pixels, axis=-1) > _SATURATED)

    @property
    def is_black(self) -> bool:
        """Whether nothing is to be seen in the viewport."""
        return not self._inside(self.pixels.max(axis=-1) > _DARK).any()

    @staticmethod
    def _inside(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        found[:_LINE], found[-_LINE:], found[:, :_LINE], found[:, -_LINE * 5 :] = False, False, False, False
        return found

    def grid(self, body: NDArray[np.bool_]) -> Grid:
        """Return where the voxels lie, from the edge of the *body* (voxels of the slice that is shown).

        Raises AssertionError where no CT is to be seen, or where it is not of the right proportions.
        """
        grey = (np.ptp(self.pixels, axis=-1) < 16) & (self.pixels.min(axis=-1) > 90)
        rows, cols = _extent(grey.sum(axis=1) > 12), _extent(grey.sum(axis=0) > 12)
        body_rows, body_cols = _extent(body.any(axis=1)), _extent(body.any(axis=0))
        scale = (rows[1] - rows[0]) / (body_rows[1] - body_rows[0])
        across = (cols[1] - cols[0]) / (body_cols[1] - body_cols[0])
        assert scale > 1, "no CT is to be seen"
        assert abs(scale - across) < 0.05 * scale, f"the CT is drawn {scale:.2f} by {across:.2f} pixels a voxel"
        return Grid(scale, rows[0] - body_rows[0] * scale, cols[0] - body_cols[0] * scale)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where on a picture the voxels of a slice lie."""

    scale: float  # pixels per voxel
    top: float
    left: float

    def patch(self, mask: NDArray[np.bool_]) -> Patch:
        """Return how large the pixels of *mask* are and where their middle is, in voxels."""
        rows, columns = np.nonzero(mask)
        if not rows.size:
            return Patch(area=0, row=-1, column=-1)
        middle = ((axis.mean() + 0.5) for axis in (rows, columns))
        row, column = ((at - start) / self.scale - 0.5 for at, start in zip(middle, (self.top, self.left), strict=True))
        return Patch(area=rows.size / self.scale**2, row=row, column=column)

    def voxels(self, mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which voxels (rows, columns) of a slice of *shape* have the pixel at their middle in *mask*."""
        rows, columns = (
            np.clip(np.round(start + (np.arange(count) + 0.5) * self.scale - 0.5).astype(int), 0, limit - 1)
            for start, count, limit in zip((self.top, self.left), shape, mask.shape, strict=True)
        )
        return mask[np.ix_(rows, columns)]

    def share_of_edge(self, drawn: NDArray[np.bool_], mask: NDArray[np.bool_], near: int = 4) -> float:
        """Return how much of the edge of *mask* (voxels) has a *drawn* pixel at most *near* pixels away."""
        hits = [
            bool(drawn[max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1].any())
            for y, x in self._edge(mask)
        ]
        return sum(hits) / len(hits)

    def _edge(self, mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Pixels of the picture between a voxel inside and one outside."""
        padded = np.pad(mask, 1)
        for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            outside = np.roll(padded, (-down, -across), (0, 1))
            for row, column in np.argwhere(padded & ~outside) - 1:
                y = self.top + (row + 0.5 + down / 2) * self.scale
                x = self.left + (column + 0.5 + across / 2) * self.scale
                yield round(y), round(x)


def _extent(found: NDArray[np.bool_]) -> tuple[float, float]:
    """Where the found lie: from the start of the first to the end of the last."""
    places = np.flatnonzero(found)
    return (float(places[0]), float(places[-1] + 1)) if places.size else (0.0, 0.0)
