"""The gate's part of an evaluation: what it refused and what it let through, beside what is in view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from models.evaluate.results import Passing
from models.evaluate.table import Table

CONTRAST = "contrast"  # the phase of a scan of which no more is said than that there is some
Counts = tuple[int, int, int]  # right, wrong, not known

_TRUE = (("none", "arterial", "venous"), (CONTRAST,))
_COUNTS = ("scans", "with lung", "refused though", "without lung", "admitted though", "next to none")
_EACH = ("scan", "changed", "lung in view", "admitted", "", "evidence", "strangeness", "s", "reason", "seen")
_TURNS = ("scans", "turn", "asked", "right", "wrong", "not known", "reversed", "right", "wrong", "not known")
_PHASES = ("scans", "phase known", "right", "wrong", "not known", "any contrast", "right", "wrong", "not known")
_GROUPS: tuple[tuple[str, Callable[[Passing], bool]], ...] = (
    ("real scans as they came, not trained on", lambda one: not (one.generated or one.learnt or one.variant)),
    ("the same made harder", lambda one: not (one.generated or one.learnt) and bool(one.variant)),
    ("real scans as they came, trained on", lambda one: one.learnt and not one.variant),
    ("the same made harder ", lambda one: one.learnt and bool(one.variant)),
    ("generated, seeds of their own", lambda one: one.generated and not one.variant),
    ("the same with the table in front", lambda one: one.generated and bool(one.variant)),
)


def gate_tables(passings: Sequence[Passing]) -> Iterator[Table]:
    """Yield the gate's figures by group, then every scan that it was asked about, those that it got wrong first."""
    rows = tuple(_group(name, [one for one in passings if pick(one)]) for name, pick in _GROUPS)
    yield Table(title="The gate", head=_COUNTS, rows=rows if passings else ())
    yield Table(title="The gate: phase of contrast", head=_PHASES, rows=tuple(_phases(passings)))
    yield Table(title="The gate: how scans lie", head=_TURNS, rows=tuple(_turns(passings)))
    told = sorted(passings, key=lambda one: (not one.wrong, one.generated, one.case, one.variant))
    yield Table(title="The gate: each scan", head=_EACH, rows=tuple(map(_cells, told)))


def _group(name: str, passings: Sequence[Passing]) -> tuple[str, ...]:
    with_lung, without = ([one for one in passings if one.shown is shown] for shown in (True, False))
    counts = (
        len(with_lung), sum(one.wrong for one in with_lung), len(without), sum(one.wrong for one in without),
        sum(one.shown is None and not one.error for one in passings),
    )  # fmt: skip
    return (name.strip(), *map(str, counts))


def _phases(passings: Sequence[Passing]) -> Iterator[tuple[str, ...]]:
    """Yield by group how often a phase was right, wrong, not known; where none is said, whether there is contrast."""
    for name, pick in _GROUPS:
        counts = [phase_counts(one for one in passings if pick(one) and one.phase_true in any_of) for any_of in _TRUE]
        if any(map(sum, counts)):
            yield (name.strip(), *(str(n) for each in counts for n in (sum(each), *each)))


def phase_counts(passings: Iterable[Passing]) -> Counts:
    """Return how often the phase of those *passings* of which it is known was told right, wrong and not at all."""
    said = [one.phase and (one.phase == one.phase_true or (one.phase_true == CONTRAST and one.phase != "none"))
            for one in passings if one.phase_true]  # fmt: skip
    return sum(one is True for one in said), sum(one is False for one in said), sum(one == "" for one in said)


def _turns(passings: Sequence[Passing]) -> Iterator[tuple[str, ...]]:
    """Yield by group and turn how often a scan was said to lie as it does: as it came, and with that axis reversed."""
    for name, pick in _GROUPS:
        chosen = [one for one in passings if pick(one)]
        for turn in dict.fromkeys(turn for one in chosen for turn in one.lies):
            counts = (turn_counts(chosen, turn), turn_counts(chosen, turn, reversed_=True))
            yield (name.strip(), turn, *(str(n) for each in counts for n in (sum(each), *each)))


def turn_counts(passings: Iterable[Passing], turn: str, *, reversed_: bool = False) -> Counts:
    """Return how often it was told right, wrong and not at all how scans lie; *reversed_*: with that axis reversed."""
    said = [
        answers[turn] if not reversed_ or answers[turn] is None else not answers[turn]
        for answers in ((one.turned if reversed_ else one.lies) for one in passings) if turn in answers
    ]  # fmt: skip
    return said.count(True), said.count(False), said.count(None)


def _cells(one: Passing) -> tuple[str, ...]:
    shown = {True: "yes", False: "no", None: "next to none"}[one.shown]
    wrong = "WRONG" if one.wrong else ""
    figures = (f"{one.evidence:.3f}", f"{one.strangeness:.2f}", f"{one.seconds:.2f}")
    why = f"BROKE: {one.error}" if one.error else one.reason
    return one.case, one.variant, shown, "yes" if one.admitted else "no", wrong, *figures, why, one.seen
