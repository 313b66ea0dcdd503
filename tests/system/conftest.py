"""Whole nodes and real peers, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig import Orthanc, RunningNode, running_node, running_orthanc

StartNode = Callable[..., RunningNode]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Return a function that starts a node with the given lines of configuration."""
    with ExitStack() as stack:

        def start(extra: str = "", *, name: str = "home", quiet: float = 2.0, drain: float = 20.0) -> RunningNode:
            return stack.enter_context(running_node(tmp_path, extra, name=name, quiet=quiet, drain=drain))

        yield start


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A real Orthanc of this test's own."""
    with running_orthanc(tmp_path) as one:
        yield one
