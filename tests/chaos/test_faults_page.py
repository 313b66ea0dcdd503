"""The page of faults names each one once, with tests that are there, or with the reason why none is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.chaos.faults import PAGE, checks, rows

ROOT = Path(__file__).resolve().parents[2]


def test_every_fault_stands_on_the_page_once() -> None:
    """F1 to F70."""
    assert [row.number for row in rows()] == list(range(1, 71))
    assert PAGE.is_file()


def test_every_named_check_is_there() -> None:
    """A file, and where one is named the function in it."""
    for check in checks():
        file, _, name = check.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), check


def test_what_is_not_checked_says_why() -> None:
    """In a sentence."""
    for row in rows():
        assert row.checks or re.match(r"(not yet|not here): \w+", row.how), row
