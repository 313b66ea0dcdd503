"""What pictures, pages and the printed report say about findings, in the same words and under the same signs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from models.contract import Card, Detection, Findings, Segment
from node.dicom.codes import plain
from node.dicom.context import absent

WARNING = "AI result - not for clinical use"

Colour = tuple[int, int, int]  # sRGB


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One finding as a table shows it: its sign stands beside its outline."""

    sign: str  # a letter for a segment; for a detection the number that it has in every other result
    label: str
    colour: Colour
    volume: str  # "12 mL"
    size: str = ""  # "14.2 x 11.0 mm"
    score: str = ""  # "0.87"
    finding: Segment | Detection


def rows_of(findings: Findings, card: Card) -> tuple[Row, ...]:
    """Return a row for each detection, highest score first, then for each segment with a voxel."""
    numbered = list(enumerate(findings.detections, start=1))
    drawn = [one for one in findings.segments if one.mask.any()]
    detections = [_detection(one, str(n), card) for n, one in sorted(numbered, key=lambda pair: -pair[1].score)]
    return *detections, *(_segment(one, letter(place), card) for place, one in enumerate(drawn))


def letter(place: int) -> str:
    """Return "a" to "z", then "aa", "ab" and so on, for the places from 0."""
    outer, inner = divmod(place, len(ascii_lowercase))
    return (letter(outer - 1) if outer else "") + ascii_lowercase[inner]


def _segment(one: Segment, sign: str, card: Card) -> Row:
    kind = card.kind_of(one.key)
    return Row(sign=sign, label=plain(kind.label), colour=kind.colour, volume=_volume(one), finding=one)


def _detection(one: Detection, sign: str, card: Card) -> Row:
    kind = card.kind_of(one.key)
    site = f", {card.kind_of(one.site).label.lower()}" if one.site else ""
    return Row(
        sign=sign, label=plain(kind.label + site), colour=kind.colour, volume=_volume(one), size=_size(one),
        score=f"{one.score:.2f}", finding=one,
    )  # fmt: skip


def _volume(one: Segment | Detection) -> str:
    """Three digits, as far as three decimals give them; no more than 1000 mL needs."""
    volume = one.measures.volume_ml if one.measures is not None else one.volume_ml
    decimals = next((n for n, least in enumerate((100, 10, 0.1)) if volume >= least), 3)
    return f"{volume:.{decimals}f} mL"


def _size(one: Detection) -> str:
    if one.measures is None:
        return f"{one.diameter_mm:.1f} mm"
    return f"{one.measures.long_mm:.1f} x {one.measures.short_mm:.1f} mm"


def absences(findings: Findings, card: Card) -> tuple[str, ...]:
    """Return a sentence for each kind that was looked for and not found."""
    return tuple(f"No {plain(kind.label).lower()} found" for kind in absent(findings, card))


def verdict(findings: Findings, card: Card) -> str:
    """Return the one sentence that says that nothing at all was found; "" where something was."""
    missing = absent(findings, card)
    if len(missing) < len(card.segments):
        return ""
    what = f"No {plain(missing[0].label).lower()}" if len(missing) == 1 else "Nothing"
    return f"{what} found by {plain(card.title)} {plain(card.version)}"


def sentences(texts: Sequence[str]) -> Iterator[str]:
    """Yield *texts* as sentences in plain characters, none twice: a capital letter first, a full stop last."""
    for text in dict.fromkeys(plain(one) for one in texts):
        if text:
            yield text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
