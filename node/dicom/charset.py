"""In which character set a result can say what it has to (PS3.3 C.12.1.1.2, PS3.5 6.1).

A result writes as its source does, so that a PACS sees the same name in both. Only where that set lacks the letters
of the report's language is the result written in ISO_IR 192 (UTF-8), with the same text in all that it copied.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

UTF_8 = "ISO_IR 192"
_GOVERNED = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.3
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def fits(letters: str, declared: object) -> bool:
    """Return whether the set *declared* as (0008,0005) holds all *letters*; of several sets only ASCII is trusted."""
    if letters.isascii():
        return True
    term = str(declared or "")
    if not term.startswith(("ISO_IR", "GB")) or term not in python_encoding:
        return False
    try:
        letters.encode(python_encoding[term])
    except UnicodeEncodeError:
        return False
    return True


def can_carry(result: Dataset, letters: str, *, guessed: bool) -> bool:
    """Return whether *result* can be written with *letters* in it, be it by way of ISO_IR 192.

    It cannot where its own text would have to change: not decodable as declared, or not ASCII and in a set that is
    only *guessed*.
    """
    if fits(letters, result.get("SpecificCharacterSet")):
        return True
    texts = [str(value) for element in _texts(result) for value in _values(element)]
    return not any(_UNREADABLE in text or (guessed and not text.isascii()) for text in texts)


def carry(result: Dataset, letters: str) -> None:
    """Declare ISO_IR 192 in *result* where its own set lacks some of *letters*; its text stays the same."""
    if fits(letters, result.get("SpecificCharacterSet")):
        return
    for _ in _texts(result):  # decodes all by the old set, before the new one is declared
        pass
    result.SpecificCharacterSet = UTF_8


def _texts(dataset: Dataset) -> Iterator[DataElement]:
    return (element for element in dataset.iterall() if element.VR in _GOVERNED and element.value)


def _values(element: DataElement) -> list[object]:
    return list(element.value) if element.VM > 1 else [element.value]
