"""The printed report: a PDF (A4) of all that was found and all that is known of the model, for people.

It is a document of the patient: name and ID head every page. Everything else is in the words of the other results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image as Picture
from pydicom.dataset import Dataset
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Flowable, Frame, Image, PageTemplate, Paragraph, Spacer, Table

from models.contract import Detection, Findings, Segment
from node.dicom.codes import plain
from node.dicom.context import ResultContext
from node.dicom.identity import stamp
from node.dicom.outline import largest_slice
from node.errors import OutputInvalid
from node.pictures.text import BOLD, REGULAR, date_of, fonts, markup, name_of, runs
from node.pictures.words import Colour, Row, absences, rows_of, sentences, verdict

REPORT = "report.pdf"  # its name in the folder of pictures

_PLANES = ("axial", "coronal", "sagittal")
_WARNING = "AI result - research use only - not for clinical use"
_SIDE, _TOP, _BOTTOM = 18 * mm, 31 * mm, 18 * mm  # margins
_WIDTH = A4[0] - 2 * _SIDE
_HIGHEST = 71 * mm  # of a picture
_GREY, _RULE, _RED = colors.HexColor(0x555555), colors.HexColor(0xBBBBBB), colors.HexColor(0xA40000)
_BODY = ParagraphStyle("body", fontName=REGULAR, fontSize=9, leading=12.5)
_NUMBER = ParagraphStyle("number", parent=_BODY, alignment=2)
_HEAD = ParagraphStyle("head", parent=_BODY, textColor=_GREY, fontSize=8)
_NUMBER_HEAD = ParagraphStyle("number head", parent=_HEAD, alignment=2)
_POINT = ParagraphStyle("point", parent=_BODY, leftIndent=9, bulletIndent=0)
_TITLE = ParagraphStyle("title", fontName=BOLD, fontSize=16, leading=20, spaceAfter=2)
_SECTION = ParagraphStyle("section", fontName=BOLD, fontSize=11, leading=14, spaceBefore=9, spaceAfter=3)
_SECTION.keepWithNext = 1
_PLAIN_TABLE = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (0, -1), 0)]
_RULED_TABLE = [
    *_PLAIN_TABLE, ("LINEBELOW", (0, 0), (-1, 0), 0.8, _GREY), ("LINEBELOW", (0, 1), (-1, -1), 0.3, _RULE),
]  # fmt: skip


def write_report(folder: Path, findings: Findings, context: ResultContext) -> Path:
    """Write `report.pdf` on *findings* beside the overlay pictures in *folder*; return its path.

    Masks lie on the grid of the sources of *context*, from whose first header the identity is taken. Equal findings,
    contexts and pictures make equal bytes. Raises OutputInvalid where the pictures were not drawn.
    """
    fonts()
    patient = _identity(context)
    first = _printed(folder, findings, context, patient, pages=0)
    data = _printed(folder, findings, context, patient, pages=first[1])[0]
    path = folder / REPORT
    path.write_bytes(data)
    return path


def _identity(context: ResultContext) -> Dataset:
    """The identity as our results carry it, in the character set that they declare."""
    document = Dataset()
    document.Modality = "DOC"
    stamp(document, context)
    return document


def _printed(
    folder: Path, findings: Findings, context: ResultContext, patient: Dataset, *, pages: int
) -> tuple[bytes, int]:
    """The report, whose pages say that there are so many *pages*; and how many there are."""
    buffer = BytesIO()
    document = BaseDocTemplate(
        buffer, pagesize=A4, invariant=1, lang="en", leftMargin=_SIDE, rightMargin=_SIDE, topMargin=_TOP,
        bottomMargin=_BOTTOM, title=context.series_description, subject=_WARNING, creator=_maker(context), author="",
    )  # fmt: skip
    frame = Frame(_SIDE, _BOTTOM, _WIDTH, A4[1] - _TOP - _BOTTOM, leftPadding=0, rightPadding=0)

    def furnish(canvas: Canvas, page: BaseDocTemplate) -> None:
        _head(canvas, patient)
        _foot(canvas, context, page.page, pages)

    document.addPageTemplates([PageTemplate(frames=[frame], onPage=furnish)])
    document.build(list(_story(folder, findings, context)))
    return buffer.getvalue(), int(document.page)


def _maker(context: ResultContext) -> str:
    return f"{plain(context.node.model_name)} {plain(context.node.software_version)}"


# -- on every page


def _head(canvas: Canvas, patient: Dataset) -> None:
    y = A4[1] - 15 * mm
    _string(canvas, _SIDE, y, name_of(patient.PatientName), 11)
    facts = (
        f"ID {patient.PatientID or 'unknown'}", f"born {date_of(patient.PatientBirthDate)}",
        f"sex {patient.PatientSex or 'unknown'}", f"study of {date_of(patient.StudyDate)}",
        f"accession {patient.AccessionNumber or 'none'}",
    )  # fmt: skip
    _string(canvas, _SIDE, y - 5.5 * mm, "   ".join(facts), 8.5)
    _warn(canvas, y - 11 * mm)
    canvas.setStrokeColor(_RULE)
    canvas.line(_SIDE, y - 13.5 * mm, A4[0] - _SIDE, y - 13.5 * mm)


def _warn(canvas: Canvas, y: float) -> None:
    canvas.setFillColor(_RED)
    canvas.setFont(BOLD, 9)
    canvas.drawString(_SIDE, y, _WARNING)
    canvas.setFillColor(colors.black)


def _foot(canvas: Canvas, context: ResultContext, page: int, pages: int) -> None:
    canvas.setFont(REGULAR, 8)
    canvas.setFillColor(_GREY)
    made = f"{plain(context.node.node_id)}, {_maker(context)}; {plain(context.card.name)} {plain(context.card.version)}"
    canvas.drawString(_SIDE, 11 * mm, made)
    canvas.drawRightString(A4[0] - _SIDE, 11 * mm, f"page {page}/{pages}")
    canvas.setFillColor(colors.black)


def _string(canvas: Canvas, x: float, y: float, text: str, size: float) -> None:
    """Write *text* from *x* on, smaller where it would leave the page."""
    parts = list(runs(text))
    width = sum(canvas.stringWidth(letters, font, size) for font, letters in parts)
    size *= min(1.0, _WIDTH / width) if width else 1.0
    for font, letters in parts:
        canvas.setFont(font, size)
        canvas.drawString(x, y, letters)
        x += canvas.stringWidth(letters, font, size)


# -- what it says


def _story(folder: Path, findings: Findings, context: ResultContext) -> Iterator[Flowable]:
    card = context.card
    yield Paragraph(markup(plain(f"{card.title} {card.version}")), _TITLE)
    yield Paragraph(markup(plain(card.purpose)), _BODY)
    yield Spacer(0, 2 * mm)
    yield _facts(context)
    yield _section("Findings")
    yield from _findings(findings, context)
    yield from _points("Remarks", list(sentences(findings.remarks)))
    yield _section("Pictures")
    yield from _pictures(folder)
    yield from _points("Limits of the model", list(sentences(card.limits)))
    yield from _figures(context)


def _section(words: str) -> Paragraph:
    return Paragraph(words, _SECTION)


def _points(title: str, texts: Sequence[str]) -> Iterator[Flowable]:
    if texts:
        yield _section(title)
        for text in texts:
            yield Paragraph(markup(text), _POINT, bulletText="-")


def _facts(context: ResultContext) -> Table:
    first = context.sources[0]
    count = len(context.sources)
    number, words = str(first.get("SeriesNumber") or ""), str(first.get("SeriesDescription") or "")
    series = " ".join(part for part in (str(first.get("Modality") or ""), f"series {number}" if number else "") if part)
    slices = f"{count} {'frames of a multi-frame image' if context.frames else 'slices'}"
    facts = (
        ("Model", f"{plain(context.card.name)} {plain(context.card.version)}, digest {context.model_digest[:12]}"),
        ("Input", f"{series}{f', {words}' if words else ''}, {slices}"),
        ("Study", str(first.get("StudyDescription") or "without description")),
        ("Complete since", f"{context.local_time:%Y-%m-%d %H:%M %Z}, revision {context.revision}"),
        ("Made by", f"{plain(context.node.node_id)}, {_maker(context)}"),
    )  # fmt: skip
    cells = [[Paragraph(name, _HEAD), Paragraph(markup(text), _BODY)] for name, text in facts]
    tight = [("TOPPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 1)]
    return Table(cells, colWidths=(28 * mm, _WIDTH - 28 * mm), style=[*_PLAIN_TABLE, *tight])


def _findings(findings: Findings, context: ResultContext) -> Iterator[Flowable]:
    """The whole table, and what was looked for and not found."""
    rows = rows_of(findings, context.card)
    if rows:
        yield _table(rows, context)
    said = verdict(findings, context.card)
    if said:
        yield Paragraph(markup(said + "."), ParagraphStyle("verdict", parent=_BODY, fontName=BOLD))
    for words in absences(findings, context.card):
        yield Paragraph(markup(words + "."), _BODY)
    if findings.detections:
        yield Paragraph("The score is the model's own confidence, not a probability of disease.", _HEAD)


def _table(rows: Sequence[Row], context: ResultContext) -> Table:
    valued = any(row.finding.measures is not None and row.finding.measures.mean is not None for row in rows)
    unit = ", HU" if context.sources[0].get("Modality") == "CT" else ""
    names = ["", "Finding", "Volume", "Diameter", "Score", "Image", *([f"Mean ± SD{unit}"] if valued else [])]
    cells = [[Paragraph(name, _HEAD if place < 2 else _NUMBER_HEAD) for place, name in enumerate(names)]]
    for row in rows:
        numbers = [row.volume, row.size, row.score, _image(row.finding, context)] + ([_values(row)] if valued else [])
        sign = Paragraph(f'<font color="{_hex(row.colour)}">■</font> {row.sign}', _BODY)
        cells.append([sign, Paragraph(markup(row.label), _BODY), *(Paragraph(text, _NUMBER) for text in numbers)])
    widths = [12 * mm, 0.0, 24 * mm, 32 * mm, 15 * mm, 16 * mm, *([24 * mm] if valued else [])]
    widths[1] = _WIDTH - sum(widths)
    return Table(cells, colWidths=widths, repeatRows=1, style=_RULED_TABLE)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _image(finding: Segment | Detection, context: ResultContext) -> str:
    """The number by which a person finds the image that shows it best."""
    place = finding.measures.slice if finding.measures is not None else largest_slice(finding.mask)
    return str(context.frames[place] if context.frames else context.sources[place].get("InstanceNumber") or "")


def _values(row: Row) -> str:
    found = row.finding.measures
    if found is None or found.mean is None:
        return ""
    return f"{found.mean:.0f}" + (f" ± {found.deviation:.0f}" if found.deviation is not None else "")


def _pictures(folder: Path) -> Iterator[Flowable]:
    """The overlay pictures, two side by side."""
    paths = [folder / f"{name}.png" for name in _PLANES]
    if not all(path.is_file() for path in paths):
        raise OutputInvalid("the report needs the overlay pictures, and they were not drawn")
    paths += sorted(folder.glob("detection-*.png"), key=lambda path: int(path.stem.removeprefix("detection-")))
    half = _WIDTH / 2
    shown = [_picture(path, half - 2 * mm) for path in paths]
    for left, right in zip(shown[::2], [*shown[1::2], ""], strict=False):
        style = [*_PLAIN_TABLE, ("LEFTPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 6)]
        yield Table([[left, right]], colWidths=(half, half), style=style)


def _picture(path: Path, width: float) -> Image:
    with Picture.open(path) as picture:
        scale = min(width / picture.width, _HIGHEST / picture.height)
        return Image(str(path), width=picture.width * scale, height=picture.height * scale, hAlign="LEFT")


def _figures(context: ResultContext) -> Iterator[Flowable]:
    if not context.card.figures:
        return
    yield _section("Measured figures of the model")
    head = [Paragraph("Data", _HEAD), Paragraph("Measure", _HEAD), Paragraph("Value", _NUMBER_HEAD)]
    cells = [head]
    for data, measure, value in context.card.figures:
        texts = (Paragraph(markup(plain(one)), _BODY) for one in (data, measure))
        cells.append([*texts, Paragraph(f"{value:g}", _NUMBER)])
    widths = (_WIDTH - 88 * mm, 68 * mm, 20 * mm)
    yield Table(cells, colWidths=widths, repeatRows=1, style=_RULED_TABLE)
