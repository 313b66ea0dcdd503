"""How long a real study's way is, and how much memory each process takes: `make bench-walk`.

A real Orthanc sends ct-chest-lung1-001 (134 JPEG-LS images) to a node on this machine and gets both models' results
back. The time runs from the end of Orthanc's sending to the last result in Orthanc, less the quiet time.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from node.domain.job import JobState
from node.supervisor import running_roles
from tests.rig import RunningNode, running_node, running_orthanc

QUIET = 2.0  # seconds
STUDY = "ct-chest-lung1-001"


class MemoryWatch(threading.Thread):
    """Notes the largest resident size of each role, its children counted apart."""

    def __init__(self, node: RunningNode) -> None:
        super().__init__(daemon=True)
        self._node, self._over = node, threading.Event()
        self.peaks: dict[str, float] = {}

    def run(self) -> None:
        """Look four times a second."""
        while not self._over.wait(0.25):
            for role, pid in running_roles(self._node.home).items():
                self._note(role, pid)

    def _note(self, role: str, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            children = [] if role == "supervisor" else process.children(recursive=True)
            largest = max((child.memory_info().rss for child in children), default=0)
            sizes = {role: process.memory_info().rss, f"{role} child": largest}
        except psutil.NoSuchProcess:
            return
        for name, size in sizes.items():
            if size:
                self.peaks[name] = max(self.peaks.get(name, 0.0), round(size / 2**20, 1))

    def stop(self) -> dict[str, float]:
        """End the watch; return MiB by role."""
        self._over.set()
        self.join()
        return self.peaks


def main() -> None:
    """Run once and print the figures."""
    data = Path(os.environ.get("PACS_NODE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / STUDY / "dicom"
    if not data.is_dir():
        sys.exit(f"no test data at {data} (set PACS_NODE_TEST_DATA)")
    with tempfile.TemporaryDirectory() as name, running_orthanc(Path(name)) as orthanc:
        orthanc.upload(data)
        (study,) = orthanc.call("/studies")
        peer = f'[[peer]]\nname = "pacs"\nae_title = "ORTHANC"\nport = {orthanc.dicom}\n'
        with running_node(Path(name), peer, quiet=QUIET) as node:
            watch = MemoryWatch(node)
            watch.start()
            orthanc.call("/modalities/node", b'["PACSAINODE", "127.0.0.1", %d]' % node.port, method="PUT")
            began = time.monotonic()
            orthanc.call("/modalities/node/store", study.encode())
            sent = time.monotonic()
            states = [job.state for job in node.wait_until_ended(2, limit=300)]
            ended = time.monotonic()  # a job is done once Orthanc has acknowledged each of its results
            received = len(orthanc.of_modality("SEG") + orthanc.of_modality("SR"))
            peaks = watch.stop()
    figures = {
        "bench": "walk", "study": STUDY, "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "images_per_s": round(134 / (sent - began), 1), "seconds_to_results": round(ended - sent - QUIET, 1),
        "jobs_done": states.count(JobState.DONE), "results_in_pacs": received, "peak_mib": peaks,
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
