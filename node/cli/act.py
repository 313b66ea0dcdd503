"""Commands that act: on jobs, and towards peers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from node import demo, steering
from node.cli.common import AsJson, Home, app, open_node, out, print_json, who
from node.db import jobs
from node.dicom.header import read_facts
from node.domain.peer import AnswerKind, OutgoingFile
from node.errors import NotFound, PeerRefused, UnreadableInstance


@app.command()
def retry(job_id: str, home: Home = None) -> None:
    """Run an ended job again, or send its parked results again."""
    services = open_node(home)
    out.print(steering.retry_job(services.database, job_id, who=who(), at=services.now()))


@app.command()
def cancel(job_id: str, home: Home = None) -> None:
    """End a job; what a peer has received stays there."""
    services = open_node(home)
    steering.cancel_job(services.database, job_id, who=who(), at=services.now())
    with services.database.reading() as session:
        job = jobs.get(session, job_id)
    out.print(f"job {job.id} is {job.state}")


@app.command()
def echo(peer: str, home: Home = None, json: AsJson = False) -> None:
    """Ask a peer whether it is there (C-ECHO)."""
    services = open_node(home)
    seconds = services.transport_to(services.settings.peer_named(peer)).echo()
    if json:
        print_json({"peer": peer, "seconds": round(seconds, 4)})
    else:
        out.print(f"{peer} answers in {seconds * 1000:.0f} ms")


@app.command()
def send(
    paths: list[Path],
    to: Annotated[str, typer.Option("--to", help="The peer's name in the configuration.")],
    home: Home = None,
    json: AsJson = False,
) -> None:
    """Send DICOM files or folders of them to a peer, as they lie on disk (C-STORE)."""
    services = open_node(home)
    files, skipped = _collect(paths)
    transport = services.transport_to(services.settings.peer_named(to))
    refused = []
    with Progress(console=out, disable=json) as bar:
        task = bar.add_task(f"to {to}", total=len(files))
        for file, answer in zip(files, transport.send(files), strict=False):
            bar.advance(task)
            if answer.kind is not AnswerKind.ACCEPTED:
                refused.append(f"{file.path}: {answer.reason}")
    sent = len(files) - len(refused)
    if json:
        print_json({"sent": sent, "refused": refused, "skipped": skipped})
    else:
        out.print(f"{sent} of {len(files)} sent to {to}; {len(skipped)} files are no DICOM instances")
        for line in refused:
            out.print(line, style="red", markup=False)
    if refused:
        raise PeerRefused(f"{to} did not take {len(refused)} instances")


def _collect(paths: list[Path]) -> tuple[list[OutgoingFile], list[str]]:
    files: list[OutgoingFile] = []
    skipped: list[str] = []
    for path in _walk(paths):
        try:
            facts = read_facts(path)
        except UnreadableInstance as why:
            skipped.append(f"{path}: {why}")
            continue
        files.append(
            OutgoingFile(
                path=path, sop_class=facts.sop_class, sop_uid=facts.sop_uid, transfer_syntax=facts.transfer_syntax,
                study_uid=facts.study_uid,
            )
        )  # fmt: skip
    if not files:
        raise NotFound("there is no DICOM instance among these files")
    return files, skipped


def _walk(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no {path}")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found


@app.command(name="demo")
def run_demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Where pictures and results go.")] = Path("demo-out"),
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave node and PACS up until Ctrl-C.")] = False,
) -> None:
    """Show the whole way of a study: a phantom CT in, SEG and SR back in a stand-in PACS, checked against the truth."""
    if not demo.run(out_dir, keep_running=keep_running):
        raise typer.Exit(1)
