"""Hostile bytes by the million at the front door: `make fuzz INPUTS=..`.

    python -m tests.fuzz [--inputs 100000] [--seed 1] [--targets commands,walks] [--findings FOLDER] [--plain]

Each target has its share of the inputs. Nine in ten are made by the grammar and by accidents to what it made; where
atheris is installed the tenth is guided by the coverage that it reaches, slowly (`--plain`: none). An input that breaks
a promise is kept in the findings, with the reason beside it; `python -m tests.fuzz --again FILE` tries it once more,
and `--grow` lays what coverage found into the corpus. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.fuzz import guided
from tests.fuzz.engine import Count, fuzz, memory, replay
from tests.fuzz.targets import TARGETS, Target


def _progress(target: Target, of: int) -> object:
    def tell(count: Count) -> None:
        sys.stdout.write(f"{target.name}: {count.inputs:,} of {of:,}, {count.inputs / count.seconds:,.0f}/s, "
                         f"{count.crashes} crashes, {count.hangs} hangs, {memory()} MiB\n")  # fmt: skip
        sys.stdout.flush()

    return tell


def _shares(names: list[str], inputs: int) -> dict[str, int]:
    """Return how many inputs each target gets; in all *inputs*, and none gets none."""
    shares = {name: TARGETS[name].share for name in names}
    counts = {name: max(1, inputs * share // sum(shares.values())) for name, share in shares.items()}
    largest = max(counts, key=lambda name: counts[name])
    counts[largest] += max(0, inputs - sum(counts.values()))
    return counts


def _grow(asked: argparse.Namespace) -> int:
    names = [name for name in asked.targets.split(",") if name in guided.GUIDED]
    counts = [guided.grow(name, inputs, seed=asked.seed, findings=asked.findings)
              for name, inputs in _shares(names, asked.inputs).items()]  # fmt: skip
    return 1 if any(count.crashes or count.hangs for count in counts) else 0


def main() -> int:
    """Fuzz, and say what came of it; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--plain", action="store_true", help="nothing guided by coverage")
    parser.add_argument("--again", type=Path, help="an input that was kept: its name begins with its target's")
    parser.add_argument("--grow", action="store_true", help="lay inputs that cover more into the corpus (atheris)")
    asked = parser.parse_args()
    if asked.grow:
        return _grow(asked)
    if asked.again:
        replay(TARGETS[asked.again.name.partition("-")[0]](), [asked.again])
        return 0
    guides = guided.is_there() and not asked.plain
    if not guides and not asked.plain:
        sys.stderr.write("atheris is not installed: NO input is guided by coverage\n")
    began, counts = time.monotonic(), {}
    for name, inputs in _shares(asked.targets.split(","), asked.inputs).items():
        target = TARGETS[name]()
        led = inputs // 10 if guides and name in guided.GUIDED else 0
        counts[name] = fuzz(target, inputs - led, seed=asked.seed, findings=asked.findings,
                            tell=_progress(target, inputs - led))  # fmt: skip
        if led:
            guided.guide(name, led, seed=asked.seed, findings=asked.findings, count=counts[name])
        _progress(target, inputs)(counts[name])
    seconds = time.monotonic() - began
    total = sum(count.inputs for count in counts.values())
    found = {
        "inputs": {name: count.inputs for name, count in counts.items()}, "total": total,
        "guided": {name: count.guided for name, count in counts.items()},
        "covered": {name: count.covered for name, count in counts.items() if count.guided},
        "crashes": sum(count.crashes for count in counts.values()),
        "hangs": sum(count.hangs for count in counts.values()),
        "peak_rss_mib": max(memory(), guided.memory()), "seconds": round(seconds, 1),
        "per_second": {name: round(count.inputs / count.seconds) for name, count in counts.items()},
        "executions_per_second": round(total / seconds), "seed": asked.seed,
        "kept": [str(file) for count in counts.values() for file in count.kept],
    }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if found["crashes"] or found["hangs"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
