"""The test stand: a node, a real Orthanc behind a bad line, a real PostgreSQL if asked; each can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from node.bootstrap import Services, build
from node.settings import load_settings
from node.supervisor import running_roles
from tests.chaos.proxy import Proxy
from tests.rig import Orthanc, Postgres, free_port, listens, running_orthanc, running_postgres, wait_for

RULES = '[[rule]]\nname = "lungs"\nmodel = "ct-lung"\nmodality = ["CT"]\nmin_slices = 12\ndestinations = ["pacs"]\n'

#: How often each part is chosen, of their sum.
VICTIMS = {
    "scp": 6, "sweep": 6, "web": 1, "worker-gpu-1": 5, "child": 4, "worker-io-1": 6, "redis": 5, "up": 1, "pacs": 2,
    "postgres": 3,
}  # fmt: skip


@dataclass
class Stand:
    """Everything that runs, and how each of it is killed and comes back."""

    folder: Path
    orthanc: Orthanc
    proxy: Proxy
    postgres: Postgres | None
    failpoints: Path | None = None
    log: Path | None = None  # none: a file in the folder
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    modality_port: int = field(default_factory=free_port)  # where the modality takes reports, if it does
    process: subprocess.Popen[bytes] | None = None
    called: str = "PACSAINODE"

    @property
    def home(self) -> Path:
        """The node's home."""
        return self.folder / "home"

    def write_settings(self) -> None:
        """Write the node's configuration: short times, many attempts, one destination behind the proxy."""
        self.home.mkdir(parents=True, exist_ok=True)
        lines = [
            'host = "127.0.0.1"', f"port = {self.port}", f"web_port = {self.web_port}", "quiet_period = 4",
            "sweep_interval = 0.5", "min_free_bytes = 0", "retry_base = 1", "retry_cap = 4", "max_attempts = 20",
            "drain_time = 10", "lease = 20", "heartbeat = 0.5",
        ]  # fmt: skip
        if self.postgres is not None:
            lines.append(f'database_url = "{self.postgres.url("node")}"')
        lines.append(f'[[peer]]\nname = "ct"\nae_title = "CHAOSCT"\nport = {self.modality_port}\ntimeout = 5')
        lines.append(
            f'[[peer]]\nname = "pacs"\nae_title = "{self.orthanc.ae_title}"\nport = {self.proxy.port}\ntimeout = 5'
        )
        (self.home / "pacs-node.toml").write_text("\n".join([*lines, RULES]) + "\n", encoding="utf-8")

    def up(self) -> None:
        """Start the node and wait until it takes associations."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PACS_NODE_")}
        if self.failpoints is not None:
            environment["PACS_NODE_FAILPOINTS"] = str(self.failpoints)
        with (self.log or self.folder / "node.log").open("ab") as log:
            command = [sys.executable, "-m", "node.cli", "up", "--home", str(self.home), "--parent", str(os.getpid())]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for("the node's DICOM port", lambda: listens(self.port) or self.gone, limit=60)

    @property
    def gone(self) -> bool:
        """Whether the supervisor is no more."""
        return self.process is None or self.process.poll() is not None

    def down(self) -> None:
        """Stop the node as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=60)
        if not self.gone:
            self.kill("up")

    def services(self) -> Services:
        """Return services over the node's own database, for looking."""
        return build(load_settings(self.home), "chaos")

    def kill(self, victim: str) -> bool:
        """kill -9 *victim*; return False where it does not run just now."""
        if victim == "postgres":
            if self.postgres is None:
                return False
            self.postgres.kill()
            self.postgres.start()
            return True
        if victim == "pacs":
            self.orthanc.process.kill()
            self.orthanc.process.wait()
            with (self.folder / "orthanc.log").open("ab") as log:
                command = ["Orthanc", str(self.folder / "orthanc.json")]  # over the same store
                self.orthanc.process = subprocess.Popen(command, stdout=log, stderr=log)
            return True
        try:
            return self._kill_role(victim)
        except (psutil.NoSuchProcess, OSError, ValueError):
            return False

    def _kill_role(self, victim: str) -> bool:
        if victim == "up":
            if self.process is None or self.gone:
                return False
            self.process.kill()
            self.process.wait()
            return True
        pid = running_roles(self.home).get("worker-gpu-1" if victim == "child" else victim)
        if pid is None:
            return False
        process = psutil.Process(pid)
        if victim == "child":
            children = [one for one in process.children() if "spawn_main" in " ".join(one.cmdline())]
            for one in children:
                one.kill()
            return bool(children)
        process.kill()  # what hangs on it ends by itself
        return True


@contextmanager
def running_stand(
    folder: Path, *, seed: int = 1, bad: bool = False, db: str = "sqlite", failpoints: Path | None = None,
    log: Path | None = None,
) -> Iterator[Stand]:
    """Start everything, the line to the PACS *bad* or good, and end it at the end."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres()) if db == "postgres" else None
        orthanc = stack.enter_context(running_orthanc(folder))
        proxy = Proxy(orthanc.dicom, seed)
        proxy.bad = bad
        stack.callback(proxy.close)
        stand = Stand(folder, orthanc, proxy, postgres, failpoints=failpoints, log=log)
        stand.write_settings()
        stack.callback(stand.down)
        stand.up()
        yield stand
