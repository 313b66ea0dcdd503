"""Commands that look after a node: decide what it cannot, halt it, keep what it holds safe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from models import catalogue
from node import backup, conflicts
from node.broker import QUEUES
from node.cli.common import AsJson, Home, app, err, open_node, out, print_json, table, time_of, who
from node.conflicts import Conflict
from node.db import pauses, studies
from node.domain.pause import NODE, PauseKind
from node.errors import NotFound, SettingsError
from node.foundation import utc_now
from node.settings import Settings, load_settings


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


@app.command()
def replan(study: str, home: Home = None) -> None:
    """Have a settled study planned again, e.g. by rules that have changed; finished work is not repeated."""
    services = open_node(home)
    with services.database.transaction() as session:
        uid = studies.find_uid(session, study)
        studies.reopen(session, uid, who=who(), at=services.now())
    out.print(f"study {uid} settles again by itself, as a new revision")


What = Annotated[str, typer.Argument(help="node, queue:NAME, model:NAME or peer:NAME.")]


@app.command()
def pause(
    what: What,
    home: Home = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who see it later.")] = "",
) -> None:
    """Halt the node, a queue, a model or a peer: nothing new is begun. Images are still received and studies settle."""
    services = open_node(home)
    _check_what(what, services.settings)
    with services.database.transaction() as session:
        new = pauses.put(session, what, reason=reason, who=who(), at=services.now())
    out.print(f"{what} is paused; what runs already is finished" if new else f"{what} was paused before")


@app.command()
def resume(what: What, home: Home = None) -> None:
    """Let what was paused go on; what waits is taken up within seconds."""
    services = open_node(home)
    with services.database.transaction() as session:
        if not pauses.end(session, what, who=who(), at=services.now()):
            known = ", ".join(sorted(pauses.paused(session))) or "nothing"
            raise NotFound(f"{what} is not paused; paused: {known}")
    out.print(f"{what} goes on")


def _check_what(what: str, settings: Settings) -> None:
    """Refuse to pause what is not there: a slip of the pen would halt nothing and nobody would see it."""
    kind, _, name = what.partition(":")
    known = {
        PauseKind.QUEUE: list(QUEUES),
        PauseKind.MODEL: catalogue.card_names(),
        PauseKind.PEER: [peer.name for peer in settings.peers],
    }
    if what == NODE:
        return
    if kind not in known:
        raise SettingsError(f"{what!r} cannot be paused: say node, queue:NAME, model:NAME or peer:NAME")
    if name not in known[PauseKind(kind)]:
        raise NotFound(f"there is no {kind} {name!r}; known: {', '.join(known[PauseKind(kind)]) or 'none'}")


@app.command(name="backup")
def make_backup(file: Path, home: Home = None, json: AsJson = False) -> None:
    """Write the whole node into one file while it runs; exit code 1 where a file of the store was not whole."""
    services = open_node(home)
    made = backup.back_up(services.settings, services.store, file, at=services.now())
    if json:
        print_json({"file": file, "rows": made.rows, "files": len(made.files), "missing": made.missing,
                    "damaged": made.damaged})  # fmt: skip
    else:
        out.print(f"{file}: {_of(made.rows)}, {len(made.files)} files")
    _complain(made.missing, made.damaged)


@app.command()
def restore(file: Path, home: Home = None, json: AsJson = False) -> None:
    """Make an empty home the node that a backup holds: every hash is verified, nothing is delivered twice."""
    done = backup.restore(file, load_settings(home).home, now=utc_now)
    if json:
        print_json(done)
    else:
        out.print(f"{done.home}: {_of(done.rows)}, {done.files} files")
        out.print(f"deliveries whose peers are asked first: {done.asked_first}; attempts made void: {done.voided}")
        out.print(f"next: pacs-node store verify, then pacs-node up --home {done.home}")
    _complain(done.missing, done.damaged)


def _of(rows: dict[str, int]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in rows.items())


def _complain(missing: Sequence[str], damaged: Sequence[str]) -> None:
    """Name what was not whole already when the backup was made; exit code 1 where there is any."""
    for what, names in (("missing", missing), ("damaged", damaged)):
        for name in names:
            err.print(f"{what} in the store that was backed up: {name}", style="red", markup=False)
    if missing or damaged:
        raise typer.Exit(1)


store_commands = typer.Typer(help="Look after the files of the node.", no_args_is_help=True)
app.add_typer(store_commands, name="store")


@store_commands.command()
def verify(home: Home = None, json: AsJson = False) -> None:
    """Hash every file that the table names; exit code 1 where one is damaged or missing. Changes nothing."""
    services = open_node(home)
    with services.store.undisturbed():
        found = services.care().verify()
    if json:
        print_json(found)
    else:
        out.print(f"{found.files} files: {len(found.damaged)} damaged, {len(found.missing)} missing")
        for what, names in (("damaged", found.damaged), ("missing", found.missing)):
            for name in names:
                out.print(f"{what}  {name}", style="red", markup=False)
    if found.damaged or found.missing:
        raise typer.Exit(1)
