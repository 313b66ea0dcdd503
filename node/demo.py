"""`pacs-node demo`: the whole way of a study, shown as it happens and checked against a known truth."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from rich.console import Console
from rich.table import Table

from models.contract import Mask
from models.phantom import Ball, Phantom, thorax_phantom
from node.bootstrap import Services, build
from node.db import events, jobs
from node.dicom.header import read_facts
from node.domain.job import ENDED, Job, JobState
from node.domain.peer import AnswerKind, OutgoingFile, Peer
from node.errors import PeerAway, PeerRefused, SettingsError
from node.readback import ReadSegment, read_measures, read_segments
from node.settings import load_settings
from node.testing import ScriptedPacs, thorax_study
from node.transport import open_transport

_UP_WITHIN, _DONE_WITHIN = 40.0, 240.0  # seconds
_VOLUME_TOLERANCE = 0.05  # share by which the volume of lung or airways may differ from the truth
_CENTRE_TOLERANCE = 3.0  # mm by which the centre of nodule or airways may
_DIAMETER_TOLERANCE = 2.5  # mm

out = Console()


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that the phantom contains, and what came back."""

    what: str
    truth: str
    found: str
    good: bool


def run(folder: Path, *, keep_running: bool) -> bool:
    """Run the demo below *folder*; return whether everything that it shows is true."""
    began = time.monotonic()
    folder = _fresh(folder.resolve())
    with ScriptedPacs(folder / "pacs", ae_title="DEMOPACS") as pacs:
        home = _make_home(folder / "home", pacs.peer("pacs"))
        _say(began, f"stand-in PACS listens on port {pacs.peer('pacs').port}")
        with _node(home, folder / "node.log") as port:
            _say(began, f"node is up on port {port}")
            _send_sample(folder / "study", port, began)
            services = build(load_settings(home), "demo")
            ended = _follow(services, began)
            good = _report(services, ended, pacs.folder, folder, began)
            if keep_running:
                _wait_for_ctrl_c()
    return good


def _fresh(folder: Path) -> Path:
    """Return *folder*, emptied where it is an earlier demo's; refuse to touch anything else that lies there."""
    marker = folder / ".pacs-node-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SettingsError(f"{folder} is not empty and not an earlier demo's: choose another folder with --out")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()
    return folder


def _say(began: float, what: str) -> None:
    out.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {what}", highlight=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_home(home: Path, pacs: Peer) -> Path:
    home.mkdir(parents=True)
    (home / "pacs-node.toml").write_text(
        f'ae_title = "PACSAINODE"\nhost = "127.0.0.1"\nport = {_free_port()}\nweb_port = {_web_port()}\n'
        "quiet_period = 2\nsweep_interval = 0.5\nmin_free_bytes = 0\n\n"
        f'[[peer]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nhost = "{pacs.host}"\nport = {pacs.port}\n',
        encoding="utf-8",
    )
    return home


def _web_port() -> int:
    """8080 where it is free, since that is what the documents say."""
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 8080)) == 0
    return _free_port() if taken else 8080


