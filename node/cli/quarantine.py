"""`pacs-node quarantine`: what lies apart, and what a person does with it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from node.cli.common import AsJson, Home, app, open_node, out, print_json, table, time_of, who
from node.quarantine import Apart, Quarantine

commands = typer.Typer(no_args_is_help=True, help="Look at files that nobody could file; let them in, or drop them.")
app.add_typer(commands, name="quarantine")

Name = Annotated[str, typer.Argument(help="The file's name, as `pacs-node quarantine list` gives it.")]


def _open(home: Home) -> Quarantine:
    services = open_node(home)
    return Quarantine(services.database, services.store, services.intake(), services.now)


@commands.command(name="list")
def list_all(home: Home = None, json: AsJson = False) -> None:
    """List what lies apart, and why."""
    found = _open(home).all()
    if json:
        print_json([_plain(one) for one in found])
        return
    lines = table("file", "bytes", "written", "why it lies here")
    for one in found:
        lines.add_row(escape(one.name), str(one.size), time_of(one.at), escape(one.reason))
    out.print(lines if found else "nothing lies in the quarantine")


@commands.command()
def show(name: Name, home: Home = None, json: AsJson = False) -> None:
    """Show what one file is, as far as it can be read."""
    one = _open(home).one(name)
    if json:
        print_json(_plain(one))
        return
    for key, value in _plain(one).items():
        out.print(f"{key}: {value}", markup=False, soft_wrap=True)


@commands.command()
def admit(
    name: Name,
    home: Home = None,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Although its bytes are not those that were received.")
    ] = False,
) -> None:
    """Let a file in, as if it were received now; its study is planned again."""
    facts = _open(home).admit(name, as_it_is=as_it_is, who=who())
    out.print(f"instance {facts.sop_uid} is kept; study {facts.study_uid} settles again by itself")


@commands.command()
def drop(name: Name, home: Home = None) -> None:
    """Delete a file for good."""
    _open(home).drop(name, who=who())
    out.print(f"{name} is deleted", markup=False)


def _plain(one: Apart) -> dict[str, object]:
    facts = one.facts
    named = {"study": facts.study_uid, "series": facts.series_uid, "instance": facts.sop_uid} if facts else {}
    return {"file": one.name, "bytes": one.size, "written": one.at, "why": one.reason, **named}
