"""The command `pacs-node`."""

from __future__ import annotations

from node.cli import act, care, conformance, doctor, look, quarantine, roles, verdicts
from node.cli.common import app, run_app

__all__ = ["act", "app", "care", "conformance", "doctor", "look", "main", "quarantine", "roles", "verdicts"]


def main() -> None:
    """Run the command line."""
    run_app(app)
