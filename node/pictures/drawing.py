"""Planes of a volume with outlines, signs, letters and a scale: what overlays and pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.contract import Card, Detection, Findings, Mask, Volume
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL, Stack, View, letters, slice_normal, to_index
from node.pictures.words import Colour, rows_of

FONT, MARGIN = 22, 10  # pixels; still read when shown at two thirds
INK, FAINT, WARN, EDGE = (235, 235, 235), (170, 170, 170), (255, 196, 0), (0, 0, 0)

_SOFT_TISSUE = (40.0, 400.0)  # HU, centre and width: where the card of a CT model names no window
_WIDTH, _HIGHEST, _LOWEST = 768, 1536, 240  # pixels: least width, greatest and least height of a plane
_CROP_MM = 60.0  # side of a detection's crop, or three diameters where that is more
_BARS = (200, 100, 50, 20, 10, 5, 2, 1)  # mm
#: Squares (width, height) in pixels that a line is shown and hidden in by turns; none: an unbroken line.
_DASHES = (None, (17, 15), (6, 5))

Grid = NDArray[np.bool_]  # (row, column)
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shape:
    """A mask with what sets it apart: colour, sign and kind of line."""

    mask: Mask  # (z, y, x)
    colour: Colour
    sign: str
    dash: int = 0  # place in the list of lines
    outside: bool = False  # whether the line runs around the mask, so that all inside stays visible


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """A plane of the volume, drawn to scale, that shapes and marks are drawn on."""

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

    def pixel(self, row: float, column: float) -> tuple[float, float]:
        """Return the pixel (x, y) of the drawing where a voxel's centre (row, column) of the plane lies."""
        x = (column - self.corner[1] + 0.5) * self.pixels[0] / self.size[1]
        return x, (row - self.corner[0] + 0.5) * self.pixels[1] / self.size[0]


def shapes_of(findings: Findings, card: Card) -> tuple[Shape, ...]:
    """Return what is drawn, in the order and under the signs of the table."""
    rows = rows_of(findings, card)
    first = len(findings.detections)
    return tuple(
        Shape(
            mask=row.finding.mask, colour=row.colour, sign=row.sign, outside=place < first,
            dash=0 if place < first else (place - first) % len(_DASHES),
        )
        for place, row in enumerate(rows)
    )  # fmt: skip


def window_of(volume: Volume, card: Card) -> tuple[float, float]:
    """Return the centre and width of what is shown from black to white.

    The card's window; without one that of soft tissue for CT, and all but the outermost hundredths else.
    """
    if card.window is not None:
        return card.window
    if volume.modality == "CT":
        return _SOFT_TISSUE
    low, high = np.percentile(volume.voxels[::2, ::4, ::4], (1, 99))
    return float(low + high) / 2, float(max(high - low, 1e-6))


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
    """Return the whole plane at *index*."""
    size = volume.voxels.shape[view.down], volume.voxels.shape[view.right]
    return _plane(volume, view, index, (0, 0), size)


def around(volume: Volume, detection: Detection, ends: NDArray[np.float64] | None = None) -> Plane:
    """Return the surroundings of a detection: axial where its area is largest, or the plane of its axes' *ends*.

    *ends* are voxel indices (points, 3) as `axes_of` gives them.
    """
    view, index = AXIAL, int(np.argmax(np.count_nonzero(detection.mask, axis=(1, 2))))
    if ends is not None:
        view = min((AXIAL, CORONAL, SAGITTAL), key=lambda one: float(np.ptp(ends[:, one.cut])))
        index = min(max(round(float(ends[:, view.cut].mean())), 0), volume.voxels.shape[view.cut] - 1)
    row, column = view.point(volume.voxels.shape, to_index(volume.affine, detection.centre_mm))
    side = max(_CROP_MM, 3 * detection.diameter_mm)
    corner, size = [], []
    for centre, axis in ((row, view.down), (column, view.right)):
        length = max(1, min(volume.voxels.shape[axis], round(side / volume.spacing[axis])))
        corner.append(min(max(round(centre - length / 2), 0), volume.voxels.shape[axis] - length))
        size.append(length)
    return _plane(volume, view, index, (corner[0], corner[1]), (size[0], size[1]))


def axes_of(detection: Detection, volume: Volume, stack: Stack | None) -> NDArray[np.float64] | None:
    """Return the ends of the long and of the short axis as voxel indices (4, 3); None where nobody measured them.

    *stack* is the source's, on whose slices they were measured.
    """
    found = detection.measures
    if found is None or stack is None:
        return None
    points = [stack.to_patient(found.slice, *end) for end in (*found.long_ends, *found.short_ends)]
    return np.array([to_index(volume.affine, point) for point in points])


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


