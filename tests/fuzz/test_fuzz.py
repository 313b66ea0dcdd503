"""A slice of each target in every run of the tests, and that the loop notices what it is there to notice."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as command
from tests.fuzz import engine, guided
from tests.fuzz.engine import CORPUS, Count, corpus_of, fuzz, replay, watched
from tests.fuzz.grammar import spoiled
from tests.fuzz.targets import TARGETS, Headers, Streams, Target, Walks
from tests.fuzz.world import pdus

SLICE = {
    "commands": 3000, "walks": 3000, "headers": 400, "streams": 250, "requests": 100, "outside": 500, "doors": 15,
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_slice_of_each_target_keeps_every_promise(name: str, tmp_path: Path) -> None:
    """The corpus and some more, always the same ones; `make fuzz` tries millions."""
    count = fuzz(TARGETS[name](), SLICE[name], seed=1, findings=tmp_path)
    assert (count.inputs, count.crashes, count.hangs) == (SLICE[name], 0, 0), count.kept
    assert list(tmp_path.iterdir()) == []


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> bytes:
    """Draw an input: as the grammar has it, or after accidents. Hypothesis shrinks what the grammar drew."""
    rng: Random = draw(st.randoms(use_true_random=False))
    data = target.make(rng)
    return spoiled(rng, data) if draw(st.booleans()) else data


@pytest.mark.parametrize("name", ["commands", "walks", "headers", "streams", "requests", "outside"])
def test_hypothesis_finds_no_broken_promise(name: str) -> None:
    """The same grammar with choices that hypothesis makes, and could make smaller."""
    target = TARGETS[name]()
    target.open()
    try:
        with watched() as attempt:
            quick = name in ("commands", "walks", "outside")

            @settings(max_examples=150 if quick else 40, deadline=None, derandomize=True, database=None,
                      suppress_health_check=list(HealthCheck))  # fmt: skip
            @given(inputs(target))
            def check(data: bytes) -> None:
                attempt(target, data)

            check()
    finally:
        target.close()


def test_the_grammar_makes_what_is_right_too() -> None:
    """Most of what it says is understood: bytes that are refused at the first glance try nothing."""
    files, stream = Headers(), Streams()
    read = [bool(_facts(files.make(Random(seed)))) for seed in range(200)]
    assert sum(read) > 80
    stream.open()
    try:
        said = [pdus(stream.world.say(stream.make(Random(seed))).heard) for seed in range(100)]
    finally:
        stream.close()
    assert sum(any(kind == 4 for kind, _ in one) for one in said) > 40


def _facts(data: bytes) -> object:
    from node.dicom.header import read_facts
    from node.errors import UnreadableInstance

    try:
        return read_facts(data)
    except UnreadableInstance:
        return None


class Sick(Target):
    """A target that breaks a promise at its tenth input."""

    share = 1

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act, self._seen = act, 0

    def make(self, rng: Random) -> bytes:
        """Return anything."""
        return rng.randbytes(8)

    def run(self, data: bytes) -> None:  # noqa: ARG002  # any will do
        """Break a promise, once."""
        self._seen += 1
        if self._seen == 10:
            self._act()


def _raise() -> None:
    raise KeyError("not documented")


def _hang() -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(Exception):  # who catches everything does not hide a hang
            time.sleep(0.01)


def _die() -> None:
    thread = threading.Thread(target=_raise)
    thread.start()
    thread.join()


ILL: dict[str, tuple[Callable[[], object], tuple[int, int]]] = {
    "an exception": (_raise, (1, 0)),
    "a hang": (_hang, (0, 1)),
    "an error in the log": (lambda: logging.getLogger("node.scp").error("association ended by a failure"), (1, 0)),
    "a handler that failed": (lambda: logging.getLogger("pynetdicom.service_class").error("in the handler"), (1, 0)),
    "a thread that died": (_die, (1, 0)),
}


@pytest.mark.parametrize(("act", "expected"), ILL.values(), ids=ILL)
def test_what_breaks_a_promise_is_counted_and_kept(
    act: Callable[[], object], expected: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes and the reason; the other inputs are tried all the same."""
    monkeypatch.setattr(engine, "LONGEST", 0.3)
    count = fuzz(Sick(act), 20, seed=1, findings=tmp_path)
    assert (count.inputs, count.crashes, count.hangs) == (20, *expected)
    assert len(count.kept) == 1
    assert count.kept[0].read_bytes()
    assert count.kept[0].with_suffix(".txt").read_text()


def test_growth_is_a_broken_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the process has grown by more than it may."""
    monkeypatch.setattr(engine, "LARGEST", 64)
    count = fuzz(Sick(lambda: b"x" * (300 << 20)), 12, seed=1, findings=tmp_path)
    assert count.crashes == 3  # the tenth and, since the process has grown, those behind it


def test_a_kept_input_can_be_tried_again(tmp_path: Path) -> None:
    """It breaks the same promise, or does not any more."""
    file = tmp_path / "sick-crash.bin"
    file.write_bytes(b"x")
    replay(Walks(), [file])
    with pytest.raises(KeyError):
        replay(Sick(_raise), [file] * 10)


def test_the_corpus_is_small_and_each_of_it_has_a_target() -> None:
    """Some hundred kilobytes: what coverage found, and nothing of anybody."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(guided.GUIDED)
    assert all(len(corpus_of(name)) >= 10 for name in guided.GUIDED)
    assert sum(file.stat().st_size for file in CORPUS.rglob("*.bin")) < 300_000


def test_the_last_line_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came of each target, for whoever reads it by program."""
    arguments = ["--inputs", "500", "--targets", "commands,walks", "--plain", "--findings", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["fuzz", *arguments])
    assert command.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(found["inputs"].values()) == found["total"] == 500
    assert (found["crashes"], found["hangs"], found["kept"]) == (0, 0, [])
    assert found["guided"] == {"commands": 0, "walks": 0}
    assert found["peak_rss_mib"] > 0 < found["executions_per_second"]


@pytest.fixture
def atheris() -> Iterator[None]:
    """Skip where it has no wheel; fail in CI, which has one."""
    if not guided.is_there():
        if os.environ.get("CI"):
            pytest.fail("atheris is missing on a CI machine")
        pytest.skip("atheris is not installed: no input is guided by coverage")
    yield


@pytest.mark.usefixtures("atheris")
def test_coverage_leads_the_inputs(tmp_path: Path) -> None:
    """libFuzzer sees the lines of the code that it is to see; what reaches no new one is not kept."""
    count = Count()
    guided.guide("walks", 500, seed=1, findings=tmp_path, count=count)
    assert (count.guided, count.crashes, count.hangs) == (500, 0, 0)
    assert count.covered > 50


@pytest.mark.usefixtures("atheris")
def test_what_breaks_a_promise_under_coverage_is_counted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that may hardly have any memory breaks one within seconds, and nothing more is tried."""
    monkeypatch.setattr(guided, "LARGEST", -200)
    count = Count()
    guided.guide("walks", 1_000_000, seed=1, findings=tmp_path, count=count)
    assert count.crashes == 1
    assert count.guided < 1_000_000
