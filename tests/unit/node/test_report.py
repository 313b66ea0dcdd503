"""The printed report: complete, in the patient's own letters, the same each time."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from models.contract import Card, Detection, Findings, Measures, Segment
from node.dicom.context import NodeIdentity
from node.errors import OutputInvalid
from node.pictures import load_pictures, write_report
from node.pictures.text import date_of, name_of, runs
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD, context_of, ct_series, nodules, two_lungs

CARD = replace(
    NODULE_CARD, segments=(*NODULE_CARD.segments, *LUNG_CARD.segments), purpose="Marks <solid> nodules & more.",
    limits=("For research; not for diagnosis", "Misses the small ones"), figures=(("six scans", "nodules found", 0.5),),
)  # fmt: skip


@pytest.fixture
def sources() -> tuple[Dataset, ...]:
    """A series with a description."""
    made = ct_series()
    for source in made:
        source.SeriesDescription = "Lunge dünn"
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures as the overlays leave them."""
    for number, name in enumerate(("axial", "coronal", "sagittal", "detection-1", "detection-2")):
        Image.new("RGB", (768, 400 + 300 * number), (40 * number, 80, 120)).save(tmp_path / f"{name}.png")
    return tmp_path


def found_in(sources: tuple[Dataset, ...]) -> Findings:
    """Both lungs but the left, and two nodules, one of them measured."""
    first, second = nodules(sources).detections
    measures = Measures(
        volume_ml=0.0517, long_mm=4.31, short_mm=2.2, long_ends=((4, 5), (8, 9)), short_ends=((4, 9), (8, 5)), slice=3,
        mean=-31.4, deviation=12.6, least=-60.0, greatest=5.0,
    )  # fmt: skip
    return Findings(
        segments=two_lungs(sources).segments[:1], detections=(replace(first, measures=measures), second),
        remarks=("right lung cut at the lower border",),
    )  # fmt: skip


def text_of(path: Path, *more: str) -> str:
    """All text of a PDF, lines as on the page; skips without poppler, and fails in CI."""
    program = shutil.which("pdftotext")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("pdftotext is not installed")
        pytest.skip("pdftotext is not installed")
    ran = subprocess.run([program, "-layout", *more, str(path), "-"], capture_output=True, check=True, timeout=60)
    return ran.stdout.decode("utf-8")


