"""Who a process is, and whether it still lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from node.processes import identity, is_dead

SAY_WHO = "import sys, time; from node.processes import identity; print(identity('w'), flush=True); time.sleep(60)"


def test_we_ourselves_are_alive() -> None:
    """The same name each time, and not dead."""
    assert identity("gpu") == identity("gpu")
    assert not is_dead(identity("gpu"))


def test_a_killed_process_is_dead_at_once_even_before_it_is_buried() -> None:
    """kill -9: a corpse that its parent has not waited for runs no more."""
    process = subprocess.Popen([sys.executable, "-c", SAY_WHO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        owner = process.stdout.readline().strip()
    assert not is_dead(owner)
    process.kill()
    deadline = time.monotonic() + 5
    while not is_dead(owner) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_dead(owner)  # a zombie: nobody has waited for it
    process.wait()
    assert is_dead(owner)


def test_a_reused_process_id_is_not_the_old_process() -> None:
    """Our own id with another start time is somebody who is gone."""
    role, pid, _ = identity("gpu").rsplit(":", 2)
    assert is_dead(f"{role}:{pid}:1")


def test_a_process_from_before_the_last_boot_is_dead() -> None:
    """Whatever its process id is now."""
    place, _, pid, started = identity("gpu").rsplit(":", 3)
    assert is_dead(f"{place}:00000000:{pid}:{started}")


def test_a_process_of_another_container_of_this_machine_may_well_live() -> None:
    """The same host name and boot, but process ids of another namespace: its lease decides."""
    place, boot, pid, started = identity("gpu").rsplit(":", 3)
    assert not is_dead(f"{place}:{boot.split('-')[0]}-1:{pid}:{started}")


@pytest.mark.parametrize(
    "owner", ["", "somebody", "gpu@elsewhere:1234:1:1", f"gpu@{os.uname().nodename}:b:no:1", "a@b"]
)
def test_what_cannot_be_known_is_not_called_dead(owner: str) -> None:
    """Another machine's worker, or a name that is none of ours: its lease decides."""
    assert not is_dead(owner)


def test_a_process_ends_with_its_parent() -> None:
    """The child hears SIGTERM once the parent is gone, so that no role outlives its supervisor."""
    child = (
        "import os, signal, sys, time; from node.processes import end_with_parent;"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), os._exit(0)));"
        "end_with_parent(os.getppid()); print('ready', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout.readline() == "told\n"
