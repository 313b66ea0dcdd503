"""Inputs that coverage leads: atheris (libFuzzer) in a process of its own, over the same targets and grammar."""

from __future__ import annotations

import importlib.util
import re
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from tests.fuzz.engine import CORPUS, LARGEST, LONGEST, LONGEST_INPUT, Count

GUIDED = ("commands", "walks", "headers", "streams", "requests", "outside")
_CORPUS_BYTES = 40_000  # of one target


def is_there() -> bool:
    """Return whether atheris is installed: it has wheels for Linux on x86-64 alone."""
    return importlib.util.find_spec("atheris") is not None


def memory() -> int:
    """Return the most memory that a guided process had, MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10


def guide(name: str, inputs: int, *, seed: int, findings: Path, count: Count, grown: Path | None = None) -> None:
    """Try so many inputs more of a target, and add what came of them to *count*; *grown* keeps what covers more."""
    findings.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pacs-node-guided-") as temporary:
        folder, seeds = grown or Path(temporary) / "grown", Path(temporary) / "seeds"
        folder.mkdir(exist_ok=True)
        seeds.mkdir()
        command = [
            sys.executable, "-m", "tests.fuzz.led", name, str(seed), f"-runs={inputs}", f"-seed={seed}",
            f"-timeout={LONGEST:.0f}", f"-rss_limit_mb={LARGEST + 256}", f"-max_len={LONGEST_INPUT}",
            f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1", str(folder), str(seeds),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    done = re.findall(r"stat::number_of_executed_units: (\d+)", run.stderr) or re.findall(r"^#(\d+)", run.stderr, re.M)
    tried = int(done[-1]) if done else 0
    count.inputs, count.guided = count.inputs + tried, count.guided + tried
    count.covered = max([0, *map(int, re.findall(r"cov: (\d+)", run.stderr))])
    count.seconds += time.monotonic() - began
    if "run interrupted" in run.stderr:
        raise KeyboardInterrupt
    if run.returncode:
        hangs = "libFuzzer: timeout" in run.stderr
        count.crashes, count.hangs = count.crashes + (not hangs), count.hangs + hangs
        count.kept += [Path(one) for one in re.findall(r"Test unit written to (\S+)", run.stderr)]
        sys.stderr.write(f"{name}, guided: {run.stderr[-2000:]}\n")


def grow(name: str, inputs: int, *, seed: int, findings: Path) -> Count:
    """Let coverage lead through so many inputs, and lay the smallest of those that reached more into the corpus."""
    count, room = Count(), _CORPUS_BYTES
    with tempfile.TemporaryDirectory(prefix="pacs-node-grown-") as temporary:
        guide(name, inputs, seed=seed, findings=findings, count=count, grown=Path(temporary))
        for data in sorted((file.read_bytes() for file in Path(temporary).iterdir()), key=len):
            room -= len(data)
            if room < 0:
                break
            (CORPUS / name).mkdir(parents=True, exist_ok=True)
            (CORPUS / name / f"{sha256(data).hexdigest()[:16]}.bin").write_bytes(data)
    return count
