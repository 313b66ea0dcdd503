"""Documents that cannot lie: commands, links and the checks that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from node.cli.common import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def test_the_readme_names_every_command_and_no_other() -> None:
    """The table of commands is the application's own list."""
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in lines if "pacs-node" in line]
    named = {words.removeprefix("pacs-node ").split()[0] for cell in cells for words in cell}
    assert named == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """No link to a page that is not there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_check_that_the_readme_names_is_there() -> None:
    """A promise points at the file that keeps it."""
    named = set(re.findall(r"`(tests/[\w/.]+\.py)`", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_make_target_of_the_documents_exists() -> None:
    """`make x` in a document is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert named - targets == set()
