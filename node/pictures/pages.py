"""Pages for a PACS that shows nothing else: three planes with outlines, a table, the model, its limits, the warning.

They become a Secondary Capture. Everything is still read where a viewer shows the page 512 pixels wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.contract import Card, Detection, Findings, Volume
from node.dicom.codes import plain
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL, Stack
from node.dicom.reader import SourceSeries
from node.pictures.drawing import (
    EDGE,
    FAINT,
    INK,
    MARGIN,
    WARN,
    Plane,
    Shape,
    around,
    axes_of,
    best_slice,
    draw,
    fitted,
    place_words,
    shapes_of,
    text_length,
    whole,
    window_of,
    write,
)
from node.pictures.words import WARNING, Row, absences, rows_of, sentences, verdict

PAGE = "page-"  # how the names of pages begin

_SIDE = 1024  # pixels of a page
_TITLE, _TEXT, _SMALL = 32, 26, 24  # font sizes: half of it is still read
_LEFT, _RIGHT = (592, 520), (408, 244)  # (width, height) of the large plane and of the two beside it
_HALF = (500, 500)  # of the two planes of a single detection
_TOP, _ROW, _LINE = 90, 33, 28  # pixels: where the planes begin, height of a table's row, of a line of text
_MOST_PAGES = 5  # of single detections
_MOST_ROWS = 8
_FEW = 4  # rows that one column shows
_COLUMNS = (("volume", 640), ("size", 850), ("score", _SIDE - 2 * MARGIN))  # and where each ends


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scene:
    """What all pages of one result draw from."""

    volume: Volume
    findings: Findings
    card: Card
    rows: tuple[Row, ...]
    shapes: tuple[Shape, ...]
    window: tuple[float, float]
    stack: Stack | None
    images: tuple[str, ...]  # name of each source image, by slice, e.g. "image 45"
    said: tuple[str, ...]  # remarks, as sentences
    limits: tuple[str, ...]


def render_pages(
    volume: Volume, findings: Findings, card: Card, folder: Path, source: SourceSeries | None = None
) -> list[Path]:
    """Write `page-1.png` and, of each of the five highest scored detections, one page more into *folder*.

    Masks lie on the grid of *volume*. With the *source* of the volume its remarks, its image numbers and the axes that
    were measured on its slices are shown too. No patient data is burned in.
    """
    scene = _scene(volume, findings, card, source)
    pages = [_overview(scene)]
    closer = list(zip(scene.rows, scene.shapes, strict=True))[: len(findings.detections)]
    pages += [_close_up(scene, row, shape) for row, shape in closer[:_MOST_PAGES]]
    made = []
    for number, page in enumerate(pages, start=1):
        write(page, (_SIDE - MARGIN, 14), f"page {number} of {len(pages)}", "ra", FAINT, _SMALL)
        made.append(folder / f"{PAGE}{number}.png")
        page.save(made[-1], format="PNG")
    return made


def _scene(volume: Volume, findings: Findings, card: Card, source: SourceSeries | None) -> _Scene:
    remarks = (*(source.remarks if source else ()), *findings.remarks)
    return _Scene(
        volume=volume, findings=findings, card=card, rows=rows_of(findings, card), shapes=shapes_of(findings, card),
        window=window_of(volume, card), stack=source.stack if source else None,
        images=_images(source) if source else (),
        said=tuple(sentences(remarks)), limits=tuple(sentences(card.limits)),
    )  # fmt: skip


def _images(source: SourceSeries) -> tuple[str, ...]:
    """The names by which a person finds the source images; none at all where they do not tell them apart."""
    word, numbers = "image", [str(header.get("InstanceNumber") or "") for header in source.headers]
    if source.frames:
        word, numbers = "frame", [str(frame) for frame in source.frames]
    return tuple(f"{word} {number}" for number in numbers) if len({*numbers, ""}) == len(numbers) + 1 else ()


def _page(card: Card) -> Image.Image:
    page = Image.new("RGB", (_SIDE, _SIDE), EDGE)
    title = f"{plain(card.title)} {plain(card.version)} ({plain(card.name)})"
    write(page, (MARGIN, 10), _cut(title, _TITLE, _SIDE - 200), "la", INK, _TITLE)
    write(page, (MARGIN, 54), f"{WARNING}. Research use only.", "la", WARN, _TEXT)
    return page


def _overview(scene: _Scene) -> Image.Image:
    page = _page(scene.card)
    right = _SIDE - MARGIN - _RIGHT[0]
    below = _TOP + _LEFT[1] - _RIGHT[1]
    spots = ((AXIAL, _LEFT, (MARGIN, _TOP)), (CORONAL, _RIGHT, (right, _TOP)), (SAGITTAL, _RIGHT, (right, below)))
    for view, box, place in spots:
        plane = whole(scene.volume, view, best_slice(scene.volume, scene.findings, view))
        words = f"{_where(scene, plane)}    {_window_words(scene)}" if view is AXIAL else _where(scene, plane)
        _put(page, scene, plane, scene.shapes, box, place, words)
    top = _TOP + _LINE + _LEFT[1] + 10
    said = verdict(scene.findings, scene.card)
    if said:
        write(page, (MARGIN, top), _cut(said, _TITLE, _SIDE - 2 * MARGIN), "la", INK, _TITLE)
        bottom = top + 46
    else:
        bottom = _table(page, scene.rows, absences(scene.findings, scene.card), top)
    _footer(page, scene, (), bottom + 6)
    return page


def _put(
    page: Image.Image, scene: _Scene, plane: Plane, shapes: Sequence[Shape], box: tuple[int, int],
    place: tuple[int, int], words: str, axes: NDArray[np.float64] | None = None,
) -> None:  # fmt: skip
    """Draw *plane* into *box* at *place* of the page, under its *words*."""
    drawn = draw(scene.volume, fitted(plane, scene.volume, box), scene.window, shapes, box, axes)
    page.paste(drawn, (place[0], place[1] + _LINE))
    write(page, place, _cut(words, _SMALL, box[0]), "la", INK, _SMALL)


def _where(scene: _Scene, plane: Plane) -> str:
    return place_words(plane, scene.volume, scene.stack, scene.images)


def _window_words(scene: _Scene) -> str:
    centre, width = scene.window
    return f"W {width:.0f} L {centre:.0f}"


def _close_up(scene: _Scene, row: Row, shape: Shape) -> Image.Image:
    """One detection: where it lies in its slice, and its surroundings enlarged with its axes."""
    detection = row.finding
    if not isinstance(detection, Detection):
        raise TypeError(f"{row.label} is no detection")
    page = _page(scene.card)
    ends = axes_of(detection, scene.volume, scene.stack)
    near = around(scene.volume, detection, ends)
    plane = whole(scene.volume, near.view, near.index)
    _put(page, scene, plane, scene.shapes, _HALF, (MARGIN, _TOP), _where(scene, plane))
    words = f"enlarged{', long and short axis' if ends is not None else ''}    {_window_words(scene)}"
    _put(page, scene, near, [shape], _HALF, (_SIDE - MARGIN - _HALF[0], _TOP), words, ends)
    bottom = _table(page, [row], (), _TOP + _LINE + _HALF[1] + 10)
    left, posterior, superior = detection.centre_mm
    where = f"Centre at {_towards(left, 'LR')}, {_towards(posterior, 'PA')}, {_towards(superior, 'HF')} mm."
    _footer(page, scene, [where, *_values(detection, scene.volume.modality)], bottom + 6)
    return page


def _towards(mm: float, names: str) -> str:
    return f"{names[0] if mm >= 0 else names[1]} {abs(mm):.1f}"


def _values(detection: Detection, modality: str) -> Iterator[str]:
    found = detection.measures
    if found is not None and found.mean is not None and found.deviation is not None:
        unit = " HU" if modality == "CT" else ""
        yield f"Values inside: mean {found.mean:.0f}{unit}, standard deviation {found.deviation:.0f}{unit}."


def _table(page: Image.Image, rows: Sequence[Row], missing: Sequence[str], top: int) -> int:
    """Write what was found and what was not; return where the next thing may begin.

    Detections have a column for each number; segments alone stand in two columns where they are many.
    """
    lines: list[Row | str] = [*rows, *missing]
    columns = 1 if any(row.score for row in rows) or len(lines) <= _FEW else 2
    height = min(_MOST_ROWS, -(-len(lines) // columns))
    shown = lines[: columns * height]
    if len(lines) > len(shown):
        shown[-1] = f"and {len(lines) - len(shown) + 1} more, named in the report"
    if columns == 1:
        _heads(page, rows, top)
        top += _ROW
    width = (_SIDE - 2 * MARGIN) // columns
    for place, line in enumerate(shown):
        x, y = MARGIN + width * (place // height), top + _ROW * (place % height)
        if isinstance(line, str):
            write(page, (x + 32, y), _cut(line, _TEXT, width - 40), "la", FAINT, _TEXT)
        else:
            _line(page, line, (x, y), _cells(line, x + width - 16, columns))
    return top + _ROW * height


def _heads(page: Image.Image, rows: Sequence[Row], top: int) -> None:
    write(page, (MARGIN + 32, top), "finding", "la", FAINT, _SMALL)
    for name, end in _COLUMNS:
        if any(getattr(row, name) for row in rows):
            write(page, (end, top), "diameter" if name == "size" else name, "ra", FAINT, _SMALL)


def _cells(row: Row, end: int, columns: int) -> list[tuple[str, int]]:
    """The numbers of a row, and where each ends."""
    if columns == 2:
        return [(row.volume, end)]
    return [(words, place) for name, place in _COLUMNS if (words := str(getattr(row, name)))]


def _line(page: Image.Image, row: Row, place: tuple[int, int], cells: Sequence[tuple[str, int]]) -> None:
    x, y = place
    ImageDraw.Draw(page).rectangle((x, y + 4, x + 20, y + 26), fill=row.colour)
    for words, end in cells:
        write(page, (end, y), words, "ra", INK, _TEXT)
    room = cells[0][1] - text_length(cells[0][0], _TEXT) - x - 48
    write(page, (x + 32, y), _cut(f"{row.sign}  {row.label}", _TEXT, room), "la", INK, _TEXT)


def _footer(page: Image.Image, scene: _Scene, first: Sequence[str], top: int) -> None:
    """Write *first*, the remarks and the limits, in whole sentences, as far as there is room; say where the rest is."""
    lines = [(sentence, INK) for sentence in (*first, *scene.said)] + [(sentence, FAINT) for sentence in scene.limits]
    y = top
    for number, (sentence, colour) in enumerate(lines):
        wrapped = list(_wrapped(sentence, _SMALL, _SIDE - 2 * MARGIN))
        last = number == len(lines) - 1
        if y + _LINE * (len(wrapped) + (0 if last else 1)) > _SIDE - 4:
            rest = f"and {len(lines) - number} more: see the printed report and the card of {plain(scene.card.name)}"
            write(page, (MARGIN, y), _cut(rest, _SMALL, _SIDE - 2 * MARGIN), "la", FAINT, _SMALL)
            return
        for line in wrapped:
            write(page, (MARGIN, y), line, "la", colour, _SMALL)
            y += _LINE


def _wrapped(sentence: str, size: int, width: float) -> Iterator[str]:
    line = ""
    for word in sentence.split():
        longer = f"{line} {word}".strip()
        if line and text_length(longer, size) > width:
            yield line
            line = word
        else:
            line = longer
    yield _cut(line, size, width)


def _cut(words: str, size: int, width: float) -> str:
    """Shorten *words* until they fit."""
    if text_length(words, size) <= width:
        return words
    while words and text_length(words + "...", size) > width:
        words = words[:-1]
    return words.rstrip() + "..."
