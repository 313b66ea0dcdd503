"""The command that prints the conformance statement."""

from __future__ import annotations

import sys

from node.cli.common import AsJson, Home, app, print_json
from node.errors import SettingsError
from node.settings import load_settings


@app.command()
def conformance(home: Home = None, json: AsJson = False) -> None:
    """Print the DICOM conformance statement of this node, as it is configured: Markdown, or JSON for machines."""
    from node.conformance import describe, to_markdown  # their libraries would slow every other command down

    settings = load_settings(home)
    if not settings.home.is_dir():
        raise SettingsError(f"there is no node in {settings.home}: pacs-node init makes one, --home names one")
    statement = describe(settings)
    if json:
        print_json(statement)
    else:
        sys.stdout.write(to_markdown(statement))
