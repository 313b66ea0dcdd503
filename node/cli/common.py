"""What the commands share: the application, the options, JSON."""

from __future__ import annotations

import dataclasses
import getpass
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.bootstrap import Services, build
from node.errors import NodeError, SettingsError, exit_code
from node.logs import set_up_logging
from node.settings import load_settings

app = typer.Typer(
    name="pacs-node",
    help="A DICOM node beside a PACS: runs AI models on studies and returns DICOM SEG and SR. For research use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True, soft_wrap=True)

Home = Annotated[
    Path | None, typer.Option("--home", help="The node's folder (default: PACS_NODE_HOME, else ./pacs-node-home).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Parent = Annotated[int, typer.Option("--parent", hidden=True, help="Stop when this process is gone.")]


def run_app(commands: typer.Typer) -> None:
    """Run a command line; a failure that we foresee is one clear message and its exit code."""
    try:
        commands()
    except NodeError as why:
        said = f"[bold red]{escape(type(why).__name__)}:[/] {escape(str(why))}"
        err.print(said, highlight=False)
        sys.exit(exit_code(why))


def open_node(home: Path | None) -> Services:
    """Return the services of a node for a command that looks or acts; SettingsError where there is no node."""
    settings = load_settings(home)
    set_up_logging("cli", level="WARNING")
    if not settings.home.is_dir():
        raise SettingsError(f"there is no node in {settings.home}: pacs-node init makes one, --home names one")
    return build(settings, "cli")


def who() -> str:
    """Return how events name the person at this terminal."""
    return f"cli:{getpass.getuser()}"


def table(*columns: str) -> Table:
    """Return an empty table without lines."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def time_of(at: datetime) -> str:
    """Return a time as people here read it."""
    return at.astimezone().strftime("%d %b %H:%M:%S")


def print_json(value: Any) -> None:
    """Print *value* (dataclasses, lists, times) as JSON."""
    json.dump(_plain(value), sys.stdout, indent=2)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(_plain(one) for one in value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


