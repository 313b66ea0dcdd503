"""Commands that look after a node: decide what it cannot, halt it, keep what it holds safe."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from node import conflicts
from node.cli.common import AsJson, Home, app, open_node, out, print_json, table, time_of, who
from node.conflicts import Conflict
from node.errors import SettingsError


@app.command()
def resolve(
    study: str,
    home: Home = None,
    json: AsJson = False,
    keep: Annotated[str | None, typer.Option("--keep", help="The patient ID that the study is of.")] = None,
    discard_new: Annotated[
        bool, typer.Option("--discard-new", help="The study is of the patient that it was opened for.")
    ] = False,
) -> None:
    """Show which patients a study in conflict names, or decide of which it is; the rest is set aside, not deleted."""
    services = open_node(home)
    found = conflicts.find_conflict(services.database, services.store, study)
    if keep is not None and discard_new:
        raise SettingsError("--keep and --discard-new both say of which patient the study is: give one of them")
    if keep is None and not discard_new:
        _show(found, json=json)
        return
    patient_id = found.first.patient_id if keep is None else keep
    uid = found.study.uid
    done = conflicts.decide(services.database, services.store, uid, patient_id, who=who(), at=services.now())
    if json:
        print_json({"study": uid, "kept": done.kept, "set_aside": done.set_aside})
    else:
        out.print(f"study {uid}: {done.kept} instances kept, {done.set_aside} set aside; it settles again by itself")


def _show(found: Conflict, *, json: bool) -> None:
    if json:
        print_json({"study": found.study.uid, "identities": found.identities})
        return
    out.print(f"study {found.study.uid} names {len(found.identities)} patients")
    lines = table("patient ID", "instances", "series", "sent by", "first", "last")
    for one in found.identities:
        shown = escape(one.patient_id) or "[dim]none given[/]"
        lines.add_row(
            f"{shown} (the study was opened for it)" if one.first else shown, str(one.instances), str(one.series),
            escape(", ".join(one.calling_aes)), time_of(one.first_at), time_of(one.last_at),
        )  # fmt: skip
    out.print(lines)
    out.print(
        "nothing of it runs until you decide: --keep PATIENT_ID, or --discard-new for the patient that came first",
        markup=False,
    )
