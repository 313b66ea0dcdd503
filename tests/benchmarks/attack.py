"""One honest sender while the door is attacked, beside a quiet hour: `make bench-attack`.

    python -m tests.benchmarks.attack [--instances 300]

Attackers on the same machine and from the sender's own address: 1,000 connections that say nothing, 1,000 with half an
A-ASSOCIATE-RQ, 20 whose PDU claims 0xFFFFFFF0 bytes, each opened again as soon as the door closes it. `acked` of the
sender's instances, the 99th percentile of its answers in the attack over that in peace (`p99_ratio`), and by how much
the listener grew. The last line on stdout is one JSON object.
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
from contextlib import suppress
from pathlib import Path

from node.testing import part10, synthetic_ct
from tests.benchmarks.ingest import Station, ours
from tests.peers import Raw, associate_rq, associated, p_data, pdu, store_command

ATTACKS = ((1000, b""), (1000, associate_rq()[:60]), (20, pdu(1, b"", claim=0xFFFFFFF0)))


class Attackers(threading.Thread):
    """Holds so many connections of each kind, and opens anew what the door closes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._over, self.ready, self.opened = threading.Event(), threading.Event(), 0

    def run(self) -> None:
        """Attack until `stop`."""
        for count, data in ATTACKS:
            for _ in range(count):
                self._open(data)
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

    def _open(self, data: bytes) -> None:
        with suppress(OSError):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=5)
            self.opened += 1
            one.sendall(data)
            self._selector.register(one, selectors.EVENT_READ, data)


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


def p99(took: list[float]) -> float:
    """Return the 99th percentile, seconds."""
    return statistics.quantiles(took, n=100)[98]


def main() -> int:
    """Store in peace, under attack, in peace again; compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=300)
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="pacs-node-attack-") as place, ours(Path(place) / "home") as station:
        honest(station, 20, "2.25.70")
        _, before = honest(station, asked.instances, "2.25.71")
        size = station.process.memory_info().rss
        attackers = Attackers(station.port)
        attackers.start()
        attackers.ready.wait()
        acked, under = honest(station, asked.instances, "2.25.72")
        grown = station.process.memory_info().rss - size
        attackers.stop()
        _, after = honest(station, asked.instances, "2.25.73")
    quiet = p99([*before, *after])
    found = {
        "acked": acked, "of": asked.instances, "p99_ratio": round(p99(under) / quiet, 2),
        "p99_quiet_ms": round(1000 * quiet, 1), "p99_attack_ms": round(1000 * p99(under), 1),
        "median_quiet_ms": round(1000 * statistics.median([*before, *after]), 1),
        "median_attack_ms": round(1000 * statistics.median(under), 1),
        "grown_mib": round(grown / (1 << 20), 1), "connections": attackers.opened,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if acked == asked.instances else 1


if __name__ == "__main__":
    raise SystemExit(main())
