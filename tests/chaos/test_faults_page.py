"""The pages of faults and bad inputs name each once, with tests that are there, or with the reason why none is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos.faults import INPUTS_PAGE, PAGE, checks, rows
from tests.chaos.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = pytest.mark.parametrize("page", [PAGE, INPUTS_PAGE], ids=lambda page: page.stem)


@pytest.mark.parametrize(("page", "last"), [(PAGE, 70), (INPUTS_PAGE, 32)], ids=["faults", "bad-inputs"])
def test_every_one_stands_on_its_page_once(page: Path, last: int) -> None:
    """F1 to F70, B1 to B32."""
    assert [row.number for row in rows(page)] == list(range(1, last + 1))


@PAGES
def test_every_named_check_is_there(page: Path) -> None:
    """A file, and where one is named the function in it."""
    for check in checks(page):
        file, _, name = check.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), check


@PAGES
def test_what_is_not_checked_says_why(page: Path) -> None:
    """In a sentence."""
    for row in rows(page):
        assert row.checks or re.match(r"(not yet|not here): \w+", row.how), row


def test_every_case_that_bears_a_number_is_named_under_it() -> None:
    """A test of bad input that says which one it is stands in that one's row."""
    named = {row.number: {check.partition("::")[0] for check in row.checks} for row in rows(INPUTS_PAGE)}
    missing = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        numbers = re.findall(r'"B(\d+) ', text) + re.findall(r"^def test_b(\d+)_", text, re.MULTILINE)
        place = str(file.relative_to(ROOT))
        missing += [(number, place) for number in sorted(set(map(int, numbers))) if place not in named[number]]
    assert missing == []


def test_every_guard_that_a_mutant_takes_away_is_there_once() -> None:
    """A guard that was written anew would silently be tried no more."""
    found = {one.name: (ROOT / one.file).read_text(encoding="utf-8").count(one.old) for one in MUTANTS}
    assert {name: count for name, count in found.items() if count != 1} == {}
