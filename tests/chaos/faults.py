"""The pages of faults and of bad inputs, read: which tests stand for which of them.

    python -m tests.chaos.faults    prints the tests that docs/faults.md names, for `make test-faults`
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, INPUTS_PAGE = _DOCS / "faults.md", _DOCS / "bad-inputs.md"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault, or one bad input."""

    number: int
    how: str  # what stands in the last column
    checks: tuple[str, ...]


def rows(page: Path = PAGE) -> list[Row]:
    """Return the rows of a page."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if (begin := re.match(r"\| [FB](\d+) \|", line)) is not None:
            how = line.rstrip(" |").rsplit("|", 1)[1].strip()
            named = tuple(re.findall(r"`(tests/[^`]+)`", how))
            found.append(Row(number=int(begin.group(1)), how=how, checks=named))
    return found


def checks(page: Path = PAGE) -> list[str]:
    """Return every test that a page names, once."""
    return list(dict.fromkeys(check for row in rows(page) for check in row.checks))


if __name__ == "__main__":
    # The programs of their own (chaos runs, benchmarks) are no pytest files, and whole files hold their functions.
    tests = [check for check in checks() if Path(check.partition("::")[0]).name.startswith("test_")]
    whole = {check for check in tests if "::" not in check}
    sys.stdout.write("\n".join(one for one in tests if one in whole or one.partition("::")[0] not in whole) + "\n")
