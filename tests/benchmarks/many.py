"""Whether the last of very many instances are taken as fast as the first: `make bench-many`.

    python -m tests.benchmarks.many [--instances 100000]

Small instances, a thousand to a study, over one association after another into one node's table and store, by a sender
that costs next to nothing. Rates are instances a second of each thousand. The first thousand comes in after a thousand
that do not count. When all have been answered, all must be in the table, once each. The last line on stdout is one JSON
object: `last_x_vs_first` is the rate of the last ten thousand over that of the first ten thousand, of the last thousand
over the first `last_1000_x_vs_first_1000`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from node.testing import part10, synthetic_ct
from tests.benchmarks.ingest import Station, ours
from tests.peers import Raw, associated, p_data, pdu, store_command
from tests.rig import wait_for

EACH = 1000  # instances of a study, of an association, of a figure
_STUDY, _SERIES, _SOP = (f"2.25.{kind}{'0' * 20}" for kind in (7, 8, 9))  # of a fixed length, to be replaced


def template() -> bytes:
    """Return the data set of a small CT image, without file meta information."""
    (image,) = synthetic_ct(slices=1, rows=64, columns=64)
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = _STUDY, _SERIES, _SOP
    data = part10(image)
    return data[144 + int.from_bytes(data[140:144], "little") :]


def numbered(uid: str, number: int) -> bytes:
    """Return a UID of the same length that is number's own."""
    return f"{uid[:10]}1{number:0{len(uid) - 11}}".encode()


def bring(station: Station, model: bytes, study: int) -> float:
    """Store a study over an association of its own; return instances a second."""
    peer = associated(station.port)
    of_study = model
    for uid in (_STUDY, _SERIES):
        of_study = of_study.replace(uid.encode(), numbered(uid, study))
    began = time.perf_counter()
    for place in range(EACH):
        sop_uid = numbered(_SOP, study * EACH + place)
        peer.send(p_data(1, 3, store_command(sop_uid)) + p_data(1, 2, of_study.replace(_SOP.encode(), sop_uid)))
        if peer.status() != 0:
            raise SystemExit("an instance was refused")
    took = time.perf_counter() - began
    _release(peer)
    return EACH / took


def _release(peer: Raw) -> None:
    peer.send(pdu(5, bytes(4)))
    peer.answer()
    peer.close()


def counted(home: Path) -> tuple[int, int]:
    """Return how many rows there are, and of how many instances."""
    with sqlite3.connect(f"file:{home / 'node.db'}?mode=ro", uri=True) as table:
        rows, instances = table.execute("SELECT count(*), count(DISTINCT sop_uid) FROM instance").fetchone()
    return int(rows), int(instances)


def main() -> int:
    """Store, compare, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--instances", type=int, default=100_000)
    wanted = max(2, parser.parse_args().instances // EACH)
    rates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pacs-node-many-") as place:
        home = Path(place) / "home"
        with ours(home) as station:
            model = template()
            bring(station, model, 0)
            for study in range(1, wanted + 1):
                rates.append(bring(station, model, study))
                if study % 10 == 0:
                    sys.stdout.write(f"{study * EACH}: {statistics.mean(rates[-10:]):.0f} a second\n")
                    sys.stdout.flush()
            total = (wanted + 1) * EACH
            wait_for("all to be filed", lambda: counted(home)[0] >= total, limit=120)
            memory = station.process.memory_info().rss >> 20
        rows, instances = counted(home)
    tenth = max(1, min(10, wanted // 2))
    report = {
        "last_x_vs_first": round(statistics.mean(rates[-tenth:]) / statistics.mean(rates[:tenth]), 3),
        "last_1000_x_vs_first_1000": round(rates[-1] / rates[0], 3),
        "instances_per_s": round(statistics.median(rates), 1), "sent": total, "rows": rows, "instances": instances,
        "rss_mib": memory, "cpus": os.cpu_count(), "machine": platform.machine(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if rows == instances == total else 1


if __name__ == "__main__":
    raise SystemExit(main())
