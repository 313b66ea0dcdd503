"""`pacs-node preview`: what a job's results would be under a profile, as files, pictures and a tree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.markup import escape
from rich.tree import Tree

from node.bootstrap import Services
from node.cli.common import AsJson, Home, open_node, out, print_json
from node.db import jobs
from node.dicom.encode import ResultObject, encode
from node.dicom.tree import Branch, describe
from node.domain.job import Job
from node.domain.profile import DEFAULT, Profile
from node.errors import NotFound
from node.pictures import load_pictures, write_report
from workers import findings_io
from workers.pipeline import context_for


def preview_command(
    job_id: str,
    profile: Annotated[str, typer.Option(help="Name of the profile; see docs/configuration.md.")] = DEFAULT,
    out_dir: Annotated[Path, typer.Option("--out", help="Where files, pictures and the tree go.")] = Path("preview"),
    home: Home = None,
    json: AsJson = False,
) -> None:
    """Write what a job's results are, or would be, under a profile: DICOM files, pictures, a tree. Nothing is sent."""
    services = open_node(home)
    known = services.settings.profiles
    if profile not in known:
        raise NotFound(f"there is no profile {profile!r}; known: {', '.join(known)}")
    with services.database.reading() as session:
        job = jobs.get(session, job_id)
    objects = make_preview(services, job, known[profile], out_dir)
    trees = [describe(one.dataset) for one in objects]
    if json:
        files = [{"role": one.role, "variant": one.variant, "bytes": len(one.data)} for one in objects]
        print_json({"job": job.id, "profile": profile, "objects": files, "tree": trees, "out": out_dir})
        return
    for one, tree in zip(objects, trees, strict=True):
        out.print(_rich(tree, f"[bold]{one.role.upper()}[/] {len(one.data) / 1024:.0f} KiB  "))
    out.print(f"{len(objects)} objects for profile {profile} in {out_dir}; nothing was sent")


def make_preview(services: Services, job: Job, profile: Profile, folder: Path) -> tuple[ResultObject, ...]:
    """Encode the kept findings of *job* for *profile* and write files, pictures and `tree.txt` into *folder*."""
    kept = services.store.findings(job.id)
    if not findings_io.are_in(kept):
        raise NotFound(f"job {job.id} has no findings ({job.state}{': ' + job.reason if job.reason else ''})")
    with services.database.reading() as session:
        instances = jobs.inputs(session, job.id)
    paths = tuple(services.store.path(instance.path) for instance in instances)
    context = context_for(services, job, paths)
    findings = findings_io.load(kept)
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(shutil.copytree(services.store.pictures(job.id), Path(name) / "pictures"))
        if profile.pdf:
            write_report(drawn, findings, context)
        pictures = load_pictures(drawn)
    objects = encode(findings, context, (profile,), pictures)
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(objects):
        (folder / f"{number}-{one.role}.dcm").write_bytes(one.data)
    for number, page in enumerate(pictures.pages, start=1):
        Image.fromarray(page).save(folder / f"page-{number}.png")
    if pictures.report:
        (folder / "report.pdf").write_bytes(pictures.report)
    lines = [line for one in objects for line in describe(one.dataset).lines()]
    (folder / "tree.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return objects


def _rich(branch: Branch, lead: str = "") -> Tree:
    tree = Tree(lead + escape(branch.text))
    for one in branch.below:
        tree.add(_rich(one))
    return tree
