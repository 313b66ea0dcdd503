"""Pages for a PACS that shows nothing else: three planes with outlines, a table, the model, its limits, the warning.

They become a Secondary Capture. Everything is readable where a viewer shows the page 512 pixels wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from models.contract import Card, Detection, Findings, SegmentKind, Volume
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL, View
from node.pictures.drawing import (
    EDGE,
    INK,
    MARGIN,
    WARN,
    WARNING,
    Colour,
    Shape,
    around,
    best_slice,
    draw,
    fitted,
    shapes_of,
    text_length,
    whole,
    window_of,
    write,
)

_SIDE = 1024  # pixels of a page
_TITLE, _TEXT, _SMALL = 32, 26, 24  # font sizes: half of it is still read
_LEFT, _RIGHT = (592, 548), (416, 272)  # (width, height) of the large plane and of the two beside it
_TOP = 92
_ROW = 34
_MOST_PAGES = 5  # of single detections
_GREY: Colour = (170, 170, 170)

Line = tuple[str, str, Colour]  # name, numbers, colour


def render_pages(
    volume: Volume, findings: Findings, card: Card, folder: Path, remarks: Sequence[str] = ()
) -> list[Path]:
    """Write `page-1.png` and, of each of the five highest scored detections, one page more into *folder*.

    *remarks* are sentences beside those of *findings*, e.g. of the reader about the source.
    """
    shapes = shapes_of(findings, card, numbered=True)
    said = tuple(dict.fromkeys([*remarks, *findings.remarks]))
    pages = [_overview(volume, findings, card, shapes, said)]
    pages += [_close_up(volume, one, card, shapes) for one in _ranked(findings, shapes)[:_MOST_PAGES]]
    made = []
    for number, page in enumerate(pages, start=1):
        write(page, (_SIDE - MARGIN, 12), f"page {number} of {len(pages)}", "ra", _GREY, _SMALL)
        made.append(folder / f"page-{number}.png")
        page.save(made[-1], format="PNG")
    return made


def _ranked(findings: Findings, shapes: Sequence[Shape]) -> list[tuple[Detection, Shape]]:
    pairs = list(zip(findings.detections, shapes[len(findings.segments) :], strict=True))
    return sorted(pairs, key=lambda pair: -pair[0].score)


def _page(card: Card) -> Image.Image:
    page = Image.new("RGB", (_SIDE, _SIDE), EDGE)
    write(page, (MARGIN, 10), _cut(f"{card.title}, {card.name} {card.version}", _TITLE, _SIDE - 220), "la", INK, _TITLE)
    write(page, (MARGIN, 52), f"{WARNING}. Research use only.", "la", WARN, _TEXT)
    return page


def _overview(
    volume: Volume, findings: Findings, card: Card, shapes: Sequence[Shape], remarks: Sequence[str]
) -> Image.Image:
    page = _page(card)
    window = window_of(volume)
    right = MARGIN + _LEFT[0] + 2
    spots = ((AXIAL, _LEFT, (MARGIN, _TOP)), (CORONAL, _RIGHT, (right, _TOP)))
    for view, box, place in (*spots, (SAGITTAL, _RIGHT, (right, _TOP + _RIGHT[1] + 4))):
        _put(page, volume, view, best_slice(volume, findings, view), window, shapes, box, place)
    bottom = _table(page, _lines(findings, card, shapes), _TOP + _LEFT[1] + 14)
    _footer(page, [*remarks, *card.limits], bottom + 10)
    return page


def _put(
    page: Image.Image, volume: Volume, view: View, index: int, window: tuple[float, float], shapes: Sequence[Shape],
    box: tuple[int, int], place: tuple[int, int],
) -> None:  # fmt: skip
    """Draw one plane of the volume into *box* at *place* of the page, and say which it is."""
    plane = fitted(whole(volume, view, index), volume, box)
    page.paste(draw(volume, plane, window, shapes, box), place)
    words = f"{view.name} {index + 1}/{volume.voxels.shape[view.cut]}"
    write(page, (place[0] + 6, place[1] + box[1] - 6), words, "ld", _GREY, _SMALL)


def _close_up(volume: Volume, found: tuple[Detection, Shape], card: Card, shapes: Sequence[Shape]) -> Image.Image:
    """One detection: where it lies in its slice, and its surroundings enlarged."""
    detection, shape = found
    page = _page(card)
    window, near = window_of(volume), around(volume, detection)
    _put(page, volume, AXIAL, near.index, window, shapes, (500, 560), (MARGIN, _TOP))
    box = (500, 560)
    page.paste(draw(volume, fitted(near, volume, box), window, shapes, box), (MARGIN + 504, _TOP))
    write(page, (MARGIN + 510, _TOP + 554), "enlarged", "ld", _GREY, _SMALL)
    bottom = _table(page, [_of_detection(detection, shape, card)], _TOP + 574)
    left, posterior, superior = detection.centre_mm
    where = f"centre at {_towards(left, 'L', 'R')}, {_towards(posterior, 'P', 'A')}, {_towards(superior, 'S', 'I')} mm"
    _footer(page, [where, *card.limits], bottom + 10)
    return page


def _towards(mm: float, positive: str, negative: str) -> str:
    return f"{positive if mm >= 0 else negative} {abs(mm):.1f}"


def _lines(findings: Findings, card: Card, shapes: Sequence[Shape]) -> list[Line]:
    """The table: what was found, with its numbers; what was looked for and not found, in grey."""
    lines = [
        (f"{shape.number} {card.kind_of(one.key).label}", f"{one.volume_ml:.0f} mL", shape.colour)
        for one, shape in zip(findings.segments, shapes, strict=False)
    ]
    lines += [_of_detection(one, shape, card) for one, shape in _ranked(findings, shapes)]
    found = {one.key for one in findings.segments} | {one.key for one in findings.detections}
    lines += [(f"No {kind.label.lower()} found", "", _GREY) for kind in card.segments if kind.key not in found]
    return lines


def _of_detection(one: Detection, shape: Shape, card: Card) -> Line:
    site: SegmentKind | None = card.kind_of(one.site) if one.site else None
    name = f"{shape.number} {card.kind_of(one.key).label}{', ' + site.label.lower() if site else ''}"
    return name, f"{one.diameter_mm:.1f} mm, {one.volume_ml:.2f} mL, score {one.score:.2f}", shape.colour


def _table(page: Image.Image, lines: Sequence[Line], top: int) -> int:
    """Write *lines* in one column, or in two where they are many; return where the next thing may begin."""
    columns = 1 if len(lines) <= 5 else 2
    rows = 8 if columns == 2 else 5
    shown = list(lines[: columns * rows])
    if len(lines) > len(shown):
        left = len(lines) - len(shown) + 1
        shown[-1] = (f"and {left} more", "", _GREY)
    width = (_SIDE - 2 * MARGIN) // columns
    height = -(-len(shown) // columns)
    pen = ImageDraw.Draw(page)
    for place, (name, numbers, colour) in enumerate(shown):
        x, y = MARGIN + width * (place // height), top + _ROW * (place % height)
        pen.rectangle((x, y + 4, x + 20, y + 24), fill=colour)
        room = width - 40 - text_length(numbers, _TEXT)
        write(page, (x + 30, y), _cut(name, _TEXT, room), "la", INK, _TEXT)
        write(page, (x + width - 16, y), numbers, "ra", INK, _TEXT)
    return top + _ROW * height


def _footer(page: Image.Image, sentences: Sequence[str], top: int) -> None:
    """Write as many *sentences* as there is room for, in whole ones; say where the others stand."""
    y = top
    for number, sentence in enumerate(sentences):
        lines = list(_wrapped(sentence, _SMALL, _SIDE - 2 * MARGIN))
        last = number == len(sentences) - 1
        if y + 28 * (len(lines) + (0 if last else 1)) > _SIDE - 4:
            write(page, (MARGIN, y), "More remarks and limits stand in the report.", "la", _GREY, _SMALL)
            return
        for line in lines:
            write(page, (MARGIN, y), line, "la", _GREY, _SMALL)
            y += 28


def _wrapped(sentence: str, size: int, width: float) -> Iterator[str]:
    line = ""
    for word in sentence.split():
        longer = f"{line} {word}".strip()
        if line and text_length(longer, size) > width:
            yield line
            line = word
        else:
            line = longer
    yield line


def _cut(words: str, size: int, width: float) -> str:
    """Shorten *words* until they fit."""
    if text_length(words, size) <= width:
        return words
    while words and text_length(words + "...", size) > width:
        words = words[:-1]
    return words.rstrip() + "..."
