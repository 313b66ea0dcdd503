"""`pacs-node run`: a folder of DICOM in, SEG + SR + pictures out; no server, no database, no queue."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydicom import Dataset
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from models import catalogue
from models.contract import Findings
from node import __version__
from node.cli.common import AsJson, out, print_json
from node.dicom.encode import NodeIdentity, ResultContext, encode, write_bytes
from node.dicom.header import read_facts
from node.dicom.reader import read_headers
from node.domain.profile import Profile
from node.domain.study import InstanceFacts
from node.errors import InputInvalid, NotFound, UnreadableInstance
from node.pictures import load_pictures
from node.planning import digest_of
from node.store import sha256_hex
from workers import findings_io
from workers.inference import Ran, Request, infer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one run made."""

    series_uid: str
    findings: Findings
    ran: Ran
    files: tuple[Path, ...]


def run_command(
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files.")],
    model: Annotated[str, typer.Option(help="Name of the model; see `pacs-node models`.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Where SEG, SR and pictures go.")],
    series: Annotated[str, typer.Option(help="Series UID, where the folder holds several.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: AsJson = False,
) -> None:
    """Run a model on a folder of DICOM files, without a server: SEG, SR and PNG overlays come out."""
    if model not in catalogue.card_names():
        raise NotFound(f"there is no model {model!r}; known: {', '.join(catalogue.card_names())}")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, disable=json) as bar:
        task = bar.add_task("reading", total=1.0)
        answer = run_folder(
            path, model, out_dir, series=series, device=device,
            progress=lambda fraction, stage: bar.update(task, completed=fraction, description=stage),
        )  # fmt: skip
        bar.update(task, completed=1.0, description="done")
    if json:
        print_json(_document(model, answer))
    else:
        _print(model, answer)


def run_folder(
    path: Path, model: str, out_dir: Path, *, series: str, device: str, progress: Callable[[float, str], None]
) -> Answer:
    """Run *model* on one series below *path* and write results and pictures to *out_dir*."""
    series_uid, paths = choose_series(path, series)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        ran = infer(Request(paths=paths, model=model, device=device, folder=scratch), {}, progress)
        findings = findings_io.load(scratch)
        drawn = scratch / "pictures"
        pictures = [Path(shutil.copy(picture, out_dir)) for picture in sorted(drawn.glob("*.png"))]
        files = [*_write_results(model, paths, findings, drawn, out_dir), *pictures]
    return Answer(series_uid=series_uid, findings=findings, ran=ran, files=tuple(files))


def _write_results(
    model: str, paths: tuple[Path, ...], findings: Findings, pictures: Path, out_dir: Path
) -> list[Path]:
    """Encode as the node does; the same images give the same instances, whenever they are run."""
    source = read_headers(paths)
    digests = [(read_facts(path).sop_uid, sha256_hex(path.read_bytes())) for path in paths]
    context = ResultContext(
        sources=source.headers, frames=source.frames, card=catalogue.card(model),
        model_digest=catalogue.digest(model), node=_IDENTITY, revision=1,
        input_digest=digest_of(digests), at=_study_time(source.headers[0]),
    )  # fmt: skip
    files: list[Path] = []
    for one in encode(findings, context, (Profile(),), load_pictures(pictures)):
        number = sum(file.name.startswith(f"{model}-{one.role}") for file in files)
        files.append(out_dir / f"{model}-{one.role}{f'-{number + 1}' if number else ''}.dcm")
        files[-1].write_bytes(write_bytes(one))
    return files


_IDENTITY = NodeIdentity(node_id="standalone", serial="1", software_version=__version__)


def _study_time(header: Dataset) -> datetime:
    """Return the time of the study, so that two runs write equal bytes."""
    digits = f"{header.get('StudyDate') or '19000101'}{str(header.get('StudyTime') or '000000')[:6]:0<6}"
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return datetime(1900, 1, 1, tzinfo=UTC)


def choose_series(path: Path, wanted: str) -> tuple[str, tuple[Path, ...]]:
    """Return the wanted series below *path*, or the only one that there is; InputInvalid lists the others."""
    if not path.exists():
        raise NotFound(f"there is no {path}")
    found: dict[str, list[tuple[InstanceFacts, Path]]] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        try:
            facts = read_facts(file)
        except UnreadableInstance:
            continue  # folders hold all sorts of files; what is no instance is no image of the series
        if facts.rows and facts.columns:
            found.setdefault(facts.series_uid, []).append((facts, file))
    if not found:
        raise NotFound(f"there are no DICOM images below {path}")
    if not wanted and len(found) > 1:
        lines = [f"  {uid}  {one[0][0].modality} {len(one)} images" for uid, one in found.items()]
        raise InputInvalid("several series: name one with --series\n" + "\n".join(lines))
    uid = wanted or next(iter(found))
    if uid not in found:
        raise NotFound(f"there is no series {uid} below {path}")
    return uid, tuple(file for _, file in found[uid])


def _document(model: str, answer: Answer) -> dict[str, object]:
    findings = answer.findings
    return {
        "model": model, "series_uid": answer.series_uid, "device": answer.ran.device, "seconds": answer.ran.seconds,
        "peak_mib": answer.ran.peak_mib, "remarks": findings.remarks, "files": answer.files,
        "segments": [{"key": one.key, "volume_ml": round(one.volume_ml, 3)} for one in findings.segments],
        "detections": [
            {
                "key": one.key, "site": one.site, "score": round(one.score, 4), "volume_ml": round(one.volume_ml, 4),
                "diameter_mm": round(one.diameter_mm, 3), "centre_mm": [round(value, 3) for value in one.centre_mm],
            }
            for one in findings.detections
        ],
    }  # fmt: skip


def _print(model: str, answer: Answer) -> None:
    ran = answer.ran
    out.print(f"[bold]{model}[/] on {ran.device}: {ran.seconds:.1f} s, {ran.peak_mib:.0f} MiB at most")
    for segment in answer.findings.segments:
        out.print(f"  {segment.key:<12} {segment.volume_ml:9.1f} mL")
    for one in answer.findings.detections:
        place = ", ".join(f"{value:.1f}" for value in one.centre_mm)
        size = f"{one.diameter_mm:.1f} mm, score {one.score:.2f}"
        out.print(f"  {one.key} in {one.site or 'unknown place'}: {size}, at ({place})")
    if not answer.findings.segments and not answer.findings.detections:
        out.print("  nothing found")
    for remark in answer.findings.remarks:
        out.print(f"  remark: {escape(remark)}")
    for file in answer.files:
        out.print(f"  {file}")
