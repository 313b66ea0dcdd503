"""Overlay pictures: findings over the images they were found in, as PNG files for people in a hurry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.contract import Card, Findings, Volume
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL
from node.pictures.drawing import (
    EDGE,
    FAINT,
    FONT,
    MARGIN,
    WARN,
    around,
    best_slice,
    draw,
    shapes_of,
    text_length,
    whole,
    window_of,
    write,
)
from node.pictures.words import WARNING, Colour, Row, absences, rows_of

_MOST_DETECTIONS = 5
_MOST_LINES = 6  # of the legend


def render_overlays(volume: Volume, findings: Findings, card: Card, folder: Path) -> list[Path]:
    """Write an axial, a coronal and a sagittal picture, and one of each of the first five detections, into *folder*.

    Outlines are in the card's colours; the patient's right is on the left of the image, as radiologists look at it.
    """
    shapes, window = shapes_of(findings, card), window_of(volume, card)
    rows = rows_of(findings, card)
    legend = [(_words(row), row.colour) for row in rows] + [(words, FAINT) for words in absences(findings, card)]
    made = []
    for view in (AXIAL, CORONAL, SAGITTAL):
        plane = whole(volume, view, best_slice(volume, findings, view))
        title = f"{view.name} {plane.index + 1} / {volume.voxels.shape[view.cut]}"
        made.append(_save(folder / f"{view.name}.png", draw(volume, plane, window, shapes), card, title, legend))
    entries = {row.sign: (_words(row), row.colour) for row in rows}
    for number, detection in enumerate(findings.detections[:_MOST_DETECTIONS], start=1):
        plane = around(volume, detection)
        title = f"{number} of {len(findings.detections)}, axial {plane.index + 1} / {volume.voxels.shape[0]}"
        image = draw(volume, plane, window, shapes)
        made.append(_save(folder / f"detection-{number}.png", image, card, title, [entries[str(number)]]))
    return made


def _words(row: Row) -> str:
    numbers = f"{row.size}, score {row.score}" if row.score else row.volume
    return f"{row.sign} {row.label}: {numbers}"


def _save(path: Path, image: Image.Image, card: Card, title: str, legend: Sequence[tuple[str, Colour]]) -> Path:
    """Write *image* with a caption below: which model, which plane, what the colours mean, and the warning."""
    lines = _few(_wrapped(legend, image.width), len(legend))
    step = FONT + 8
    page = Image.new("RGB", (image.width, image.height + step * (2 + len(lines)) + MARGIN), EDGE)
    page.paste(image, (0, 0))
    y = image.height + MARGIN
    write(page, (MARGIN, y), f"{card.name} {card.version}", "la")
    write(page, (page.width - MARGIN, y), title, "ra")
    write(page, (MARGIN, y + step), WARNING, "la", WARN)
    for number, line in enumerate(lines, start=2):
        x = float(MARGIN)
        for words, colour in line:
            write(page, (x, y + step * number), words, "la", colour)
            x += text_length(words) + 2 * FONT
    page.save(path, format="PNG")
    return path


def _wrapped(legend: Sequence[tuple[str, Colour]], width: int) -> list[list[tuple[str, Colour]]]:
    """Break the legend into lines; an entry is never divided."""
    lines: list[list[tuple[str, Colour]]] = []
    left = 0.0
    for words, colour in legend:
        needed = text_length(words) + 2 * FONT
        if not lines or needed > left:
            lines.append([])
            left = float(width - 2 * MARGIN) + 2 * FONT
        lines[-1].append((words, colour))
        left -= needed
    return lines


def _few(lines: list[list[tuple[str, Colour]]], entries: int) -> list[list[tuple[str, Colour]]]:
    """Return as many lines as there is room for, and how many entries are not among them."""
    if len(lines) <= _MOST_LINES:
        return lines
    kept = lines[: _MOST_LINES - 1]
    return [*kept, [(f"and {entries - sum(map(len, kept))} more", FAINT)]]
