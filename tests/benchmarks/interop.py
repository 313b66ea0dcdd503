"""pynetdicom's own scenarios against this node and against pynetdicom's storescp: `make bench-interop`.

    python -m tests.benchmarks.interop [--count 1000]

A thousand instances over one association, a thousand associations of one instance each, ten associations of a thousand
instances at once. DCMTK's storescu brings the first and the third; the second is spoken byte by byte in this process,
so that no start of a program is measured. What was acknowledged is then looked for: a row whose file has its digest
here, a file there. Exit code 1: something of ours is lost or doubled, or was not acknowledged. The last line on stdout
is one JSON object; `x` is our rate over theirs. Ours syncs data, name and row before each answer, pynetdicom nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from node.db.session import Database, open_engine
from node.db.tables import InstanceRow
from node.store import Store
from node.testing import part10, synthetic_ct
from tests.benchmarks.ingest import NODELAY, Station, ours, pynetdicom
from tests.peers import CT, EXPLICIT, Raw, associate_rq, p_data, pdu, store_command

_AT_ONCE = 10
_SIZE = 64  # rows and columns
_STUDY, _IMAGE = "2.25.8800000000", "2.25.9900000000"  # stand in the pattern, as long as what takes their place
_RELEASE, _RELEASED = 5, 6


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scenario: its senders share the files of its folder, one folder each."""

    name: str
    folder: Path
    senders: int
    each: int  # instances that a sender sends
    send: Callable[[Station, Scene], set[str]]  # returns what was acknowledged, SOP Instance UIDs

    @property
    def count(self) -> int:
        """Instances in all."""
        return self.senders * self.each


def make(scene: Scene, number: int, pattern: bytes) -> None:
    """Write the files of a scene: one study, each instance of its own name."""
    study = f"2.25.88{number:08}"
    for place in range(scene.count):
        uid = f"2.25.99{number:02}{place:06}"
        folder = scene.folder / f"{place // scene.each:04}"
        folder.mkdir(parents=True, exist_ok=True)
        data = pattern.replace(_STUDY.encode(), study.encode()).replace(_IMAGE.encode(), uid.encode())
        (folder / f"{uid}.dcm").write_bytes(data)


def by_storescu(station: Station, scene: Scene) -> set[str]:
    """Have one storescu for each folder, all at once; return what it was told to be stored."""
    peer = ["-aec", station.called, "127.0.0.1", str(station.port)]
    folders = sorted(scene.folder.iterdir())
    logs = [folder.parent.with_name(f"{scene.name}-{folder.name}.log") for folder in folders]
    senders = []
    for folder, log in zip(folders, logs, strict=True):
        with log.open("w") as said:
            command = ["/usr/bin/storescu", "-v", "-nh", "+sd", *peer, str(folder)]
            senders.append(subprocess.Popen(command, env=NODELAY, stdout=said, stderr=said))
    for sender in senders:
        sender.wait()
    return {uid for log in logs for uid in _acknowledged(log.read_text())}


def _acknowledged(said: str) -> list[str]:
    uid, found = "", []
    for line in said.splitlines():
        if "Sending file:" in line:
            uid = Path(line.split("Sending file:")[1].strip()).stem
        elif "Received Store Response (Success)" in line:
            found.append(uid)
    return found


def one_by_one(station: Station, scene: Scene) -> set[str]:
    """Open an association for each instance, one after the other."""
    found = set()
    request = associate_rq((1, CT, (EXPLICIT,)), calling=b"BENCH", called=station.called.encode())
    for file in sorted(scene.folder.rglob("*.dcm")):
        data = file.read_bytes()
        body = data[144 + int.from_bytes(data[140:144], "little") :]
        peer = Raw(station.port, request)
        try:
            if peer.answer()[0] != 2:
                continue
            peer.send(p_data(1, 3, store_command(file.stem.encode())) + p_data(1, 2, body))
            if peer.status() == 0:
                found.add(file.stem)
            peer.send(pdu(_RELEASE, bytes(4)))
            if peer.answer()[0] != _RELEASED:
                raise SystemExit("an association was not released")
        finally:
            peer.close()
    return found


