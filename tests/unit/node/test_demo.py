"""The demo touches nothing that is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import demo
from node.errors import SettingsError


def test_the_demo_refuses_a_folder_with_somebody_s_files(tmp_path: Path) -> None:
    """`--out .` must not cost anybody's work."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingsError, match="not empty"):
        demo.run(tmp_path, keep_running=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
