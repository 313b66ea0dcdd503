"""The command `pacs-node`."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

from node.cli import act, look, roles
from node.cli.common import app
from node.errors import NodeError, NotFound, PeerAway, PeerRefused, SettingsError

__all__ = ["act", "app", "look", "main", "roles"]

#: What an exit code means; the first class that fits decides.
EXIT_CODES: tuple[tuple[type[NodeError], int], ...] = (
    (SettingsError, 2),
    (NotFound, 3),
    (PeerAway, 4),
    (PeerRefused, 4),
    (NodeError, 1),
)


def main() -> None:
    """Run the command line; a failure that we foresee is one clear message and its exit code."""
    try:
        app()
    except NodeError as why:
        Console(stderr=True).print(f"[bold red]{escape(type(why).__name__)}:[/] {escape(str(why))}", highlight=False)
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(why, kind)))