@contextmanager
def _node(home: Path, log: Path) -> Iterator[int]:
    """Run `pacs-node up` over *home*, its log in a file, until the block ends."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PACS_NODE_")}
    command = [sys.executable, "-m", "node.cli", "up", "--home", str(home), "--parent", str(os.getpid())]
    port = load_settings(home).port
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        _wait_until_up(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    node = Peer(name="node", ae_title="PACSAINODE", host="127.0.0.1", port=port)
    deadline = time.monotonic() + _UP_WITHIN
    while True:
        try:
            open_transport(node, calling_ae="DEMOPACS").echo()
            return
        except (PeerAway, PeerRefused):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerAway(f"the node did not come up; its log is {log}") from None
            time.sleep(0.2)


def _send_sample(folder: Path, port: int, began: float) -> None:
    files = thorax_study(folder)
    _say(began, f"sample study made: a thorax of formulas, {len(files)} CT images")
    facts = [read_facts(path) for path in files]
    outgoing = [
        OutgoingFile(path=p, sop_class=f.sop_class, sop_uid=f.sop_uid, transfer_syntax=f.transfer_syntax)
        for p, f in zip(files, facts, strict=True)
    ]
    node = Peer(name="node", ae_title="PACSAINODE", host="127.0.0.1", port=port)
    answers = list(open_transport(node, calling_ae="DEMOPACS").send(outgoing))
    taken = sum(answer.kind is AnswerKind.ACCEPTED for answer in answers)
    _say(began, f"sent by C-STORE: {taken} of {len(files)} images acknowledged as safely stored")
    if taken != len(files):
        raise PeerRefused("the node did not take the whole study")


def _follow(services: Services, began: float) -> list[Job]:
    """Show every event of every job as it happens; return the jobs when all have ended."""
    shown: dict[str, int] = {}
    deadline = time.monotonic() + _DONE_WITHIN
    while time.monotonic() < deadline:
        with services.database.reading() as session:
            found = sorted(jobs.list_jobs(session), key=lambda job: job.model)
            stories = {job.id: events.story(session, job_id=job.id) for job in found}
        for job in found:
            for event in stories[job.id][shown.get(job.id, 0) :]:
                _say(began, f"[bold]{job.model:<15}[/] {event.what} {event.detail}")
            shown[job.id] = len(stories[job.id])
        if found and all(job.state in ENDED for job in found):
            return found
        time.sleep(0.3)
    raise PeerAway(f"the jobs did not end within {_DONE_WITHIN:g} s: see `pacs-node status`")


def _report(services: Services, ended: list[Job], received: Path, folder: Path, began: float) -> bool:
    """Print the table, the results and the pictures; return whether all of it is as it must be."""
    files = sorted(received.glob("*.dcm"))
    kinds = {path: str(dcmread(path, stop_before_pixels=True).Modality) for path in files}
    segs, reports, pages = ([path for path in files if kinds[path] == kind] for kind in ("SEG", "SR", "OT"))
    done = sum(job.state is JobState.DONE for job in ended)
    checks = [
        Check(what="jobs done", truth="2", found=str(done), good=done == len(ended) == 2),
        Check(what="SEG and SR in the PACS", truth="2 + 2", found=f"{len(segs)} + {len(reports)}",
              good=len(segs) == len(reports) == 2),
        Check(what="pages in the PACS", truth="4", found=str(len(pages)), good=len(pages) == 4),
        *_against_truth(segs, reports),
    ]  # fmt: skip
    pictures = _keep_pictures(services, ended, folder / "pictures")
    checks.append(Check(what="overlay pictures", truth="6 or more", found=str(len(pictures)), good=len(pictures) >= 6))
    table = Table("", "the phantom contains", "came back", "")
    for check in checks:
        table.add_row(check.what, check.truth, check.found, "[green]good[/]" if check.good else "[red]WRONG[/]")
    out.print(table)
    for path in (*segs, *reports, *pages):
        header = dcmread(path, stop_before_pixels=True)
        out.print(f"{header.Modality:<4}{header.SeriesDescription}: {path}", highlight=False, soft_wrap=True)
    for path in pictures:
        out.print(f"PNG {path}", highlight=False, soft_wrap=True)
    _explain(services, folder)
    good = all(check.good for check in checks)
    _say(began, "[green]all of it is true[/]" if good else "[red]something is wrong: see the table[/]")
    return good


def _against_truth(segs: list[Path], reports: list[Path]) -> list[Check]:
    truth = thorax_phantom()
    segments = [segment for path in segs for segment in read_segments(path)]
    measures = [measure for path in reports for measure in read_measures(path)]
    nodules = [segment for segment in segments if "nodule" in segment.label.lower()]
    diameters = [m.value for m in measures if "diameter" in m.name.lower()]
    return [
        _lung_check(truth, truth.left_lung, "Left", segments),
        _lung_check(truth, truth.right_lung, "Right", segments),
        _airways_check(truth, segments),
        *(_nodule_check(ball, nodules, diameters) for ball in truth.nodules),
        Check(what="nodules in all", truth=str(len(truth.nodules)), found=str(len(nodules)),
              good=len(nodules) == len(truth.nodules)),
    ]  # fmt: skip


def _lung_check(truth: Phantom, mask: Mask, side: str, segments: list[ReadSegment]) -> Check:
    wanted = float(mask.sum()) * truth.voxel_ml
    mine = [s for s in segments if s.label.lower().startswith(side.lower()) and "lung" in s.label.lower()]
    if len(mine) != 1:
        return Check(what=f"{side} lung", truth=f"{wanted:.0f} mL", found=f"{len(mine)} segments", good=False)
    on_its_side = mine[0].centre_mm[0] > 0 if side == "Left" else mine[0].centre_mm[0] < 0
    close = abs(mine[0].volume_ml - wanted) <= _VOLUME_TOLERANCE * wanted
    found = f"{mine[0].volume_ml:.0f} mL, {'on its side' if on_its_side else 'ON THE WRONG SIDE'}"
    return Check(what=f"{side} lung", truth=f"{wanted:.0f} mL", found=found, good=close and on_its_side)


def _airways_check(truth: Phantom, segments: list[ReadSegment]) -> Check:
    wanted = float(truth.airways.sum()) * truth.voxel_ml
    told = f"{wanted:.0f} mL"
    mine = [s for s in segments if s.label == "Airways"]
    if len(mine) != 1:
        return Check(what="airways", truth=told, found=f"{len(mine)} segments", good=False)
    middle = np.argwhere(truth.airways).mean(axis=0)  # (z, y, x)
    away = math.dist(mine[0].centre_mm, truth.affine[:3, :3] @ middle + truth.affine[:3, 3])
    close = abs(mine[0].volume_ml - wanted) <= _VOLUME_TOLERANCE * wanted
    found = f"{mine[0].volume_ml:.0f} mL, {away:.1f} mm from there"
    return Check(what="airways", truth=told, found=found, good=close and away <= _CENTRE_TOLERANCE)


def _nodule_check(ball: Ball, nodules: list[ReadSegment], diameters: list[float]) -> Check:
    def away(segment: ReadSegment) -> float:
        return math.dist(segment.centre_mm, ball.centre_mm)

    where = ", ".join(f"{v:.0f}" for v in ball.centre_mm)
    truth = f"{ball.diameter_mm:.1f} mm at ({where})"
    nearest = min(nodules, key=away, default=None)
    size = min(diameters, key=lambda value: abs(value - ball.diameter_mm), default=None)
    if nearest is None or size is None:
        return Check(what=f"nodule in the {ball.side}", truth=truth, found="nothing", good=False)
    good = away(nearest) <= _CENTRE_TOLERANCE and abs(size - ball.diameter_mm) <= _DIAMETER_TOLERANCE
    found = f"{size:.1f} mm, {away(nearest):.1f} mm from there"
    return Check(what=f"nodule in the {ball.side}", truth=truth, found=found, good=good)


def _keep_pictures(services: Services, ended: list[Job], folder: Path) -> list[Path]:
    folder.mkdir()
    kept = []
    for job in ended:
        for picture in sorted(services.store.pictures(job.id).glob("*.png")):
            kept.append(Path(shutil.copy(picture, folder / f"{job.model}-{picture.name}")))
    return kept


def _explain(services: Services, folder: Path) -> None:
    settings = services.settings
    out.print(f"page  http://127.0.0.1:{settings.web_port} while the node runs (make demo KEEP=1)", highlight=False)
    out.print(
        "your own scanner: pacs-node init --home NODE; name the scanner as a [[peer]] in NODE/pacs-node.toml; "
        "pacs-node up --home NODE; then add to the scanner: AE title PACSAINODE, this machine's address, port 11112",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    out.print(f"everything of this demo lies in {folder}", highlight=False, soft_wrap=True)


def _wait_for_ctrl_c() -> None:
    out.print("node and PACS stay up; Ctrl-C ends them")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        out.print("ending")
