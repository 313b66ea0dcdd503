"""What a home is given before any role starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.bootstrap import node_identity, prepare
from node.errors import SettingsError
from node.settings import RuleSettings, Settings


def test_processes_that_start_together_agree_on_the_node_id(tmp_path: Path) -> None:
    """The id goes into the UIDs of results: two of them would double every result."""
    settings = Settings(home=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        ids = {identity.node_id for identity in pool.map(lambda _: node_identity(settings), range(32))}
    assert len(ids) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["node-id"]


def test_an_empty_node_id_is_refused_not_used(tmp_path: Path) -> None:
    """Two nodes without an id would make the same UIDs."""
    (tmp_path / "node-id").touch()
    with pytest.raises(SettingsError, match="is empty"):
        node_identity(Settings(home=tmp_path))


def test_a_rule_for_a_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """The message names rule and model."""
    rule = RuleSettings(name="odd", model="ct-nothing")
    with pytest.raises(SettingsError, match=r"'odd'.*'ct-nothing'"):
        prepare(Settings(home=tmp_path, rule=(rule,)))