def place_words(plane: Plane, volume: Volume, stack: Stack | None, images: Sequence[str]) -> str:
    """Return which plane it is: its name, the source image that it is, and where it lies.

    The place is the distance from the patient's origin along the plane's normal, e.g. "H 12.5 mm". *images* are the
    names of the source images, one per slice of *stack*; a plane across them, or between two, has none.
    """
    along = volume.affine[:3, plane.view.cut] / np.linalg.norm(volume.affine[:3, plane.view.cut])
    index = [(n - 1) / 2 for n in volume.voxels.shape]
    index[plane.view.cut] = plane.index
    point = np.array(volume.to_patient((index[0], index[1], index[2])))
    height = float(along @ point)
    place = f"{letters(along if height >= 0 else -along)} {abs(height):.1f} mm"
    image = ""
    if stack is not None and images and abs(float(along @ (normal := slice_normal(stack.orientation)))) > 0.999:
        away = np.abs(stack.positions @ normal - point @ normal)
        if away.min() <= volume.spacing[plane.view.cut] / 4:
            image = images[int(np.argmin(away))]
    return ", ".join(part for part in (plane.view.name, image, place) if part)


def draw(
    volume: Volume, plane: Plane, window: tuple[float, float], shapes: Sequence[Shape],
    least: tuple[int, int] = (_WIDTH, _LOWEST), axes: NDArray[np.float64] | None = None,
) -> Image.Image:  # fmt: skip
    """Return the plane with outlines, letters and scale, on a black ground of the *least* size (width, height)."""
    low, width = window[0] - window[1] / 2, window[1]
    grey = np.clip((plane.crop(volume.voxels).astype(np.float32) - low) / width, 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8)).resize(plane.pixels, Image.Resampling.BICUBIC).convert("RGB")
    canvas = Image.new("RGB", (max(least[0], image.width), max(least[1], image.height)), EDGE)
    offset = (canvas.width - image.width) // 2, (canvas.height - image.height) // 2
    canvas.paste(image, offset)
    shown = [(shape, inside) for shape in shapes if (inside := _inside(plane, shape, canvas.size, offset)) is not None]
    _outlines(canvas, shown)
    if axes is not None and float(np.ptp([*axes[:, plane.view.cut], plane.index])) <= 1:
        _axes(canvas, plane, volume, axes, offset)
    taken = [*_letters(canvas, plane.view.letters(volume.affine)), _scale(canvas, plane.mm)]
    _signs(canvas, shown, taken)
    return canvas


def _inside(plane: Plane, shape: Shape, size: tuple[int, int], offset: tuple[int, int]) -> Grid | None:
    """What the shape covers of a canvas of *size* (width, height); None where the plane does not meet it."""
    mask = plane.crop(shape.mask)
    if not mask.any():
        return None
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(plane.pixels, Image.Resampling.BILINEAR)
    inside = np.zeros((size[1], size[0]), dtype=np.bool_)
    part = inside[offset[1] : offset[1] + large.height, offset[0] : offset[0] + large.width]
    part[:] = np.asarray(large) >= 128
    if not part.any():  # smaller than a pixel: nothing that was found goes undrawn
        row, column = np.argwhere(mask).mean(axis=0)
        x, y = plane.pixel(float(row) + plane.corner[0], float(column) + plane.corner[1])
        part[min(int(y), part.shape[0] - 1), min(int(x), part.shape[1] - 1)] = True
    return inside


def _grown(grid: Grid, pixels: int) -> Grid:
    """Return *grid* with a border of so many *pixels* around it."""
    grown = np.pad(grid, pixels)
    for step in range(pixels):  # a cross, then a square: nearly a circle
        wide = grown.copy()
        for axis in (0, 1):
            source = grown if step % 2 == 0 else wide.copy()
            wide |= np.roll(source, 1, axis) | np.roll(source, -1, axis)
        grown = wide
    return grown[pixels:-pixels, pixels:-pixels]


def _outlines(canvas: Image.Image, shown: Sequence[tuple[Shape, Grid]]) -> None:
    """Draw each shape's line three pixels wide with a dark edge; edges first, so that none hides another's line."""
    lines = [(shape, _line(shape, inside)) for shape, inside in shown]
    for _, line in lines:
        _paint(canvas, EDGE, _grown(line, 1))
    for shape, line in lines:
        _paint(canvas, shape.colour, line & _dashed(shape.dash, line))


def _line(shape: Shape, inside: Grid) -> Grid:
    """The border just within a shape, or a pixel away around it."""
    if shape.outside:
        return np.asarray(_grown(inside, 5) & ~_grown(inside, 2))
    outside = np.pad(~inside, 1, constant_values=True)
    return np.asarray(inside & _grown(outside, 3)[1:-1, 1:-1])


