"""Planes of a volume with outlines, letters and a scale: what overlays and pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.contract import Card, Detection, Findings, Mask, Volume
from node.dicom.geometry import AXIAL, View, to_index

WARNING = "AI result - not for clinical use"

_LUNG_WINDOW = (-1350.0, 150.0)  # HU: centre -600, width 1500
_WIDTH, _HIGHEST, _LOWEST = 768, 1536, 240  # pixels: least width, greatest and least height of a plane
_CROP_MM = 60.0  # side of a detection's crop, or three diameters where that is more
FONT, MARGIN = 22, 10  # pixels; still read when shown at two thirds
_BARS = (200, 100, 50, 20, 10, 5, 2, 1)  # mm
INK, WARN, EDGE = (235, 235, 235), (255, 196, 0), (0, 0, 0)

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shape:
    """A mask with its colour and, for a detection, its number."""

    mask: Mask  # (z, y, x)
    colour: Colour
    number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """A plane of the volume, windowed and drawn to scale, that shapes and marks are drawn on."""

    view: View
    index: int
    corner: tuple[int, int]  # (row, column) of the first voxel shown, on the plane
    size: tuple[int, int]  # (rows, columns) of voxels shown
    pixels: tuple[int, int]  # (width, height) of the drawing
    mm: float  # size of one pixel

    def crop(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what is shown of *array* (z, y, x), as (row, column)."""
        (row, column), (rows, columns) = self.corner, self.size
        return self.view.plane(array, self.index)[row : row + rows, column : column + columns]


def shapes_of(findings: Findings, card: Card, *, numbered: bool = False) -> list[Shape]:
    """Return what is drawn: segments, then detections, which are numbered; with *numbered* all are, in one row."""
    first = len(findings.segments) + 1 if numbered else 1
    segments = [
        Shape(mask=one.mask, colour=card.kind_of(one.key).colour, number=number if numbered else 0)
        for number, one in enumerate(findings.segments, start=1)
    ]
    return segments + [
        Shape(mask=one.mask, colour=card.kind_of(one.key).colour, number=number)
        for number, one in enumerate(findings.detections, start=first)
    ]


def window_of(volume: Volume) -> tuple[float, float]:
    """Return the values shown black and white: the lung window for CT, else all but the outermost hundredths."""
    if volume.modality == "CT":
        return _LUNG_WINDOW
    low, high = np.percentile(volume.voxels[::2, ::4, ::4], (1, 99))
    return float(low), float(max(high, low + 1e-6))


def best_slice(volume: Volume, findings: Findings, view: View) -> int:
    """Return the slice where the largest detection, or else all segments together, fill most."""
    others = tuple(axis for axis in range(3) if axis != view.cut)
    if findings.detections:
        masks = [max(findings.detections, key=lambda one: one.diameter_mm).mask]
    else:
        masks = [one.mask for one in findings.segments]
    areas = np.sum([np.count_nonzero(mask, axis=others) for mask in masks], axis=0) if masks else np.zeros(1)
    return int(np.argmax(areas)) if areas.any() else volume.voxels.shape[view.cut] // 2


def whole(volume: Volume, view: View, index: int) -> Plane:
    size = volume.voxels.shape[view.down], volume.voxels.shape[view.right]
    return _plane(volume, view, index, (0, 0), size)


def around(volume: Volume, detection: Detection) -> Plane:
    """The axial surroundings of a detection, on the slice of its largest area."""
    index = int(np.argmax(np.count_nonzero(detection.mask, axis=(1, 2))))
    row, column = AXIAL.point(volume.voxels.shape, to_index(volume.affine, detection.centre_mm))
    side = max(_CROP_MM, 3 * detection.diameter_mm)
    corner, size = [], []
    for centre, axis in ((row, AXIAL.down), (column, AXIAL.right)):
        length = min(volume.voxels.shape[axis], round(side / volume.spacing[axis]))
        corner.append(min(max(round(centre - length / 2), 0), volume.voxels.shape[axis] - length))
        size.append(length)
    return _plane(volume, AXIAL, index, (corner[0], corner[1]), (size[0], size[1]))


def _plane(volume: Volume, view: View, index: int, corner: tuple[int, int], size: tuple[int, int]) -> Plane:
    """Choose the scale: no voxel smaller than a pixel, wide enough to read, and not higher than a screen."""
    down, right = volume.spacing[view.down], volume.spacing[view.right]
    height_mm, width_mm = size[0] * down, size[1] * right
    mm = max(min(down, right, width_mm / _WIDTH), height_mm / _HIGHEST, width_mm / (2 * _WIDTH))
    pixels = max(1, round(width_mm / mm)), max(1, round(height_mm / mm))
    return Plane(view=view, index=index, corner=corner, size=size, pixels=pixels, mm=mm)


