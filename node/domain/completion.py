"""When a study is complete: what is known of it, and which evidence decides, in which order.

`decide` is the whole rule. It looks at nothing but its arguments, so that every case can be tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from node.domain.waits import span

#: An open association that has brought nothing of the study for so long no longer holds it back: it may be idle, or
#: its process gone where nobody can see it.
LINGER = timedelta(minutes=10)

#: While an association is open the study is looked at so often: the process that holds it may be killed.
_RECHECK = timedelta(seconds=5)

#: Modalities of objects about images: a peer may hold some that nobody ever sends to a node that reads images.
ABOUT_IMAGES = frozenset({"SR", "SEG", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "FID", "AU", "ANN"})


_DEAF = "the listener is not running, so nobody can send the rest"
_AGAIN = "the listener was away after the last image came, and senders may try again"


class By(StrEnum):
    """What decided that a study is complete."""

    COUNT = "count"  #: its peer counts as many instances as came
    STEP = "step"  #: MPPS: its performed steps are completed and all that they name came
    SERIES = "series"  #: the series that a rule requires are there, and it is quiet
    QUIET = "quiet"  #: nothing came for a while and nobody is sending it
    LONGEST = "longest"  #: it has waited as long as any study may


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """How long a study may wait for more instances."""

    quiet: timedelta  # without a new instance
    longest: timedelta  # since the first instance of the revision, whatever is known
    patience: timedelta  # with a modality that is at it (MPPS) and of which nothing is heard


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """A peer's own count of a study beside what came."""

    peer: str
    there: int  # instances that it counts
    lacking: int  # of them that did not come
    fresh: bool  # it was asked after the last instance had come

    @property
    def words(self) -> str:
        """Return the comparison in words."""
        return f"{self.peer} counts {self.there - self.lacking} of {self.there}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What the performed procedure steps (MPPS) of a study say."""

    in_progress: int = 0
    heard_at: datetime | None = None  # the last word about one that is in progress
    completed: int = 0
    discontinued: int = 0
    named: int = 0  # instances that completed steps name
    lacking: int = 0  # of them, in series of which some came
    absent_series: int = 0  # named series of which nothing came: perhaps never meant for this node

    @property
    def all_here(self) -> bool:
        """Return whether the modality is through and all that it made is here."""
        return self.completed > 0 and self.named > 0 and not (self.in_progress or self.lacking or self.absent_series)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that is known of whether a study is complete."""

    opened_at: datetime  # the first instance of this revision came
    last_at: datetime  # the last one came
    here: int  # instances
    sending: tuple[str, ...] = ()  # who has an association open that brought some of it last
    listening_since: datetime | None = None  # nobody could send before; None: not known
    deaf: bool = False  # no listener lives, so nobody can send
    tally: Tally | None = None
    unasked: str = ""  # why its peer could not be asked for its count
    steps: Steps = Steps()
    required: tuple[str, ...] = ()  # series that rules require
    missing: tuple[str, ...] = ()  # those of them that are not there


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a study settles now, why, and when it is looked at again where it does not."""

    by: By | None
    reason: str  # where it waits for more than quiet: for what; else ""
    look_at: datetime | None = None  # as long as the evidence stays the same, the answer is the same until then


def decide(seen: Evidence, waits: Waits, *, now: datetime) -> Verdict:
    """Return whether a study settles: by its peer's count, its steps, its required series, quiet, the longest wait.

    Better evidence comes first. What says that instances lack holds a study up to its longest wait and no longer.
    """
    over, quiet_at = seen.opened_at + waits.longest, _heard_at(seen) + waits.quiet
    after = f"{span(now - seen.last_at)} after the last image"
    at_it = _at_it_until(seen, waits)
    held = tuple(_holds(seen, at_it=at_it is not None and now < at_it))
    silent = span(waits.patience) if at_it is not None and now >= at_it else ""
    if seen.tally is not None and seen.tally.fresh and seen.tally.there and not held:
        return _settled(By.COUNT, f"{seen.tally.words}, {after}", seen, silent)
    if seen.steps.all_here and not _lacks(seen):
        return _settled(By.STEP, f"the modality is through (MPPS) and all {seen.steps.named} came, {after}", seen, "")
    sending = seen.sending if now < seen.last_at + LINGER else ()
    if now >= quiet_at and not (held or sending or seen.deaf):
        quiet = f"no instance for {waits.quiet.total_seconds():g} s"
        if seen.required:
            return _settled(By.SERIES, f"all required series came ({', '.join(seen.required)}), {quiet}", seen, silent)
        return _settled(By.QUIET, quiet, seen, silent)
    if now >= over:
        waited = (f"waited {span(waits.longest)}, the longest wait", *_open(seen, held))
        return _settled(By.LONGEST, "; ".join(waited), seen, silent)
    if held:
        look_at = min(over, at_it) if at_it is not None and now < at_it else over
        return Verdict(by=None, reason=f"waits: {'; '.join(held)}", look_at=look_at)
    if seen.deaf:
        return Verdict(by=None, reason=f"waits: {_DEAF}", look_at=min(over, now + _RECHECK))
    if now < quiet_at:
        again = f"waits: {_AGAIN}" if now >= seen.last_at + waits.quiet else ""
        return Verdict(by=None, reason=again, look_at=min(quiet_at, over))
    look_at = min(over, seen.last_at + LINGER, now + _RECHECK)
    return Verdict(by=None, reason=f"waits: {_still_open(sending)}", look_at=look_at)


