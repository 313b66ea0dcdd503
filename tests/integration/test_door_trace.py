"""What the system was asked to do before each success: seen from outside the process, by strace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from node.testing import synthetic_ct, write_series
from tests.integration.test_door_limits import _listens
from tests.integration.test_scp import dcmtk
from tests.rig import free_port, need, wait_for

pytestmark = pytest.mark.slow

INSTANCES = 50
CALL = re.compile(r"^\d+ +(\w+)\((.*)")
STORE_ANSWER = r"\4\0\0\0\0"  # a P-DATA-TF PDU of less than 256 bytes, as strace writes it


def traced(tmp_path: Path, *, journal_mib: int) -> list[str]:
    """Have DCMTK store instances into a listener under strace; return the calls that it made."""
    port, home, log = free_port(), tmp_path / "home", tmp_path / "trace"
    given = {"HOME": home, "PORT": port, "HOST": "127.0.0.1", "ACCEPT_UNKNOWN_SENDERS": "true"}
    given["JOURNAL_MIB"] = journal_mib
    environment = {**os.environ, **{f"PACS_NODE_{name}": str(value) for name, value in given.items()}}
    node = [sys.executable, "-m", "node.cli"]
    subprocess.run([*node, "migrate"], env=environment, check=True, capture_output=True)
    calls = "trace=fsync,fdatasync,rename,sendto,pwritev,pwritev2"
    command = [need("strace"), "-f", "-y", "-e", calls, "-o", str(log), *node, "scp"]
    listener = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for("the door to open", lambda: _listens(port))
        write_series(synthetic_ct(slices=INSTANCES, rows=64, columns=64), tmp_path / "series")
        send = [dcmtk("storescu"), "-aec", "PACSAINODE", "+sd", "127.0.0.1", str(port), str(tmp_path / "series")]
        subprocess.run(send, check=True, capture_output=True, timeout=150)
    finally:
        psutil.Process(listener.pid).children()[0].terminate()
        listener.wait(timeout=60)
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def steps_of(lines: list[str]) -> list[str]:
    """Return what the calls are of, in order."""
    return [step for line in lines if (step := _step(line))]


def test_without_a_journal_data_name_and_row_are_synced_before_each_success(tmp_path: Path) -> None:
    """Fifty stores on one association: between two answers lie all three syncs and the rename, in their order."""
    whole: list[list[str]] = [[]]
    for step in steps_of(traced(tmp_path, journal_mib=0)):
        if step == "answer":
            whole.append([])
        else:
            whole[-1].append(step)
    whole.pop()
    assert len(whole) == INSTANCES
    assert {tuple(_last_of_each(one)) for one in whole} == {("data", "rename", "folder", "row")}


def test_the_journal_is_written_and_synced_before_each_success(tmp_path: Path) -> None:
    """Its own name is safe before the first; then each instance before its answer; then all are filed."""
    steps = steps_of(traced(tmp_path, journal_mib=64))
    begin = steps.index("journal written")
    assert steps.index("journal's folder") < begin
    answers = [place for place, step in enumerate(steps) if step == "answer"]
    assert len(answers) == INSTANCES
    for place, before in zip(answers, [0, *answers], strict=False):
        between = steps[before:place]
        assert "journal" in between[between.index("journal written") :]
    filed = [step for step in steps if step in {"data", "rename", "folder", "row"}]
    assert filed.count("data") == filed.count("rename") == INSTANCES
    last = {step: len(filed) - filed[::-1].index(step) for step in filed}
    assert last["data"] < last["rename"] < last["folder"] < last["row"]


def _step(line: str) -> str:
    """Return what a call is of, or nothing where it is none of ours."""
    found = CALL.match(line)
    if found is None:
        return ""
    name, rest = found.groups()
    if name == "sendto":
        return "answer" if f'"{STORE_ANSWER}' in rest else ""
    if name.startswith("pwritev"):
        return "journal written"
    if name == "rename":
        return "rename" if "/incoming/" in rest else ""
    if rest.rstrip().endswith("= -1"):
        return ""
    file = rest.partition("<")[2].partition(">")[0]
    kinds = {
        "data": file.endswith(".part"), "row": "node.db" in file, "folder": "/instances/" in file,
        "journal": file.endswith(".journal"), "journal's folder": file.endswith("/store/journal"),
    }  # fmt: skip
    return next((kind for kind, fits in kinds.items() if fits), "")


def _last_of_each(steps: list[str]) -> list[str]:
    """Return the kinds of steps in the order in which each was done for the last time."""
    return sorted(set(steps), key=lambda step: len(steps) - steps[::-1].index(step))
