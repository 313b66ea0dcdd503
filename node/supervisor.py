"""`pacs-node up`: every role of the node on one machine, each in a process of its own, started again when it dies."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from node import embedded_redis
from node.bootstrap import prepare
from node.errors import NodeError, SettingsError
from node.processes import stop_event
from node.settings import Settings

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.3  # seconds
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a dead role is started again; doubles
_STEADY = 10.0  # seconds after which a role's earlier deaths are forgotten: what was killed comes back at once
_STOP_FIRST, _STOP_LAST = ("scp", "sweep", "worker-gpu", "worker-io"), ("web",)


@dataclass(kw_only=True)
class Role:
    """One supervised process."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    wait: float = _FIRST_WAIT
    restart_at: float = 0.0

    def put_off(self, now: float) -> None:
        """Start it again after its wait, which doubles."""
        self.restart_at, self.wait = now + self.wait, min(self.wait * 2, _LONGEST_WAIT)


class Supervisor:
    """Starts the roles, watches them, and stops them in an order that loses no work."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._roles: list[Role] = []
        self._stopped = stop_event()

    def run(self) -> None:
        """Run until SIGINT or SIGTERM, then drain."""
        with _only_one(self._settings.home):
            prepare(self._settings)
            try:
                for name, start in self._plan():
                    self._roles.append(Role(name=name, start=start, process=start()))
                self._write_state()
                log.info("node is up", extra={"home": self._settings.home, "port": self._settings.port})
                while not self._stopped.wait(_LOOK_EVERY):
                    self._look()
            finally:
                self._drain()

    def _plan(self) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
        settings = self._settings
        if not settings.broker_url.get_secret_value():
            yield "redis", lambda: embedded_redis.start(settings.redis_socket)
        yield "scp", _starter(settings, "node.scp")
        for name in ("web", "sweep"):
            yield name, _starter(settings, "node.cli", name)
        for queue, count in (("gpu", settings.gpu_workers), ("io", settings.io_workers)):
            for number in range(1, count + 1):
                yield f"worker-{queue}-{number}", _starter(settings, "workers", "worker", "--queue", queue)

    def _look(self) -> None:
        """Start again what has died, each time a little later."""
        now = time.monotonic()
        for role in self._roles:
            if role.process.poll() is None:
                continue
            if not role.restart_at:
                role.wait = _FIRST_WAIT if now - role.started > _STEADY else role.wait
                code = role.process.returncode
                log.error("a role died", extra={"role_name": role.name, "code": code, "again_in": role.wait})
                role.put_off(now)
            elif now >= role.restart_at:
                self._start_again(role, now)

    def _start_again(self, role: Role, now: float) -> None:
        """Start a dead role; where that fails, the others run on and it is tried again."""
        try:
            role.process = role.start()
        except (NodeError, OSError) as why:
            log.error("a role does not start", extra={"role_name": role.name, "why": why, "again_in": role.wait})
            role.put_off(now)
            return
        role.started, role.restart_at = now, 0.0
        self._write_state()

    def _drain(self) -> None:
        """Take no more, finish what runs, then stop the rest; a second signal ends everything at once."""
        self._stopped.clear()
        log.info("draining: running work may take up to %g s; stop again to end it now", self._limit)
        self._stop([role for role in self._roles if role.name.startswith(_STOP_FIRST)], self._limit)
        self._stop([role for role in self._roles if role.name.startswith(_STOP_LAST)], 5.0)
        self._stop([role for role in self._roles if role.name == "redis"], 5.0)
        _state_file(self._settings.home).unlink(missing_ok=True)
        log.info("node is down")

    @property
    def _limit(self) -> float:
        return self._settings.drain_time.total_seconds()

    def _stop(self, roles: list[Role], limit: float) -> None:
        for role in roles:
            if role.process.poll() is None:
                role.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + limit
        while any(role.process.poll() is None for role in roles):
            if time.monotonic() > deadline or self._stopped.wait(0.1):
                break
        for role in roles:
            if role.process.poll() is None:
                log.warning("killed", extra={"role_name": role.name})
                role.process.kill()
                role.process.wait()

    def _write_state(self) -> None:
        state = {"supervisor": os.getpid(), **{role.name: role.process.pid for role in self._roles}}
        file = _state_file(self._settings.home)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(state), encoding="ascii")
        part.replace(file)


def running_roles(home: Path) -> dict[str, int]:
    """Return name -> process id of what `pacs-node up` runs for *home*, living ones only."""
    file = _state_file(home)
    if not file.is_file():
        return {}
    pids = {str(name): int(pid) for name, pid in json.loads(file.read_text(encoding="ascii")).items()}
    return {name: pid for name, pid in pids.items() if Path(f"/proc/{pid}").exists()}


def _state_file(home: Path) -> Path:
    return home / "run" / "up.json"


def _starter(settings: Settings, module: str, *words: str) -> Callable[[], subprocess.Popen[bytes]]:
    if module == "workers" and importlib.util.find_spec("torch") is None and words[-1] == "gpu":
        raise SettingsError("models need the worker extra: pip install 'pacs-ai-node[worker]', or set gpu_workers = 0")
    line = [sys.executable, "-m", module, *words, "--home", str(settings.home), "--parent", str(os.getpid())]
    return lambda: subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home folder's lock: two supervisors over one home would fight for its port and its Redis."""
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise SettingsError(f"a node is already up in {home}: see `pacs-node status`") from why
        yield