def _heard_at(seen: Evidence) -> datetime:
    """Return from when on silence counts: a sender that found the door shut tries again, sooner or later."""
    return max(seen.last_at, seen.listening_since or seen.last_at)


def _lacks(seen: Evidence) -> bool:
    return seen.tally is not None and seen.tally.lacking > 0


def _at_it_until(seen: Evidence, waits: Waits) -> datetime | None:
    """Return until when a step in progress holds the study where nothing more is heard; None where there is none.

    Modalities crash, are switched off, or never end a step that a person gave up.
    """
    if not seen.steps.in_progress:
        return None
    heard = max(seen.last_at, seen.steps.heard_at or seen.last_at) + waits.patience
    return max(heard, seen.last_at + LINGER) if seen.sending else heard


def _holds(seen: Evidence, *, at_it: bool) -> Iterator[str]:
    """Yield what says that the study is not complete."""
    if seen.tally is not None and seen.tally.lacking:
        yield seen.tally.words
    if at_it:
        yield "the modality is still at it (MPPS in progress)"
    if seen.steps.lacking:
        yield f"{seen.steps.lacking} instances that the modality made did not come (MPPS)"
    for name in seen.missing:
        yield f"required series {name!r} did not come"


def _open(seen: Evidence, held: tuple[str, ...]) -> Iterator[str]:
    """Yield what was still awaited when the longest wait was over."""
    if seen.tally is not None and seen.tally.lacking:
        yield f"only {seen.tally.there - seen.tally.lacking} of {seen.tally.there} came ({seen.tally.peer} counts them)"
    yield from (why for why in held if seen.tally is None or why != seen.tally.words)
    if seen.sending:
        yield _still_open(seen.sending)


def _still_open(sending: tuple[str, ...]) -> str:
    return f"{', '.join(dict.fromkeys(sending))} may still send: its association is open"


def _settled(by: By, reason: str, seen: Evidence, silent: str) -> Verdict:
    return Verdict(by=by, reason="; ".join((reason, *_remarks(seen, by, silent))))


def _remarks(seen: Evidence, by: By, silent: str) -> Iterator[str]:
    """Yield what a person should know beside the reason; *silent*: how long a modality at it was waited for."""
    if silent:
        yield f"the modality did not end its procedure step (MPPS) and was silent for {silent}"
    if seen.steps.discontinued:
        yield "the modality broke off a step (MPPS discontinued)"
    if seen.steps.absent_series and by is not By.COUNT:
        count = seen.steps.absent_series
        yield f"of {count} series that the modality made (MPPS) nothing came"
    if by is not By.COUNT and seen.unasked:
        yield f"its peer could not be asked for its count: {seen.unasked}"


def compare(
    peer: str, there: Mapping[str, tuple[str, int]], here: Mapping[str, int], *, ours: int, fresh: bool
) -> Tally | None:
    """Compare a peer's count, series -> (modality, instances), with what came; None where it counts nothing.

    The series "" stands for a whole study whose series the peer does not count. *ours* are results of this node that
    the peer holds and that are images: they did not come from it. What is only about images counts where some of it
    came.
    """
    if "" in there:
        total = max(0, there[""][1] - ours)
        return Tally(peer=peer, there=total, lacking=max(0, total - sum(here.values())), fresh=fresh) if total else None
    counted = {uid: n for uid, (modality, n) in there.items() if uid in here or modality not in ABOUT_IMAGES}
    known = sum(n for uid, n in counted.items() if uid in here)
    strange = max(0, sum(n for uid, n in counted.items() if uid not in here) - ours)
    lacking = sum(max(0, n - here[uid]) for uid, n in counted.items() if uid in here) + strange
    return Tally(peer=peer, there=known + strange, lacking=lacking, fresh=fresh) if known + strange else None
