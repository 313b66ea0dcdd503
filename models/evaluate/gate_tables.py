"""The gate's part of an evaluation: what it refused and what it let through, beside what is in view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from models.evaluate.results import Passing
from models.evaluate.table import Table

_COUNTS = ("scans", "with lung", "refused though", "without lung", "admitted though", "next to none")
_EACH = ("scan", "changed", "lung in view", "admitted", "", "evidence", "strangeness", "s", "reason")
_GROUPS: tuple[tuple[str, Callable[[Passing], bool]], ...] = (
    ("real scans as they came, not trained on", lambda one: not (one.generated or one.learnt or one.variant)),
    ("the same made harder", lambda one: not (one.generated or one.learnt) and bool(one.variant)),
    ("real scans as they came, trained on", lambda one: one.learnt and not one.variant),
    ("the same made harder ", lambda one: one.learnt and bool(one.variant)),
    ("generated, seeds of their own", lambda one: one.generated),
)


def gate_tables(passings: Sequence[Passing]) -> Iterator[Table]:
    """Yield the gate's figures by group, then every scan that it was asked about, those that it got wrong first."""
    rows = tuple(_group(name, [one for one in passings if pick(one)]) for name, pick in _GROUPS)
    yield Table(title="The gate", head=_COUNTS, rows=rows if passings else ())
    told = sorted(passings, key=lambda one: (not one.wrong, one.generated, one.case, one.variant))
    yield Table(title="The gate: each scan", head=_EACH, rows=tuple(map(_cells, told)))


def _group(name: str, passings: Sequence[Passing]) -> tuple[str, ...]:
    with_lung, without = ([one for one in passings if one.shown is shown] for shown in (True, False))
    counts = (
        len(with_lung), sum(one.wrong for one in with_lung), len(without), sum(one.wrong for one in without),
        sum(one.shown is None and not one.error for one in passings),
    )  # fmt: skip
    return (name.strip(), *map(str, counts))


def _cells(one: Passing) -> tuple[str, ...]:
    shown = {True: "yes", False: "no", None: "next to none"}[one.shown]
    wrong = "WRONG" if one.wrong else ""
    figures = (f"{one.evidence:.3f}", f"{one.strangeness:.2f}", f"{one.seconds:.2f}")
    why = f"BROKE: {one.error}" if one.error else one.reason
    return one.case, one.variant, shown, "yes" if one.admitted else "no", wrong, *figures, why