def look_here(home: Path, acknowledged: set[str]) -> tuple[int, int]:
    """Return how many acknowledged instances are not in table and store as they should be, and how many are twice."""
    engine = open_engine(f"sqlite:///{home / 'node.db'}")
    try:
        with Database(engine).reading() as session:
            rows = session.execute(select(InstanceRow.sop_uid, InstanceRow.path, InstanceRow.content_sha)).all()
    finally:
        engine.dispose()
    store = Store(home / "store")
    whole = {uid for uid, path, digest in rows if store.verify(path, digest)}
    twice = [uid for uid, count in Counter(row[0] for row in rows).items() if count > 1]
    return len(acknowledged - whole), len(twice)


def look_there(folder: Path, acknowledged: set[str]) -> tuple[int, int]:
    """Return the same of pynetdicom's files, which bear the SOP Instance UID in their names."""
    names = Counter(file.name.partition(".")[2].removesuffix(".dcm") for file in folder.rglob("*") if file.is_file())
    return len(acknowledged - names.keys()), sum(count > 1 for count in names.values())


def scenes_in(scratch: Path, count: int) -> list[Scene]:
    """Return the scenarios, their files written."""
    scenes = [
        Scene(name="one_association", folder=scratch / "a", senders=1, each=count, send=by_storescu),
        Scene(name="one_each", folder=scratch / "b", senders=count, each=1, send=one_by_one),
        Scene(name="ten_at_once", folder=scratch / "c", senders=_AT_ONCE, each=count, send=by_storescu),
    ]
    (image,) = synthetic_ct(slices=1, rows=_SIZE, columns=_SIZE)
    image.StudyInstanceUID, image.SOPInstanceUID = _STUDY, _IMAGE
    image.file_meta.MediaStorageSOPInstanceUID = _IMAGE
    for number, scene in enumerate(scenes):
        make(scene, number, part10(image))
    return scenes


def measure(name: str, station: Station, scenes: Sequence[Scene]) -> tuple[dict[str, float], dict[str, set[str]]]:
    """Send every scene; return instances a second, and what was acknowledged."""
    rates, told = {}, {}
    for scene in scenes:
        began = time.perf_counter()
        told[scene.name] = scene.send(station, scene)
        took = time.perf_counter() - began
        rates[scene.name] = len(told[scene.name]) / took
        sys.stdout.write(f"{name} {scene.name}: {len(told[scene.name])} of {scene.count} in {took:.1f} s\n")
        sys.stdout.flush()
    return rates, told


def main() -> None:
    """Send, look, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.interop")
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    figures: dict[str, float | str] = {"bench": "interop", "count": count}
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="pacs-node-interop-") as place:
        scratch = Path(place)
        scenes = scenes_in(scratch, count)
        for name, run, look in (("ours", ours, look_here), ("pynetdicom", pynetdicom, look_there)):
            with run(scratch / name) as station:
                rates[name], told = measure(name, station, scenes)
            figures |= {f"{name}_{scene}_acked": len(uids) for scene, uids in told.items()}
            lost, doubled = look(scratch / name, set().union(*told.values()))
            figures |= {f"{name}_lost": lost, f"{name}_doubled": doubled}
    for scene in scenes:
        mine, theirs = rates["ours"][scene.name], rates["pynetdicom"][scene.name]
        figures |= {f"{scene.name}_rate": round(mine, 1), f"{scene.name}_x": round(mine / theirs, 2)}
    figures |= {"cpus": os.cpu_count() or 0, "machine": platform.machine()}
    sys.stdout.write(json.dumps(figures) + "\n")
    whole = all(figures[f"ours_{scene.name}_acked"] == scene.count for scene in scenes)
    sys.exit(0 if whole and not figures["ours_lost"] and not figures["ours_doubled"] else 1)


if __name__ == "__main__":
    main()