def test_the_report_says_all_that_was_found_and_all_that_was_not(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """Findings with every number and the image to look at; what is absent; remarks, limits and figures."""
    text = text_of(write_report(folder, found_in(sources), context_of(sources, CARD)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "■1 Lung nodule, right lung 0.052 mL 4.3 x 2.2 mm 0.87 4 -31 ± 13" in lines
    assert "■2 Lung nodule, left lung 0.002 mL 1.1 mm 0.51 5" in lines
    assert "■a Right lung 1235 mL 3" in lines
    for line in ("No left lung found.", "- Right lung cut at the lower border.", "- Misses the small ones.",
                 "Marks <solid> nodules & more.", "six scans nodules found 0.5"):  # fmt: skip
        assert line in lines
    assert "No lung nodule found" not in text


def test_the_report_says_of_what_and_by_whom_it_is(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """Model, version, input, node, and the time when the study was complete: not the time of printing."""
    text = " ".join(text_of(write_report(folder, found_in(sources), context_of(sources, CARD))).split())
    for words in ("Lung nodule detection 1.2.0", "ct-lung-nodule 1.2.0, digest dddddddddddd", "2026-03-04 05:06 UTC",
                  "CT series 3, Lunge dünn, 7 slices", "Thorax", "node-7, pacs-ai-node 0.1.0"):  # fmt: skip
        assert words in text


def test_every_page_names_the_patient_and_warns(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """Pages may be parted: identity, warning and page number on each."""
    path = write_report(folder, found_in(sources), context_of(sources, CARD))
    count = text_of(path).count("\f")
    assert count >= 2
    for number in range(1, count + 1):
        page = " ".join(text_of(path, "-f", str(number), "-l", str(number)).split())
        assert page.startswith("Müller, Jörg ID P-0042 born 1958-03-11 sex M study of 2026-03-04 accession A100")
        assert "AI result - research use only - not for clinical use" in page
        assert page.endswith(f"page {number}/{count}")


def test_nothing_found_is_said_first(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """In one sentence."""
    text = text_of(write_report(folder, Findings(), context_of(sources, NODULE_CARD)))
    assert "No lung nodule found by Lung nodule detection 1.2.0." in text


def test_sixty_findings_run_over_pages_under_repeated_heads(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """Each is named, whatever the pictures had room for."""
    kinds = tuple(replace(LUNG_CARD.segments[0], key=f"s{n}", label=f"Structure {n:02d}") for n in range(60))
    mask: NDArray[np.bool_] = np.ones((7, 20, 24), np.bool_)
    found = Findings(segments=tuple(Segment(key=kind.key, mask=mask, volume_ml=5.0) for kind in kinds))
    text = text_of(write_report(folder, found, context_of(sources, replace(CARD, segments=kinds))))
    assert all(f"Structure {n:02d}" in text for n in range(60))
    assert text.count("Finding ") >= 2


def test_the_same_work_prints_the_same_bytes(folder: Path) -> None:
    """No clock, no chance; another time or node is another document."""
    printed = []
    for _ in range(2):
        sources = ct_series()
        printed.append(write_report(folder, found_in(sources), context_of(sources, CARD)).read_bytes())
    assert printed[0] == printed[1] == load_pictures(folder).report
    assert printed[0].startswith(b"%PDF-1.")
    node = NodeIdentity(node_id="other", serial="2", software_version="1")
    sources = ct_series()
    write_report(folder, found_in(sources), context_of(sources, CARD, node=node))
    assert load_pictures(folder).report != printed[0]


def test_a_report_without_pictures_is_refused(tmp_path: Path, sources: tuple[Dataset, ...]) -> None:
    """The reason says what is missing."""
    with pytest.raises(OutputInvalid, match="pictures"):
        write_report(tmp_path, Findings(), context_of(sources, NODULE_CARD))


@pytest.mark.parametrize(("name", "printed"), [
    ("chrFren", "Buc, Jérôme"), ("chrGerm", "Äneas, Rüdiger"), ("chrGreek", "Διονυσιος"), ("chrRuss", "Люкceмбypг"),
    ("chrH31", "Yamada, Tarou"), ("chrX1", "Wang, XiaoDong"),
])  # fmt: skip
def test_names_of_real_files_are_printed(data_dir: Path, folder: Path, name: str, printed: str) -> None:
    """In six character sets; Chinese and Japanese letters need the reader's own fonts, their Latin form does not."""
    patient = dcmread(data_dir / "charset-names" / f"{name}.dcm", stop_before_pixels=True)
    sources = ct_series()
    for source in sources:
        source.ReferringPhysicianName = ""
        for keyword in ("SpecificCharacterSet", "PatientName"):
            source[keyword] = patient[keyword]
    text = text_of(write_report(folder, Findings(), context_of(sources, NODULE_CARD)))
    assert text.strip().startswith(printed)


def test_identity_that_the_source_lacks_is_said_to_be_unknown(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """No blank that reads as an answer."""
    for source in sources:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate"):
            del source[keyword]
    text = " ".join(text_of(write_report(folder, Findings(), context_of(sources, NODULE_CARD))).split())
    assert text.startswith("no name ID unknown born unknown sex unknown study of unknown accession none")


@pytest.mark.parametrize(("name", "words"), [
    ("Müller^Jörg^^Dr.", "Müller, Jörg Dr."), ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong (洪 吉洞) (홍 길동)"),
    ("ONENAME", "ONENAME"), ("^Given", "Given"), ("=王^小東", "王 小東"), ("", "no name"), ("^^^^", "no name"),
    (None, "no name"),
])  # fmt: skip
def test_names_are_written_as_people_write_them(name: str | None, words: str) -> None:
    """Family name first; other scripts in brackets."""
    assert name_of(PersonName(name) if name is not None else None) == words


def test_each_part_of_a_text_is_in_a_font_that_has_it() -> None:
    """Kana and hangul show which language Chinese characters are of."""
    assert list(runs("Wang 王東")) == [("DejaVuSans", "Wang "), ("STSong-Light", "王東")]
    assert [font for font, _ in runs("山田やまだ")] == ["HeiseiMin-W3"]
    assert list(runs("홍길동")) == [("HYSMyeongJo-Medium", "홍길동")]
    assert "".join(letters for _, letters in runs("ЖΩ ñ")) == "ЖΩ ñ"


def test_letters_of_no_font_and_control_characters_do_no_harm() -> None:
    """A mark for each letter that cannot be printed; nothing for what is no letter."""
    assert list(runs("ก\x00ข\x1b!")) == [("DejaVuSans", "??!")]


def test_hebrew_is_read_from_the_right() -> None:
    """Its letters are turned, with the blank between two words; what stands around is not."""
    assert "".join(letters for _, letters in runs("A שלום כהן 12")) == "A ןהכ םולש 12"


@pytest.mark.parametrize(
    ("date", "words"), [("19580311", "1958-03-11"), ("", "unknown"), (None, "unknown"), ("1958", "1958")]
)
def test_dates_are_written_year_first(date: str | None, words: str) -> None:
    """Odd ones stay as they are."""
    assert date_of(date) == words


@pytest.mark.parametrize("card", [LUNG_CARD, NODULE_CARD], ids=lambda card: card.name)
def test_markup_of_others_is_text(folder: Path, sources: tuple[Dataset, ...], card: Card) -> None:
    """A description that looks like markup is printed, not obeyed."""
    for source in sources:
        source.SeriesDescription, source.StudyDescription = "<b>5 < 6 & 7</b> &lt;", "<img src='/etc/passwd'/>"
    text = text_of(write_report(folder, Findings(), context_of(sources, card)))
    assert "<b>5 < 6 & 7</b> &lt;" in text and "<img src='/etc/passwd'/>" in text


def test_a_detection_without_measures_has_its_own_numbers(folder: Path, sources: tuple[Dataset, ...]) -> None:
    """No column of values then."""
    (first, _) = nodules(sources).detections
    assert isinstance(first, Detection)
    text = text_of(write_report(folder, Findings(detections=(first,)), context_of(sources, CARD)))
    assert "Mean" not in text and "4.3 mm" in text
