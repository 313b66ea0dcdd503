"""Findings drawn over the images they were found in, as PNG files for people in a hurry.

No patient data is burned in, and the same findings always make the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.contract import Card, Detection, Findings, Mask, Volume
from node.dicom.context import Pictures
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL, View, to_index

PAGE, REPORT = "page-", "report.pdf"  # names of what becomes a Secondary Capture, and of the printed report
WARNING = "AI result - not for clinical use"

_LUNG_WINDOW = (-1350.0, 150.0)  # HU: centre -600, width 1500
_WIDTH, _HIGHEST, _LOWEST = 768, 1536, 240  # pixels: least width, greatest and least height of a plane
_MOST_DETECTIONS = 5
_CROP_MM = 60.0  # side of a detection's crop, or three diameters where that is more
_FONT, _MARGIN = 22, 10  # pixels; still read when shown at two thirds
_BARS = (200, 100, 50, 20, 10, 5, 2, 1)  # mm
_INK, _WARN, _EDGE = (235, 235, 235), (255, 196, 0), (0, 0, 0)

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Shape:
    """A mask with its colour and, for a detection, its number."""

    mask: Mask  # (z, y, x)
    colour: Colour
    number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Plane:
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


def render_overlays(volume: Volume, findings: Findings, card: Card, folder: Path) -> list[Path]:
    """Write an axial, a coronal and a sagittal picture, and one of each of the first five detections, into *folder*.

    Outlines are in the card's colours; the patient's right is on the left of the image, as radiologists look at it.
    """
    shapes = _shapes(findings, card)
    window = _window(volume)
    legend = _legend(findings, card)
    made = []
    for view in (AXIAL, CORONAL, SAGITTAL):
        plane = _whole(volume, view, _best_slice(volume, findings, view))
        title = f"{view.name} {plane.index + 1} / {volume.voxels.shape[view.cut]}"
        made.append(_save(folder / f"{view.name}.png", _draw(volume, plane, window, shapes), card, title, legend))
    for number, detection in enumerate(findings.detections[:_MOST_DETECTIONS], start=1):
        plane = _around(volume, detection)
        title = f"{number} of {len(findings.detections)}, axial {plane.index + 1} / {volume.voxels.shape[0]}"
        entry = [(_words(detection, number, card), card.kind_of(detection.key).colour)]
        image = _draw(volume, plane, window, shapes)
        made.append(_save(folder / f"detection-{number}.png", image, card, title, entry))
    return made


def load_pictures(folder: Path) -> Pictures:
    """Return what was drawn into *folder* for the Secondary Capture, in the order of the names, and the report."""
    report = folder / REPORT
    pages = []
    for path in sorted(folder.glob(f"{PAGE}*.png")):
        with Image.open(path) as image:
            pages.append(np.asarray(image.convert("RGB")))
    return Pictures(pages=tuple(pages), report=report.read_bytes() if report.is_file() else b"")


def _shapes(findings: Findings, card: Card) -> list[_Shape]:
    segments = [_Shape(mask=one.mask, colour=card.kind_of(one.key).colour) for one in findings.segments]
    return segments + [
        _Shape(mask=one.mask, colour=card.kind_of(one.key).colour, number=number)
        for number, one in enumerate(findings.detections, start=1)
    ]


def _window(volume: Volume) -> tuple[float, float]:
    """Return the values shown black and white: the lung window for CT, else all but the outermost hundredths."""
    if volume.modality == "CT":
        return _LUNG_WINDOW
    low, high = np.percentile(volume.voxels[::2, ::4, ::4], (1, 99))
    return float(low), float(max(high, low + 1e-6))


def _best_slice(volume: Volume, findings: Findings, view: View) -> int:
    """Return the slice where the largest detection, or else all segments together, fill most."""
    others = tuple(axis for axis in range(3) if axis != view.cut)
    if findings.detections:
        masks = [max(findings.detections, key=lambda one: one.diameter_mm).mask]
    else:
        masks = [one.mask for one in findings.segments]
    areas = np.sum([np.count_nonzero(mask, axis=others) for mask in masks], axis=0) if masks else np.zeros(1)
    return int(np.argmax(areas)) if areas.any() else volume.voxels.shape[view.cut] // 2


def _whole(volume: Volume, view: View, index: int) -> _Plane:
    size = volume.voxels.shape[view.down], volume.voxels.shape[view.right]
    return _plane(volume, view, index, (0, 0), size)


def _around(volume: Volume, detection: Detection) -> _Plane:
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


def _plane(volume: Volume, view: View, index: int, corner: tuple[int, int], size: tuple[int, int]) -> _Plane:
    """Choose the scale: no voxel smaller than a pixel, wide enough to read, and not higher than a screen."""
    down, right = volume.spacing[view.down], volume.spacing[view.right]
    height_mm, width_mm = size[0] * down, size[1] * right
    mm = max(min(down, right, width_mm / _WIDTH), height_mm / _HIGHEST, width_mm / (2 * _WIDTH))
    pixels = max(1, round(width_mm / mm)), max(1, round(height_mm / mm))
    return _Plane(view=view, index=index, corner=corner, size=size, pixels=pixels, mm=mm)


def _draw(volume: Volume, plane: _Plane, window: tuple[float, float], shapes: Sequence[_Shape]) -> Image.Image:
    """Return the plane with outlines, letters and scale, on a black ground of the least size."""
    low, high = window
    grey = np.clip((plane.crop(volume.voxels).astype(np.float32) - low) / (high - low), 0, 1) * 255
    image = Image.fromarray(grey.round().astype(np.uint8)).resize(plane.pixels, Image.Resampling.BICUBIC).convert("RGB")
    width, height = max(_WIDTH, image.width), max(_LOWEST, image.height)
    canvas = Image.new("RGB", (width, height), _EDGE)
    offset = (width - image.width) // 2, (height - image.height) // 2
    places = [(shape, place) for shape in shapes if (place := _outline(image, plane, shape)) is not None]
    canvas.paste(image, offset)
    for shape, (column, row) in places:
        if shape.number:
            _text(canvas, (column + offset[0] + 4, row + offset[1] - 4), str(shape.number), "lb", shape.colour)
    _letters(canvas, plane.view.letters(volume.affine))
    _scale(canvas, plane.mm)
    return canvas


def _outline(image: Image.Image, plane: _Plane, shape: _Shape) -> tuple[int, int] | None:
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
    _text(canvas, (width // 2, _MARGIN), top, "ma")
    _text(canvas, (width - _MARGIN, height // 2), right, "rm")
    _text(canvas, (width // 2, height - _MARGIN), bottom, "md")
    _text(canvas, (_MARGIN, height // 2), left, "lm")


def _scale(canvas: Image.Image, mm: float) -> None:
    """Draw the longest bar that takes no more than a quarter of the width."""
    length = next((bar for bar in _BARS if bar / mm <= canvas.width / 4), _BARS[-1])
    end, y = canvas.width - 2 * _MARGIN, canvas.height - 2 * _MARGIN
    begin = end - round(length / mm)
    draw = ImageDraw.Draw(canvas)
    bars = ((begin, y - 1, end, y + 1), (begin - 1, y - 6, begin + 1, y + 6), (end - 1, y - 6, end + 1, y + 6))
    for colour, edge in ((_EDGE, 1), (_INK, 0)):
        for left, top, right, bottom in bars:
            draw.rectangle((left - edge, top - edge, right + edge, bottom + edge), fill=colour)
    _text(canvas, ((begin + end) // 2, y - 8), f"{length} mm", "md")


def _save(path: Path, image: Image.Image, card: Card, title: str, legend: Sequence[tuple[str, Colour]]) -> Path:
    """Write *image* with a caption below: which model, which plane, what the colours mean, and the warning."""
    lines = _wrapped(legend, image.width)
    step = _FONT + 8
    page = Image.new("RGB", (image.width, image.height + step * (2 + len(lines)) + _MARGIN), _EDGE)
    page.paste(image, (0, 0))
    y = image.height + _MARGIN
    _text(page, (_MARGIN, y), f"{card.name} {card.version}", "la")
    _text(page, (page.width - _MARGIN, y), title, "ra")
    _text(page, (_MARGIN, y + step), WARNING, "la", _WARN)
    for number, line in enumerate(lines, start=2):
        x = float(_MARGIN)
        for words, colour in line:
            _text(page, (x, y + step * number), words, "la", colour)
            x += _length(words) + 2 * _FONT
    page.save(path, format="PNG")
    return path


def _legend(findings: Findings, card: Card) -> list[tuple[str, Colour]]:
    """What each colour means; what was looked for and not found is named in grey."""
    found = {one.key for one in findings.segments} | {one.key for one in findings.detections}
    volumes = {one.key: f" {one.volume_ml:.0f} mL" for one in findings.segments}
    return [
        (kind.label + volumes.get(kind.key, ""), kind.colour)
        if kind.key in found
        else (f"no {kind.label.lower()}", (150, 150, 150))
        for kind in card.segments
    ]


def _words(detection: Detection, number: int, card: Card) -> str:
    site = f", {card.kind_of(detection.site).label.lower()}" if detection.site else ""
    label = card.kind_of(detection.key).label
    return f"{label} {number}: {detection.diameter_mm:.1f} mm{site}, score {detection.score:.2f}"


def _wrapped(legend: Sequence[tuple[str, Colour]], width: int) -> list[list[tuple[str, Colour]]]:
    """Break the legend into lines; an entry is never divided."""
    lines: list[list[tuple[str, Colour]]] = []
    left = 0.0
    for words, colour in legend:
        needed = _length(words) + 2 * _FONT
        if not lines or needed > left:
            lines.append([])
            left = float(width - 2 * _MARGIN) + 2 * _FONT
        lines[-1].append((words, colour))
        left -= needed
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT)


def _length(words: str) -> float:
    return _font().getlength(words)


def _text(
    image: Image.Image, place: tuple[float, float], words: str, anchor: str, colour: Colour = _INK
) -> None:
    """Write *words* with a dark edge, so that they are read on bright tissue too."""
    draw = ImageDraw.Draw(image)
    draw.text(place, words, fill=colour, font=_font(), anchor=anchor, stroke_width=2, stroke_fill=_EDGE)
