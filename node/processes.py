"""Who a process is, so that another process on the same machine can tell whether it still lives."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path


def identity(role: str) -> str:
    """Return a name for this process that no other process, before or after it, has."""
    pid = os.getpid()
    return f"{role}@{socket.gethostname()}:{_boot_id()}:{pid}:{_started(pid)}"


def is_dead(owner: str) -> bool:
    """Return whether *owner* ran on this machine and runs no more; False where that cannot be known."""
    try:
        _, place = owner.split("@", 1)
        host, boot, number, started = place.rsplit(":", 3)
        pid = int(number)
    except ValueError:
        return False
    if host != socket.gethostname():
        return False
    if boot.split("-")[0] != _boot_id().split("-")[0]:
        return True  # the machine has started anew since
    if boot != _boot_id():
        return False  # another container of this machine: its process ids mean nothing here; the lease decides
    return _started(pid) != started


def _boot_id() -> str:
    """Return what tells this boot of the machine, and this process namespace of it, from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino:x}"


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot, or "" where there is none or only its corpse."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()  # after the command's name, which may hold anything
    return "" if fields[0] in "ZX" else fields[19]  # proc(5): state is field 3, starttime is field 22


def end_with_parent(parent: int) -> None:
    """Ask this process to stop, as SIGTERM would, once its *parent* is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; call it from the main thread."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
