"""How fast the listener takes instances, beside DCMTK, Orthanc and stock pynetdicom: `make bench-ingest`.

    python -m tests.benchmarks.ingest [--rounds 5] [--quick]

Each round starts each listener with an empty store, leaves it alone for five seconds, and has DCMTK's storescu bring
the same files: CT of 512 x 512 x 16 bit and MR of 64 x 64, over 1, 4 and 16 associations, and one multi-frame object.
Rates are instances a second from the start of the senders to the end of the last, medians over the rounds. Ours syncs
data, name and row before each answer, or its journal; DCMTK and pynetdicom sync nothing. The last line on stdout is one
JSON object; `x_vs` is our rate over theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil

from node.testing import part10, synthetic_ct
from tests.rig import free_port, need, running_orthanc, wait_for

_PYNETDICOM_TAKES = 10  # associations at once; its program has no option for more
_SETTLES = 5.0  # seconds in which each listener may make itself ready, as it has at any hospital
NODELAY = {**os.environ, "TCP_NODELAY": "1"}


@dataclass(frozen=True)
class Case:
    """Files that so many associations share among them."""

    name: str
    count: int
    size: int  # rows and columns
    associations: int
    frames: int = 1


@dataclass(frozen=True)
class Station:
    """A listener."""

    port: int
    called: str
    process: psutil.Process


def cases(quick: bool) -> list[Case]:
    """Return what is sent."""
    ct, mr, frames = (60, 200, 200) if quick else (300, 1000, 1000)
    return [
        Case("ct_1assoc", ct, 512, 1), Case("ct_4assoc", ct, 512, 4), Case("ct_16assoc", ct, 512, 16),
        Case("small_1assoc", mr, 64, 1), Case("small_4assoc", mr, 64, 4), Case("big", 1, 512, 1, frames=frames),
    ]  # fmt: skip


def make(case: Case, number: int, folder: Path) -> None:
    """Write a case's files, a folder for each association, with pixels that do not compress."""
    images = synthetic_ct(slices=case.count, rows=8, columns=8, uid_prefix=f"2.25.{9000 + number}")
    noise = np.random.default_rng(number).integers(0, 4096, case.frames * case.size**2, dtype=np.int16)
    for place, image in enumerate(images):
        image.Rows = image.Columns = case.size
        if case.frames > 1:
            image.NumberOfFrames = case.frames
        image.PixelData = np.roll(noise, place).tobytes()
        target = folder / case.name / str(place % case.associations)
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{place:05}.dcm").write_bytes(part10(image))


@contextmanager
def ours(folder: Path, log: BinaryIO | None = None) -> Iterator[Station]:
    """Run our listener; what it logs may be kept."""
    port = free_port()
    given = {"HOME": folder, "PORT": port, "HOST": "127.0.0.1", "ACCEPT_UNKNOWN_SENDERS": "true"}
    environment = {**os.environ, **{f"PACS_NODE_{name}": str(value) for name, value in given.items()}}
    node = [sys.executable, "-m", "node.cli"]
    subprocess.run([*node, "migrate"], env=environment, check=True, capture_output=True)
    with _running([*node, "scp"], port, environment, log) as station:
        yield station


@contextmanager
def dcmtk(folder: Path) -> Iterator[Station]:
    """Run DCMTK's storescp, a process for each association."""
    port = free_port()
    folder.mkdir()
    with _running(["/usr/bin/storescp", "--fork", "-od", str(folder), str(port)], port, NODELAY) as station:
        yield station


@contextmanager
def pynetdicom(folder: Path) -> Iterator[Station]:
    """Run pynetdicom's storescp."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(folder), "-q"]
    with _running(command, port, NODELAY) as station:
        yield station


@contextmanager
def orthanc(folder: Path) -> Iterator[Station]:
    """Run Orthanc as Debian packs it."""
    os.environ["TCP_NODELAY"] = "1"
    folder.mkdir()
    with running_orthanc(folder) as server:
        yield Station(server.dicom, server.ae_title, psutil.Process(server.process.pid))


@contextmanager
def _running(
    command: list[str], port: int, environment: dict[str, str], log: BinaryIO | None = None
) -> Iterator[Station]:
    where = log or subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=where, stderr=where)
    try:
        echo = [need("echoscu"), "-aec", "PACSAINODE", "127.0.0.1", str(port)]
        echo[0] = "/usr/bin/echoscu"  # pynetdicom installs a program of that name beside Python
        wait_for(command[0], lambda: subprocess.run(echo, capture_output=True, check=False).returncode == 0)
        yield Station(port, "PACSAINODE", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=60)


STATIONS: dict[str, Callable[..., object]] = {
    "ours": ours, "dcmtk": dcmtk, "orthanc": orthanc, "pynetdicom": pynetdicom,
}  # fmt: skip


def send(station: Station, case: Case, data: Path) -> float:
    """Send a case; return instances a second. A sender that fails ends the benchmark."""
    peer = ["-aec", station.called, "127.0.0.1", str(station.port)]
    folders = sorted((data / case.name).iterdir())
    began = time.perf_counter()
    senders = [subprocess.Popen(["/usr/bin/storescu", "+sd", *peer, str(one)], env=NODELAY) for one in folders]
    failed = [sender.wait() for sender in senders]
    took = time.perf_counter() - began
    if any(failed):
        raise SystemExit(f"storescu failed: {failed}")
    return case.count / took


def main() -> None:
    """Send, compare, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a fifth of the files")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = defaultdict(list)
    memory = 0
    with tempfile.TemporaryDirectory(prefix="pacs-node-ingest-") as place:
        folder, wanted = Path(place), cases(asked.quick)
        for number, case in enumerate(wanted):
            make(case, number, folder / "data")
        for turn in range(asked.rounds):
            for name, run in STATIONS.items():
                home = folder / f"{name}-{turn}"
                with run(home) as station:  # type: ignore[attr-defined]
                    time.sleep(_SETTLES)
                    mine = [one for one in wanted if name != "pynetdicom" or one.associations <= _PYNETDICOM_TAKES]
                    for case in mine:
                        rates[f"{name}_{case.name}"].append(send(station, case, folder / "data"))
                    if name == "ours":
                        memory = max(memory, _peak(station.process))
                subprocess.run(["rm", "-rf", str(home)], check=True)
                last = " ".join(f"{case.name} {rates[f'{name}_{case.name}'][-1]:.1f}" for case in mine)
                sys.stdout.write(f"round {turn + 1}: {name} {last}\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps(report(rates, memory, asked.rounds)) + "\n")


def _peak(process: psutil.Process) -> int:
    """Return the most memory that a process ever held, MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) >> 10


def report(rates: dict[str, list[float]], memory: int, rounds: int) -> dict[str, object]:
    """Return medians and ratios."""
    middle = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    ratios = {
        f"{case}_x_vs_{other}": round(middle[f"ours_{case}"] / middle[f"{other}_{case}"], 2)
        for case in ("ct_1assoc", "ct_4assoc", "ct_16assoc", "small_1assoc", "small_4assoc", "big")
        for other in ("dcmtk", "orthanc", "pynetdicom")
        if f"{other}_{case}" in middle
    }
    return {
        **ratios, "rates": middle, "peak_mib": memory, "rounds": rounds, "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