def _dashed(dash: int, line: Grid) -> Grid:
    """Where a line of that kind is shown: everywhere, or on every other square of a chessboard."""
    squares = _DASHES[dash]
    if squares is None:
        return np.ones_like(line)
    rows, columns = np.indices(line.shape)
    return np.asarray((columns // squares[0] + rows // squares[1]) % 2 == 0)


def _paint(canvas: Image.Image, colour: Colour, where: Grid) -> None:
    canvas.paste(colour, mask=Image.fromarray(where.astype(np.uint8) * 255))


#: Where a sign may stand: towards which (right, down) from the shape, and the anchor of its text.
_SIDES = (
    ((1, -1), "lb"), ((-1, -1), "rb"), ((1, 1), "lt"), ((-1, 1), "rt"), ((1, 0), "lm"), ((-1, 0), "rm"),
    ((0, -1), "mb"),
)  # fmt: skip


def _signs(canvas: Image.Image, shown: Sequence[tuple[Shape, Grid]], taken: list[Box]) -> None:
    """Write each shape's sign beside it, where nothing else stands, if there is such a place."""
    pen = ImageDraw.Draw(canvas)
    for shape, inside in shown:
        rows, columns = np.nonzero(inside)
        places = []
        for (right, down), anchor in _SIDES:
            farthest = int(np.argmax(columns * right + rows * down))
            places.append(((int(columns[farthest]) + 7 * right, int(rows[farthest]) + 5 * down), anchor))
        boxes = [pen.textbbox(place, shape.sign, font=_font(FONT), anchor=anchor) for place, anchor in places]
        chosen = next((n for n, box in enumerate(boxes) if _is_free(box, taken, canvas.size)), 0)
        taken.append(boxes[chosen])
        write(canvas, places[chosen][0], shape.sign, places[chosen][1], shape.colour)


def _is_free(box: Box, taken: Sequence[Box], size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        return False
    return all(right < x0 or left > x1 or bottom < y0 or top > y1 for x0, y0, x1, y1 in taken)


def _axes(
    canvas: Image.Image, plane: Plane, volume: Volume, axes: NDArray[np.float64], offset: tuple[int, int]
) -> None:
    """Draw the long axis and, at right angles to it, the short one as thin lines with a dark edge."""
    pen = ImageDraw.Draw(canvas)
    places = [plane.pixel(*plane.view.point(volume.voxels.shape, end)) for end in axes]
    points = [(x + offset[0], y + offset[1]) for x, y in places]
    for colour, width in ((EDGE, 4), (INK, 2)):
        for begin, end in ((0, 1), (2, 3)):
            pen.line((*points[begin], *points[end]), fill=colour, width=width)


def _letters(canvas: Image.Image, names: tuple[str, str, str, str]) -> list[Box]:
    """Write the letters of the top, right, bottom and left border; return where they stand."""
    width, height = canvas.size
    places = ((width // 2, MARGIN), (width - MARGIN, height // 2), (width // 2, height - MARGIN), (MARGIN, height // 2))
    pen = ImageDraw.Draw(canvas)
    taken = []
    for place, letter, anchor in zip(places, names, ("ma", "rm", "md", "lm"), strict=True):
        write(canvas, place, letter, anchor)
        taken.append(pen.textbbox(place, letter, font=_font(FONT), anchor=anchor))
    return taken


def _scale(canvas: Image.Image, mm: float) -> Box:
    """Draw the longest bar that takes no more than a quarter of the width; return where it stands."""
    length = next((bar for bar in _BARS if bar / mm <= canvas.width / 4), _BARS[-1])
    end, y = canvas.width - 2 * MARGIN, canvas.height - 2 * MARGIN
    begin = end - round(length / mm)
    draw = ImageDraw.Draw(canvas)
    bars = ((begin, y - 1, end, y + 1), (begin - 1, y - 6, begin + 1, y + 6), (end - 1, y - 6, end + 1, y + 6))
    for colour, edge in ((EDGE, 1), (INK, 0)):
        for left, top, right, bottom in bars:
            draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), fill=colour)
    write(canvas, ((begin + end) // 2, y - 8), f"{length} mm", "md")
    half = text_length(f"{length} mm") / 2
    return min(begin, (begin + end) / 2 - half), y - 8 - FONT, max(end, (begin + end) / 2 + half), y + 6


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_length(words: str, size: int = FONT) -> float:
    """Return how many pixels wide *words* are."""
    return _font(size).getlength(words)


def write(
    image: Image.Image, place: tuple[float, float], words: str, anchor: str, colour: Colour = INK, size: int = FONT
) -> None:
    """Write *words* with a dark edge, so that they are read on bright tissue too."""
    draw = ImageDraw.Draw(image)
    draw.text(place, words, fill=colour, font=_font(size), anchor=anchor, stroke_width=2, stroke_fill=EDGE)
