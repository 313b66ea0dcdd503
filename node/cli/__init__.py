"""The command `pacs-node`."""

from __future__ import annotations

from node.cli import act, care, look, roles, verdicts
from node.cli.common import app, run_app

__all__ = ["act", "app", "care", "look", "main", "roles", "verdicts"]


def main() -> None:
    """Run the command line."""
    run_app(app)
