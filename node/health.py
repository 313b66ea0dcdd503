"""What a person should look at, each with the command that helps. Nothing here names a patient."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from node.db import arrivals, commit_requests, jobs, lookups, pauses, results, studies
from node.domain.job import HELD, JobState
from node.domain.pause import is_paused
from node.domain.result import DeliveryState
from node.domain.study import StudyState
from node.domain.waits import span
from node.journal import Journal, NoJournal
from node.settings import Settings
from node.store import Store
from node.tls import expires

_NOBODY_TAKES = timedelta(minutes=10)  # a job that waits so long while no worker is busy: nobody works
_BACKLOG = timedelta(hours=2)  # a job that waits so long while workers are busy: there are too few
_WEEK = timedelta(days=7)  # so long an alarm is told that nobody can take back
_FILED = timedelta(minutes=1)  # an acknowledged image has its file and its row by then
_RENEW = timedelta(days=30)  # before a certificate ends
_AWAY = timedelta(minutes=30)  # a peer that has not taken a result for so long is away


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One thing that a person should look at."""

    what: str  # for machines
    count: int
    says: str
    helps: str  # the command, or what to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """What the machine says of the node, besides its table."""

    roles: Mapping[str, int]  # name -> process id of what `pacs-node up` runs
    doorbells: Mapping[str, int] | str  # by queue; or why nobody knows


def needs(session: Session, store: Store, settings: Settings, home: Home, *, now: datetime) -> list[Need]:
    """Return all that a person should look at; nothing where the node does well by itself."""
    paused = pauses.paused(session)
    return [
        *_of_processes(settings, home),
        *_of_studies(session),
        *_of_jobs(session, paused, now=now),
        *_of_peers(session, paused, now=now),
        *_of_questions(session, now=now),
        *_of_store(store, settings, now=now),
        *_of_certificate(settings, now=now),
        *_of_pauses(session, now=now),
    ]


def _of_processes(settings: Settings, home: Home) -> Iterator[Need]:
    up = f"pacs-node up --home {settings.home}"
    if "supervisor" not in home.roles:
        yield Need(what="down", count=1, says="no node is up in this home", helps=up)
    else:
        for queue, wanted in (("gpu", settings.gpu_workers), ("io", settings.io_workers)):
            living = sum(name.startswith(f"worker-{queue}-") for name in home.roles)
            if living < wanted:
                says = f"{wanted - living} of {wanted} {queue} workers do not live; each is started again"
                yield Need(what="worker", count=wanted - living, says=says, helps="the log says why they die")
    if isinstance(home.doorbells, str):
        yield Need(what="broker", count=1, says=home.doorbells, helps=f"start it, or {up}; no job is lost meanwhile")


def _of_studies(session: Session) -> Iterator[Need]:
    if count := studies.count_by_state(session).get(StudyState.CONFLICT, 0):
        says = f"{_count(count, 'study names', 'studies name')} different patients"
        yield Need(what="conflict", count=count, says=says, helps="pacs-node studies, then pacs-node resolve STUDY")
    if count := arrivals.count_lost(session):
        says = f"{_count(count, 'image is', 'images are')} missing from the store"
        yield Need(what="lost", count=count, says=says, helps="pacs-node studies, then have these studies sent again")


def _of_jobs(session: Session, paused: Collection[str], *, now: datetime) -> Iterator[Need]:
    by_state = jobs.count_by_state(session)
    if count := by_state.get(JobState.FAILED, 0):
        helps = "pacs-node jobs --state failed, then pacs-node retry JOB"
        yield Need(what="failed", count=count, says=f"{_count(count, 'job has', 'jobs have')} failed", helps=helps)
    if count := jobs.count_late(session):
        says = f"{_count(count, 'job has', 'jobs have')} missed the deadline and still not ended"
        yield Need(what="late", count=count, says=says, helps="pacs-node explain STUDY says what each waits for")
    busy = any(by_state.get(state, 0) for state in HELD)
    limit = _BACKLOG if busy else _NOBODY_TAKES
    waiting = lookups.pending_since(session, now - limit)
    late = [one for one in waiting if not is_paused(paused, queue="gpu", model=one[0])]
    if late:
        count, longest = sum(one[1] for one in late), span(now - min(one[2] for one in late))
        says = f"{_count(count, 'job waits', 'jobs wait')} for a worker, the oldest for {longest}"
        helps = "more workers: gpu_workers" if busy else "no worker takes them: pacs-node up, or worker --queue gpu"
        yield Need(what="pending", count=count, says=says, helps=helps)


