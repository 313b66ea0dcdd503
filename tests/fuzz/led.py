"""The process that atheris leads: what it is to see is imported by it, and by nothing before it.

    python -m tests.fuzz.led TARGET SEED [libFuzzer's options] FOLDER SEEDS    what `tests.fuzz.guided` runs
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

_INSTRUMENTED = ["node.scp", "node.dicom.walk", "node.dicom.header"]
_SEEDS = 200  # inputs of the grammar that it begins with, beside the corpus
_OWN = 0.3  # of the inputs are the grammar's own word, the others libFuzzer's accidents


def _main() -> None:
    name, seed, *options = sys.argv[1:]
    with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.engine import LONGEST_INPUT, corpus_of, watched
        from tests.fuzz.targets import TARGETS

    target, rng, seeds = TARGETS[name](), Random(seed), Path(options[-1])
    for number, data in enumerate([*corpus_of(name), *(target.make(rng) for _ in range(_SEEDS))]):
        (seeds / f"{number:04d}").write_bytes(data[:LONGEST_INPUT])
    target.open()

    def mutate(data: bytes, most: int, chance: int) -> bytes:
        here = Random(chance)
        return bytes(target.make(here)[:most] if here.random() < _OWN else atheris.Mutate(data, most))

    with watched(alarm=False) as attempt:
        atheris.Setup([sys.argv[0], *options], lambda data: attempt(target, data), custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    _main()
