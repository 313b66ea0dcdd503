"""The loop: makes inputs, tries them, watches time, memory and log, and keeps what broke a promise."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.grammar import spoiled
from tests.fuzz.targets import Broken, Target

LONGEST = 5.0  # seconds for one input
LARGEST = 512  # MiB by which the process may grow
LONGEST_INPUT = 1 << 14  # bytes of an input that coverage leads to
CORPUS = Path(__file__).parent / "corpus"
_POOL = 400  # inputs that others are made from
_HANDLERS = frozenset(("pynetdicom.service_class", "pynetdicom.association", "pynetdicom.events"))
_FRESH = 8  # one in so many is made by the grammar, the others by accidents to what is in the pool


class Hang(BaseException):
    """An input took longer than any may; nothing that catches every Exception catches it."""


@dataclass
class Count:
    """What came of one target's inputs."""

    inputs: int = 0
    guided: int = 0  #: of them, those that coverage led to
    covered: int = 0  #: edges of the instrumented code that these reached
    crashes: int = 0
    hangs: int = 0
    seconds: float = 0.0
    kept: list[Path] = field(default_factory=list)  #: the inputs that broke a promise


def corpus_of(target: str) -> list[bytes]:
    """Return the inputs that were found worth keeping."""
    return [file.read_bytes() for file in sorted((CORPUS / target).glob("*.bin"))]


class _Errors(logging.Handler):
    """Hears what the node or pynetdicom log as an error: each is something that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note it. What pynetdicom refuses to read it logs as an error too; that is no news, a failed handler is."""
        if not record.name.startswith("pynetdicom.") or record.name in _HANDLERS:
            self.said.append(f"{record.name}: {record.getMessage()}")


def _too_long(_: int, frame: FrameType | None) -> None:
    raise Hang(f"at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else "")


@contextmanager
def watched(*, alarm: bool = True) -> Iterator[Callable[[Target, bytes], None]]:
    """Return a function that tries an input and raises where it hangs, grows, or has something logged as an error.

    Without *alarm* somebody else looks at the time: libFuzzer has the signal for itself.
    """
    errors, died = _Errors(), []
    root, before = logging.getLogger(), signal.getsignal(signal.SIGALRM)
    longest, others = LONGEST if alarm else 0.0, signal.getitimer(signal.ITIMER_REAL)
    if alarm:
        signal.signal(signal.SIGALRM, _too_long)
    levels = {name: logging.getLogger(name).level for name in ("", "node", "pynetdicom", "pydicom")}
    hook, threading.excepthook = threading.excepthook, lambda one: died.append(repr(one.exc_value))
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "pydicom" else logging.ERROR)
    handlers, root.handlers = root.handlers, []
    root.addHandler(errors)
    start = memory()

    def attempt(target: Target, data: bytes) -> None:
        if longest:
            signal.setitimer(signal.ITIMER_REAL, longest)
        try:
            target.run(data)
        finally:
            if longest:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if errors.said or died:
            said = [*errors.said, *died]
            errors.said.clear()
            died.clear()
            raise Broken(f"something that nobody foresaw: {said}")
        if memory() - start > LARGEST:
            raise Broken(f"the process has grown by {memory() - start} MiB")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield attempt
    finally:
        root.handlers = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        threading.excepthook = hook
        if alarm:
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *others)


def memory() -> int:
    """Return the most memory that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def fuzz(
    target: Target, inputs: int, *, seed: int, findings: Path, tell: Callable[[Count], None] = lambda _: None
) -> Count:
    """Try so many inputs, the corpus first, and return what came of them."""
    count, rng = Count(), Random(f"{seed} {target.name}")
    pool = corpus_of(target.name)
    target.open()
    began = told = time.monotonic()
    try:
        with watched() as attempt:
            for number in range(inputs):
                data = _next(target, rng, pool, number)
                count.inputs += 1
                try:
                    attempt(target, data)
                except (Exception, Hang) as why:  # noqa: BLE001  # whatever it is, it is a finding
                    _keep(count, target, data, why, findings)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    count.seconds = told - began
                    tell(count)
    finally:
        target.close()
    count.seconds = time.monotonic() - began
    return count


def _next(target: Target, rng: Random, pool: list[bytes], number: int) -> bytes:
    if number < len(pool) and number < _POOL // 2:
        return pool[number]
    if len(pool) < _POOL or rng.randrange(_FRESH) == 0:
        data = target.make(rng)
        if len(pool) < _POOL:
            pool.append(data)
        else:
            pool[rng.randrange(_POOL // 2, _POOL)] = data
        return data
    return spoiled(rng, pool[rng.randrange(len(pool))], pool)


def _keep(count: Count, target: Target, data: bytes, why: BaseException, findings: Path) -> None:
    kind = "hang" if isinstance(why, Hang) else "crash"
    count.crashes, count.hangs = count.crashes + (kind == "crash"), count.hangs + (kind == "hang")
    if len(count.kept) >= 20:
        return
    findings.mkdir(parents=True, exist_ok=True)
    file = findings / f"{target.name}-{kind}-{sha256(data).hexdigest()[:12]}.bin"
    file.write_bytes(data)
    file.with_suffix(".txt").write_text("".join(traceback.format_exception(why)), encoding="utf-8")
    count.kept.append(file)
    sys.stderr.write(f"{target.name}: {type(why).__name__}: {str(why)[:300]} -> {file}\n")


def replay(target: Target, files: list[Path]) -> Any:
    """Try kept inputs again; the first that breaks a promise raises."""
    target.open()
    try:
        with watched() as attempt:
            for file in files:
                attempt(target, file.read_bytes())
    finally:
        target.close()
