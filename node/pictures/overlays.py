"""Overlay pictures: findings over the images they were found in, as PNG files for people in a hurry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from models.contract import Card, Detection, Findings, Volume
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL
from node.pictures.drawing import (
    EDGE,
    FONT,
    MARGIN,
    WARN,
    WARNING,
    Colour,
    around,
    best_slice,
    draw,
    shapes_of,
    text_length,
    whole,
    window_of,
    write,
)

_MOST_DETECTIONS = 5


def render_overlays(volume: Volume, findings: Findings, card: Card, folder: Path) -> list[Path]:
    """Write an axial, a coronal and a sagittal picture, and one of each of the first five detections, into *folder*.

    Outlines are in the card's colours; the patient's right is on the left of the image, as radiologists look at it.
    """
    shapes = shapes_of(findings, card)
    window = window_of(volume)
    legend = _legend(findings, card)
    made = []
    for view in (AXIAL, CORONAL, SAGITTAL):
        plane = whole(volume, view, best_slice(volume, findings, view))
        title = f"{view.name} {plane.index + 1} / {volume.voxels.shape[view.cut]}"
        made.append(_save(folder / f"{view.name}.png", draw(volume, plane, window, shapes), card, title, legend))
    for number, detection in enumerate(findings.detections[:_MOST_DETECTIONS], start=1):
        plane = around(volume, detection)
        title = f"{number} of {len(findings.detections)}, axial {plane.index + 1} / {volume.voxels.shape[0]}"
        entry = [(_words(detection, number, card), card.kind_of(detection.key).colour)]
        image = draw(volume, plane, window, shapes)
        made.append(_save(folder / f"detection-{number}.png", image, card, title, entry))
    return made


def _save(path: Path, image: Image.Image, card: Card, title: str, legend: Sequence[tuple[str, Colour]]) -> Path:
    """Write *image* with a caption below: which model, which plane, what the colours mean, and the warning."""
    lines = _wrapped(legend, image.width)
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
        needed = text_length(words) + 2 * FONT
        if not lines or needed > left:
            lines.append([])
            left = float(width - 2 * MARGIN) + 2 * FONT
        lines[-1].append((words, colour))
        left -= needed
    return lines