def fitted(plane: Plane, volume: Volume, box: tuple[int, int]) -> Plane:
    """Return *plane* drawn as large as a *box* (width, height) of pixels takes it."""
    height_mm = plane.size[0] * volume.spacing[plane.view.down]
    width_mm = plane.size[1] * volume.spacing[plane.view.right]
    mm = max(width_mm / box[0], height_mm / box[1])
    return replace(plane, pixels=(max(1, round(width_mm / mm)), max(1, round(height_mm / mm))), mm=mm)


def draw(
    volume: Volume,
    plane: Plane,
    window: tuple[float, float],
    shapes: Sequence[Shape],
    least: tuple[int, int] = (_WIDTH, _LOWEST),
) -> Image.Image:
    """Return the plane with outlines, letters and scale, on a black ground of the least size (width, height)."""
    low, high = window
    grey = np.clip((plane.crop(volume.voxels).astype(np.float32) - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8)).resize(plane.pixels, Image.Resampling.BICUBIC).convert("RGB")
    width, height = max(least[0], image.width), max(least[1], image.height)
    canvas = Image.new("RGB", (width, height), EDGE)
    offset = (width - image.width) // 2, (height - image.height) // 2
    places = [(shape, place) for shape in shapes if (place := _outline(image, plane, shape)) is not None]
    canvas.paste(image, offset)
    for shape, (column, row) in places:
        if shape.number:
            write(canvas, (column + offset[0] + 4, row + offset[1] - 4), str(shape.number), "lb", shape.colour)
    _letters(canvas, plane.view.letters(volume.affine))
    _scale(canvas, plane.mm)
    return canvas


def _outline(image: Image.Image, plane: Plane, shape: Shape) -> tuple[int, int] | None:
    """Draw the shape's border, two pixels wide; return its (right, top) corner, or None where there is none."""
    mask = plane.crop(shape.mask)
    if not mask.any():
        return None
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(plane.pixels, Image.Resampling.BILINEAR)
    inside = np.pad(np.asarray(large) >= 128, 2)
    kept = inside.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            kept &= np.roll(inside, step, axis)
    border = (inside & ~kept)[2:-2, 2:-2]
    image.paste(shape.colour, mask=Image.fromarray(border.astype(np.uint8) * 255))
    rows, columns = np.nonzero(border)
    return (int(columns.max()), int(rows.min())) if rows.size else None


def _letters(canvas: Image.Image, names: tuple[str, str, str, str]) -> None:
    width, height = canvas.size
    top, right, bottom, left = names
    write(canvas, (width // 2, MARGIN), top, "ma")
    write(canvas, (width - MARGIN, height // 2), right, "rm")
    write(canvas, (width // 2, height - MARGIN), bottom, "md")
    write(canvas, (MARGIN, height // 2), left, "lm")


def _scale(canvas: Image.Image, mm: float) -> None:
    """Draw the longest bar that takes no more than a quarter of the width."""
    length = next((bar for bar in _BARS if bar / mm <= canvas.width / 4), _BARS[-1])
    end, y = canvas.width - 2 * MARGIN, canvas.height - 2 * MARGIN
    begin = end - round(length / mm)
    draw = ImageDraw.Draw(canvas)
    bars = ((begin, y - 1, end, y + 1), (begin - 1, y - 6, begin + 1, y + 6), (end - 1, y - 6, end + 1, y + 6))
    for colour, edge in ((EDGE, 1), (INK, 0)):
        for left, top, right, bottom in bars:
            draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), fill=colour)
    write(canvas, ((begin + end) // 2, y - 8), f"{length} mm", "md")


def _font(size: int = FONT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_length(words: str, size: int = FONT) -> float:
    """Return how many pixels wide *words* are."""
    return _font(size).getlength(words)


def write(
    image: Image.Image,
    place: tuple[float, float],
    words: str,
    anchor: str,
    colour: Colour = INK,
    size: int = FONT,
) -> None:
    """Write *words* with a dark edge, so that they are read on bright tissue too."""
    draw = ImageDraw.Draw(image)
    draw.text(place, words, fill=colour, font=_font(size), anchor=anchor, stroke_width=2, stroke_fill=EDGE)
