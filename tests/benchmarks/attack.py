"""One honest sender while the door is attacked, beside a quiet hour: `make bench-attack`.

    python -m tests.benchmarks.attack [--instances 300]

Attackers on the same machine and from the sender's own address: 1,000 connections that say nothing, 1,000 with half an
A-ASSOCIATE-RQ, 20 whose PDU claims 0xFFFFFFF0 bytes, and at the port for TLS 100 that say nothing, or half a record of
a handshake; each is opened again as soon as the door closes it. `acked` of the sender's instances, the 99th percentile
of its answers in the attack over that in peace (`p99_ratio`), by how much the listener grew, and what it logged
meanwhile. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import trustme

from node.testing import part10, synthetic_ct
from tests.benchmarks.ingest import Station, ours
from tests.peers import Raw, associate_rq, associated, p_data, pdu, store_command
from tests.rig import free_port

ATTACKS = ((1000, b""), (1000, associate_rq()[:60]), (20, pdu(1, b"", claim=0xFFFFFFF0)))
TLS_ATTACKS = ((50, b""), (50, b"\x16\x03\x01\x02\x00\x01"))
Way = tuple[int, bytes]  # a port, and what is said there


class Attackers(threading.Thread):
    """Holds so many connections of each kind, and opens anew what the door closes."""

    def __init__(self, port: int, tls_port: int) -> None:
        super().__init__(daemon=True)
        self._ways = [(count, (port, data)) for count, data in ATTACKS]
        self._ways += [(count, (tls_port, data)) for count, data in TLS_ATTACKS]
        self._selector = selectors.DefaultSelector()
        self._over, self.ready, self.opened = threading.Event(), threading.Event(), 0

    def run(self) -> None:
        """Attack until `stop`."""
        for count, way in self._ways:
            for _ in range(count):
                self._open(way)
        self.ready.set()
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1):
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                self._open(key.data)
            time.sleep(0.01)

    def stop(self) -> None:
        """Close everything."""
        self._over.set()
        self.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def _open(self, way: Way) -> None:
        port, data = way
        with suppress(OSError):
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            self.opened += 1
            one.sendall(data)
            self._selector.register(one, selectors.EVENT_READ, way)


def honest(station: Station, instances: int, prefix: str) -> tuple[int, list[float]]:
    """Store instances, an association for each hundred; return how many were acknowledged and each answer's seconds."""
    acked, took = 0, []
    images = synthetic_ct(slices=instances, rows=256, columns=256, uid_prefix=prefix)
    for start in range(0, instances, 100):
        peer = associated(station.port)
        for image in images[start : start + 100]:
            data = part10(image)
            body = data[144 + int.from_bytes(data[140:144], "little") :]
            pieces = [body[place : place + 100_000] for place in range(0, len(body), 100_000)]
            began = time.perf_counter()
            peer.send(p_data(1, 3, store_command(str(image.SOPInstanceUID).encode())))
            peer.send(*(p_data(1, 0, piece) for piece in pieces[:-1]), p_data(1, 2, pieces[-1]))
            acked += peer.status() == 0
            took.append(time.perf_counter() - began)
        _release(peer)
    return acked, took


def _release(peer: Raw) -> None:
    peer.send(pdu(5, bytes(4)))
    peer.answer()
    peer.close()


def with_tls(home: Path) -> int:
    """Make a home whose node listens with TLS, too; return where."""
    home.mkdir()
    made, port = trustme.CA().issue_cert("127.0.0.1"), free_port()
    made.cert_chain_pems[0].write_to_path(str(home / "node.pem"))
    made.private_key_pem.write_to_path(str(home / "node.key"))
    table = f'[tls]\nport = {port}\ncertificate = "node.pem"\nkey = "node.key"\nauthorities = "node.pem"\n'
    (home / "pacs-node.toml").write_text(table, encoding="ascii")
    return port


def p99(took: list[float]) -> float:
    """Return the 99th percentile, seconds."""
    return statistics.quantiles(took, n=100)[98]


def _lines(home: Path) -> int:
    return (home.parent / "log").read_bytes().count(b"\n")


def main() -> int:
    """Store in peace, under attack, in peace again; compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=300)
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pacs-node-attack-"))) / "home"
        tls_port = with_tls(home)
        written = stack.enter_context((home.parent / "log").open("wb"))
        station = stack.enter_context(ours(home, log=written))
        honest(station, 20, "2.25.70")
        _, before = honest(station, asked.instances, "2.25.71")
        size = station.process.memory_info().rss
        attackers, lines = Attackers(station.port, tls_port), _lines(home)
        attackers.start()
        attackers.ready.wait()
        acked, under = honest(station, asked.instances, "2.25.72")
        grown = station.process.memory_info().rss - size
        lines = _lines(home) - lines
        attackers.stop()
        _, after = honest(station, asked.instances, "2.25.73")
    quiet = p99([*before, *after])
    found = {
        "acked": acked, "of": asked.instances, "p99_ratio": round(p99(under) / quiet, 2),
        "p99_quiet_ms": round(1000 * quiet, 1), "p99_attack_ms": round(1000 * p99(under), 1),
        "median_quiet_ms": round(1000 * statistics.median([*before, *after]), 1),
        "median_attack_ms": round(1000 * statistics.median(under), 1),
        "grown_mib": round(grown / (1 << 20), 1), "connections": attackers.opened, "log_lines": lines,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if acked == asked.instances else 1


if __name__ == "__main__":
    raise SystemExit(main())