def _of_peers(session: Session, paused: Collection[str], *, now: datetime) -> Iterator[Need]:
    for peer, states in sorted(results.count_open_by_peer(session).items()):
        if count := states.get(DeliveryState.PARKED, 0):
            says = f"{_count(count, 'result', 'results')} for {peer} {'is' if count == 1 else 'are'} parked"
            helps = "pacs-node jobs --state delivering says why, then pacs-node retry JOB"
            yield Need(what="parked", count=count, says=says, helps=helps)
    if count := lookups.under_another_patient(session, now - _WEEK):
        says = f"results of {_count(count, 'job', 'jobs')} lie in a study that their peer has under another patient"
        helps = "pacs-node jobs, then job ID: have the PACS and the modality agree whose it is"
        yield Need(what="patient", count=count, says=says, helps=helps)
    for peer, count, since in lookups.undelivered_since(session, now - _AWAY):
        if not is_paused(paused, queue="io", peer=peer):
            says = f"{peer} has not taken {_count(count, 'result', 'results')}, the oldest since {span(now - since)}"
            yield Need(what="away", count=count, says=says, helps=f"pacs-node echo {peer}")


def _of_certificate(settings: Settings, *, now: datetime) -> Iterator[Need]:
    if settings.papers is None:
        return
    left = expires(settings.papers.certificate) - now
    if left < _RENEW:
        words = f"ends in {left.days} days" if left > timedelta(0) else "has ended: no peer is let in over TLS any more"
        says = f"the node's TLS certificate {words}"
        helps = f"replace {settings.papers.certificate} and start the node again"
        yield Need(what="certificate", count=1, says=says, helps=helps)


def _of_questions(session: Session, *, now: datetime) -> Iterator[Need]:
    for title, count, reason in commit_requests.unreported(session, before=now - _AWAY):
        says = f"{title} asked for storage commitment and takes no report on {_count(count, 'question', 'questions')}"
        helps = "are host and port of its [[peer]] right, and does it listen there?"
        yield Need(what="commitment", count=count, says=f"{says}: {reason}", helps=helps)


def _of_store(store: Store, settings: Settings, *, now: datetime) -> Iterator[Need]:
    free, percent = store.free_bytes(), store.free_percent()
    if free < settings.min_free_bytes or percent < settings.disk_low_percent:
        says = f"the disk is nearly full ({percent:.0f} % free): the node refuses images until there is room"
        helps = "make room, or let keep_inputs_days and keep_results_days delete what is done"
        yield Need(what="disk", count=1, says=says, helps=helps)
    try:
        late = [entry for entry in Journal.waiting(store.journals) if entry.at < now - _FILED]
    except (OSError, NoJournal) as why:
        late, says = [], f"a journal cannot be read ({why}): what it holds is not filed"
        yield Need(what="journal", count=1, says=says, helps="look at store/journal; never remove what lies there")
    if late:
        waits = _count(len(late), "acknowledged image waits", "acknowledged images wait")
        says = f"{waits} to be filed, the oldest for {span(now - min(entry.at for entry in late))}"
        helps = "is the listener running? Its log says what keeps it from filing: the database, or the disk"
        yield Need(what="journal", count=len(late), says=says, helps=helps)
    if count := len(store.quarantined()):
        says = f"{_count(count, 'file', 'files')} of the store could not be filed"
        yield Need(what="quarantine", count=count, says=says, helps="pacs-node quarantine list")


def _of_pauses(session: Session, *, now: datetime) -> Iterator[Need]:
    for one in pauses.list_pauses(session):
        why = f": {one.reason}" if one.reason else ""
        says = f"{one.what} is paused since {span(now - one.at)} by {one.who}{why}"
        yield Need(what="paused", count=1, says=says, helps=f"pacs-node resume {one.what}")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
