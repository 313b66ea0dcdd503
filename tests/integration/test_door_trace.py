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


def traced(tmp_path: Path) -> list[str]:
    """Have DCMTK store instances into a listener under strace; return the calls that it made."""
    port, home, log = free_port(), tmp_path / "home", tmp_path / "trace"
    given = {"HOME": home, "PORT": port, "HOST": "127.0.0.1", "ACCEPT_UNKNOWN_SENDERS": "true"}
    environment = {**os.environ, **{f"PACS_NODE_{name}": str(value) for name, value in given.items()}}
    node = [sys.executable, "-m", "node.cli"]
    subprocess.run([*node, "migrate"], env=environment, check=True, capture_output=True)
    calls = "trace=fsync,fdatasync,rename,sendto"
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


def test_data_name_and_row_are_synced_before_each_success(tmp_path: Path) -> None:
    """Fifty stores on one association: between two answers lie all three syncs and the rename, in their order."""
    steps: list[list[str]] = [[]]
    for line in traced(tmp_path):
        step = _step(line)
        if step == "answer":
            steps.append([])
        elif step:
            steps[-1].append(step)
    whole = [_last_of_each(one) for one in steps[:-1]]
    assert len(whole) == INSTANCES
    assert {tuple(one) for one in whole} == {("data", "rename", "folder", "row")}


def _step(line: str) -> str:
    """Return what a call is of, or nothing where it is none of ours."""
    found = CALL.match(line)
    if found is None:
        return ""
    name, rest = found.groups()
    if name == "sendto":
        return "answer" if f'"{STORE_ANSWER}' in rest else ""
    if name == "rename":
        return "rename" if "/incoming/" in rest else ""
    if rest.rstrip().endswith("= -1"):
        return ""
    file = rest.partition("<")[2].partition(">")[0]
    kinds = {"data": file.endswith(".part"), "row": "node.db" in file, "folder": "/instances/" in file}
    return next((kind for kind, fits in kinds.items() if fits), "")


def _last_of_each(steps: list[str]) -> list[str]:
    """Return the kinds of steps in the order in which each was done for the last time."""
    return sorted(set(steps), key=lambda step: len(steps) - steps[::-1].index(step))
