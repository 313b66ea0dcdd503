"""Text in any script for the printed report: which font has which letters, and how names and dates are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import groupby
from xml.sax.saxutils import escape

from pydicom.valuerep import PersonName
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont

REGULAR, BOLD = "DejaVuSans", "VeraBd"  # Bitstream Vera, which DejaVu builds on, comes with the library: Latin only
#: Fonts that a PDF reader brings along for scripts that DejaVu lacks; they are named in the file, not embedded.
_JAPANESE, _KOREAN, _CHINESE = "HeiseiMin-W3", "HYSMyeongJo-Medium", "STSong-Light"
_UNKNOWN = "?"


@cache
def fonts() -> frozenset[int]:
    """Make the fonts known to the library, once; return the characters that the regular one has."""
    regular = TTFont(REGULAR, str(files("node.pictures").joinpath("fonts", "DejaVuSans.ttf")))
    pdfmetrics.registerFont(regular)
    pdfmetrics.registerFont(TTFont(BOLD, "VeraBd.ttf"))
    for name in (_JAPANESE, _KOREAN, _CHINESE):
        pdfmetrics.registerFont(UnicodeCIDFont(name))
    return frozenset(regular.face.charToGlyph)


def runs(text: str) -> Iterator[tuple[str, str]]:
    """Yield (font, characters) for the parts of *text*, in the order from left to right.

    Hebrew and Arabic are turned to run from the right, Arabic letters without joining; control characters are left
    out, and a letter that no font has is a question mark.
    """
    clean = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c)[0] != "C")
    east = _eastern(clean)
    known = "".join(c if _font_of(c, east) else _UNKNOWN for c in clean)
    for font, part in groupby(_visual(known), key=lambda c: _font_of(c, east)):
        yield font, "".join(part)


def _eastern(text: str) -> str:
    """The font of Chinese characters in *text*: kana and hangul show which language it is."""
    names = [unicodedata.name(c, "") for c in text]
    if any(name.startswith(("HIRAGANA", "KATAKANA")) for name in names):
        return _JAPANESE
    return _KOREAN if any(name.startswith("HANGUL") for name in names) else _CHINESE


def _font_of(character: str, east: str) -> str:
    if ord(character) in fonts():
        return REGULAR
    name = unicodedata.name(character, "")
    if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "FULLWIDTH")):
        return east
    return _KOREAN if name.startswith("HANGUL") else ""


def _visual(text: str) -> str:
    """Turn each stretch of right-to-left letters, with the blanks inside it, to be read from the right."""
    shown: list[str] = []
    for rightward, part in groupby(_stretches(text), key=lambda one: one[1]):
        letters = "".join(c for c, _ in part)
        shown.append(letters[::-1] if rightward else letters)
    return "".join(shown)


def _stretches(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character and whether it belongs to a right-to-left stretch: a blank does between two such letters."""
    kinds = [unicodedata.bidirectional(c) in ("R", "AL", "NSM") for c in text]
    for place, (character, rightward) in enumerate(zip(text, kinds, strict=True)):
        inside = character == " " and 0 < place < len(text) - 1 and kinds[place - 1] and kinds[place + 1]
        yield character, rightward or inside


def markup(text: str) -> str:
    """Return *text* as the library's paragraphs take it, each part in a font that has its letters."""
    return "".join(
        escape(letters) if font == REGULAR else f'<font name="{font}">{escape(letters)}</font>'
        for font, letters in runs(text)
    )


def name_of(name: object) -> str:
    """Return a person's name for a heading: "Family, given", then its other scripts in brackets (PS3.5 6.2.1)."""
    if name is None or not str(name):
        return "no name"
    person = name if isinstance(name, PersonName) else PersonName(str(name))
    alphabetic, *others = ([part.strip() for part in group.split("^")] for group in str(person).split("="))
    given = " ".join(part for part in alphabetic[1:] if part)
    groups = [", ".join(part for part in (alphabetic[0], given) if part)]
    groups += [" ".join(part for part in group if part) for group in others]
    first, *rest = [group for group in groups if group] or ["no name"]
    return first + "".join(f" ({group})" for group in rest)


def date_of(date: object) -> str:
    """Return a DICOM date (VR DA) as year-month-day; as it stands where it is none; "unknown" where it is empty."""
    digits = str(date or "")
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if len(digits) == 8 and digits.isdigit() else digits or "unknown"
