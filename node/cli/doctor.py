"""The command that examines a peer."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from node.cli.common import AsJson, Home, app, open_node, out, print_json, table
from node.doctor import State, examine
from node.errors import PeerRefused

_COLOURS = {State.OK: "green", State.LOOK: "yellow", State.BAD: "red", State.UNKNOWN: "dim"}


@app.command()
def doctor(
    peer: str,
    home: Home = None,
    json: AsJson = False,
    store: Annotated[bool, typer.Option("--store", help="Also store a marked test object there.")] = False,
) -> None:
    """Examine a peer: echo, what it would be sent, query, commitment, clock; and say what to change on which side."""
    services = open_node(home)
    one = services.settings.peer_named(peer)
    found = examine(one, services.settings, services.transport_to(one), store=store, now=services.now())
    if json:
        print_json(found)
    else:
        lines = table("check", "", "says", "change here", "change there")
        for check in found:
            state = f"[{_COLOURS[check.state]}]{check.state}[/]"
            lines.add_row(check.what, state, escape(check.says), escape(check.here), escape(check.there))
        out.print(lines)
    if bad := [check.what for check in found if check.state is State.BAD]:
        raise PeerRefused(f"{peer}: {', '.join(bad)}")
