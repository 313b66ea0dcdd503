"""The page of interoperability: every line is a test that is there, of the version that is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pynetdicom
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "interoperability.md"
TESTS = ROOT / "tests" / "integration" / "test_interoperability.py"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table."""

    peer: str
    version: str
    direction: str
    result: str
    check: str


def lines() -> list[Line]:
    """Return the lines of the table."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and (check := re.fullmatch(r"`(tests/[^`]+)`", cells[5])) is not None:
            found.append(Line(peer=cells[0], version=cells[1], direction=cells[3], result=cells[4], check=check[1]))
    return found


def test_every_line_is_a_test_that_is_there() -> None:
    """A file and the function in it, a direction and a result."""
    assert len(lines()) == PAGE.read_text(encoding="utf-8").count("`tests/") - 1  # one more stands in the text
    for line in lines():
        file, _, name = line.check.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), line
        assert line.direction in ("in", "out"), line
        assert line.result, line


def test_every_test_with_a_real_program_has_its_line() -> None:
    """None is forgotten."""
    there = set(re.findall(r"^def (test_\w+)\(", TESTS.read_text(encoding="utf-8"), re.MULTILINE))
    ours = str(TESTS.relative_to(ROOT))
    named = {line.check.partition("::")[2] for line in lines() if line.check.startswith(ours)}
    assert named == there


@pytest.mark.parametrize("peer", ["DCMTK", "Orthanc", "pynetdicom"])
def test_the_versions_are_those_that_are_installed(peer: str) -> None:
    """One version of each; where a program is missing on a laptop, nobody can tell."""
    named = {line.version for line in lines() if line.peer.split()[0] == peer}
    assert named == {installed(peer)}


def installed(peer: str) -> str:
    """Return the version of a peer on this machine."""
    if peer == "pynetdicom":
        return pynetdicom.__version__
    program = {"DCMTK": "dcmdump", "Orthanc": "Orthanc"}[peer]
    places = [*os.get_exec_path(), "/usr/sbin"]
    path = os.pathsep.join(place for place in places if Path(place) != Path(sys.executable).parent)
    found = shutil.which(program, path=path)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is missing on a CI machine")
        pytest.skip(f"{program} is not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"\d+\.\d+\.\d+", said)
    assert version is not None, said
    return version[0]
