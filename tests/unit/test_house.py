"""The house as a whole: what may import what, and that every setting is described."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from node.settings import PeerSettings, ProfileSettings, RuleSettings, Settings, TlsSettings

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_points_back() -> None:
    """workers -> node -> models, and the rooms of node among themselves: every contract of pyproject.toml holds."""
    command = Path(sys.executable).with_name("lint-imports")
    program = str(command) if command.exists() else shutil.which("lint-imports")
    assert program, "lint-imports is missing: install the development requirements"
    run = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("kind", [Settings, PeerSettings, ProfileSettings, RuleSettings, TlsSettings])
def test_every_setting_has_its_paragraph(kind: type[BaseModel]) -> None:
    """Each field is named in docs/configuration.md, as a heading or in backticks."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`\[*(?:PACS_NODE_)?([A-Za-z_]+)\]*`", page)) | set(re.findall(r"^#+ +(\S+)", page, re.M))
    missing = sorted(set(kind.model_fields) - {name.lower() for name in named})
    assert missing == []


def test_the_page_names_no_setting_that_is_not_there() -> None:
    """Each `PACS_NODE_...` variable of the page is a field."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    variables = {name.lower() for name in re.findall(r"PACS_NODE_([A-Z][A-Z_]*[A-Z])", page)}
    assert variables - {"test_data"} <= set(Settings.model_fields)


def test_the_listener_is_small() -> None:
    """What it need not have it does not import: it starts sooner after a crash, and each of several takes less."""
    large = ("celery", "highdicom", "httpx", "alembic", "psycopg", "rich", "starlette", "torch", "scipy")
    line = f"import sys, node.scp.__main__; print([one for one in {large} if one in sys.modules])"
    said = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"
