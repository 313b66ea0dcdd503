"""Reports in five languages: other words, the same codes and numbers, the same patient."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models import catalogue
from models.contract import Findings
from models.ct_lung_nodule.model import more_than_marked
from models.gate.whole import Whole, remarks_on
from node.dicom import language
from node.dicom.encode import encode
from node.domain.profile import Language, Profile
from tests.unit.node.dicom.conftest import NODULE_CARD, context_of, nodules

OTHERS = [one for one in Language if one is not Language.ENGLISH]


def report_in(spoken: Language, sources: tuple[Dataset, ...], findings: Findings | None = None) -> Dataset:
    """Encode and read back."""
    profile = Profile(name="p", secondary_capture=False, language=spoken)
    made = encode(findings or nodules(sources), context_of(sources, NODULE_CARD), (profile,))
    return dcmread(BytesIO(made[-1].data))


def codes_of(dataset: Dataset) -> Iterator[Dataset]:
    """All coded entries of the content."""
    for item in dataset.get("ContentSequence", []):
        for element in item:
            if element.keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
                yield element.value[0]
        yield from codes_of(item)


@pytest.mark.parametrize("spoken", OTHERS)
def test_words_change_and_codes_do_not(sources: tuple[Dataset, ...], spoken: Language) -> None:
    """The language says which it is; the patient's name stays, whatever character set is needed."""
    english, other = report_in(Language.ENGLISH, sources), report_in(spoken, sources)
    pairs = list(zip(codes_of(english), codes_of(other), strict=True))
    assert pairs
    own = {"en", str(spoken)}
    assert all(a.CodeValue == b.CodeValue or {a.CodeValue, b.CodeValue} == own for a, b in pairs)
    assert sum(a.CodeMeaning != b.CodeMeaning for a, b in pairs) > len(pairs) / 2
    assert str(other.PatientName) == str(english.PatientName) == "Müller^Jörg"
    assert other.SOPInstanceUID != english.SOPInstanceUID
    texts = [item.TextValue for item in other.ContentSequence[-1].ContentSequence if item.ValueType == "TEXT"]
    assert not any("research use only" in text for text in texts)


def test_chinese_needs_utf_8_and_german_does_not(sources: tuple[Dataset, ...]) -> None:
    """The source is Latin-1."""
    assert report_in(Language.GERMAN, sources).SpecificCharacterSet == "ISO_IR 100"
    assert report_in(Language.CHINESE, sources).SpecificCharacterSet == "ISO_IR 192"


def test_where_the_name_cannot_be_carried_over_the_report_is_english_and_says_so(sources: tuple[Dataset, ...]) -> None:
    """The source's name is not ASCII and nobody says in which set it is written."""
    for source in sources:
        del source.SpecificCharacterSet
    report = report_in(Language.CHINESE, sources)
    texts = [str(item.TextValue) for item in report.ContentSequence[-1].ContentSequence if item.ValueType == "TEXT"]
    assert any(text.startswith("In English, as the character set") for text in texts)


@pytest.mark.parametrize("spoken", OTHERS)
def test_every_meaning_in_use_has_its_word(sources: tuple[Dataset, ...], spoken: Language) -> None:
    """Of the reports' own codes and of every card that ships; units are UCUM's."""
    table = language.words(spoken)
    used = {(str(c.CodingSchemeDesignator), str(c.CodeValue)) for c in codes_of(report_in(Language.ENGLISH, sources))}
    used |= {
        (str(c.CodingSchemeDesignator), str(c.CodeValue))
        for c in codes_of(report_in(Language.ENGLISH, sources, Findings()))
    }
    for card in catalogue.cards():
        for kind in (*card.segments, *card.sites):
            used |= {(c.scheme, c.value) for c in (kind.category, kind.type, kind.site, kind.laterality) if c}
    missing = [pair for pair in sorted(used) if pair[0] not in ("RFC5646", "UCUM") and table.meaning(*pair) is None]
    assert missing == []


@pytest.mark.parametrize("spoken", OTHERS)
def test_what_a_model_and_the_gate_remark_is_said_in_every_language(spoken: Language) -> None:
    """They warn: a warning in a language that its reader does not know is none."""
    mirrored = Whole(phases={}, phase="", turned={}, lies={"left-right": False, "front-back": None, "head-feet": None})
    leak = "Airways are not drawn: 131 mL of gas hang together there, more than airways hold."
    for remark in (*remarks_on(mirrored), more_than_marked(), leak):
        assert language.words(spoken).sentence(remark) != remark
