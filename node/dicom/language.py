"""Our reports in other languages: every code's meaning and every sentence of ours, never a code or a name.

Reports are made in English and translated whole, by the tables in `languages/`. What has no entry there stays
English; units are UCUM's own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.dicom import charset, codes
from node.dicom.context import ResultContext
from node.dicom.identity import stamp
from node.domain.profile import Language

_TABLES = Path(__file__).parent / "languages"
_OURS = ("ConceptNameCodeSequence", "ContentSequence", "ContributingEquipmentSequence")  # the rest is the source's
_CODES = {
    Language.ENGLISH: Code("en", "RFC5646", "English"),
    Language.GERMAN: Code("de", "RFC5646", "German"),
    Language.FRENCH: Code("fr", "RFC5646", "French"),
    Language.SPANISH: Code("es", "RFC5646", "Spanish"),
    Language.CHINESE: Code("zh", "RFC5646", "Chinese"),
}  # CID 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The table of one language."""

    meanings: Mapping[tuple[str, str], str]  # by scheme and value of a code
    sentences: tuple[tuple[re.Pattern[str], str], ...]  # English with named groups, and what it becomes
    words: Mapping[str, Mapping[str, str]]  # what may stand in a named group, in English and translated
    conjunction: str  # " and "

    @property
    def letters(self) -> str:
        """All characters that a report in this language may need."""
        said = (*self.meanings.values(), *(said for _, said in self.sentences), self.conjunction)
        return "".join(sorted(set("".join((*said, *(word for one in self.words.values() for word in one.values()))))))

    def meaning(self, scheme: str, value: str) -> str | None:
        """Return the meaning of a code, or None where the table has none."""
        return self.meanings.get((scheme, value))

    def sentence(self, english: str) -> str:
        """Return *english* translated, or as it is: a sentence is never translated in part."""
        for pattern, said in self.sentences:
            if found := pattern.fullmatch(english):
                parts = {name: self._part(name, text) for name, text in found.groupdict().items()}
                known = {name: text for name, text in parts.items() if text is not None}
                return said.format_map(known) if len(known) == len(parts) else english
        return english

    def _part(self, name: str, english: str) -> str | None:
        if english.isdigit():
            return english
        table = self.words.get(name, {})
        if english in table:
            return table[english]
        parts = [table.get(word) for word in english.split(" and ")]
        known = [part for part in parts if part is not None]
        return self.conjunction.join(known) if len(known) == len(parts) else None


@cache
def words(language: Language) -> Words:
    """Return the table of *language*; that of English is empty."""
    if language is Language.ENGLISH:
        return Words(meanings={}, sentences=(), words={}, conjunction=" and ")
    table: dict[str, Any] = tomllib.loads((_TABLES / f"{language}.toml").read_text(encoding="utf-8"))
    return Words(
        meanings={(scheme, value): said for scheme, all_ in table["codes"].items() for value, said in all_.items()},
        sentences=tuple((_pattern(english), said) for english, said in table["sentences"].items()),
        words=table["words"], conjunction=table["and"],
    )  # fmt: skip


def code_of(language: Language) -> Code:
    """Return the code of *language* (CID 5000)."""
    return _CODES[language]


def in_reach(context: ResultContext, language: Language) -> bool:
    """Return whether a report on the sources of *context* can be written in *language*; English always can."""
    if language is Language.ENGLISH:
        return True
    probe = Dataset()
    probe.Modality = "SR"
    stamp(probe, context, library=True)
    guessed = not context.sources[0].get("SpecificCharacterSet")
    return charset.can_carry(probe, words(language).letters, guessed=guessed)


def translate(report: Dataset, language: Language) -> None:
    """Give every code of ours in *report* its meaning in *language*, and every comment of ours its words.

    Where the character set of the source does not hold them, the report becomes ISO_IR 192; ask `in_reach` first.
    """
    table = words(language)
    for item in _items(report):
        if "CodeMeaning" in item:
            said = table.meaning(str(item.CodingSchemeDesignator), str(item.CodeValue))
            item.CodeMeaning = said or item.CodeMeaning
        elif item.get("ValueType") == "TEXT" and _is_comment(item):
            item.TextValue = table.sentence(str(item.TextValue))
    charset.carry(report, table.letters)


def _pattern(english: str) -> re.Pattern[str]:
    """A sentence whose places in braces match anything."""
    parts = re.split(r"\{(\w+)\}", english)
    return re.compile("".join(f"(?P<{p}>.+)" if place % 2 else re.escape(p) for place, p in enumerate(parts)))


def _is_comment(item: Dataset) -> bool:
    name = item.ConceptNameCodeSequence[0]
    return str(name.CodeValue) == codes.COMMENT.value and str(name.CodingSchemeDesignator) == "DCM"


def _items(report: Dataset) -> Iterator[Dataset]:
    """All sequence items of ours, at any depth."""
    waiting = [item for keyword in _OURS for item in report.get(keyword) or []]
    while waiting:
        item = waiting.pop()
        yield item
        waiting += [inner for element in item if element.VR == "SQ" for inner in element.value]
