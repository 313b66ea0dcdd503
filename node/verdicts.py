"""The radiologist's verdict: instances that came in and are about results of ours, matched to their jobs and judged.

Receiving only leaves a mark beside the instance's row (`node.intake`); the sweep looks at it here, later and alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from models import catalogue
from node.db import jobs, verdicts
from node.db.session import Database
from node.db.verdicts import NewVerdict, OwnResult, Pending
from node.dicom.drawing import Drawing, SegmentInfo, Unreadable, segment_infos
from node.dicom.header import PARSE_ERRORS, quiet, read_instance
from node.dicom.report import read_report
from node.dicom.verdict import (
    References,
    is_by_structure,
    judge_key_objects,
    judge_report,
    judge_seg,
    references,
    same_patient,
)
from node.domain.job import Job
from node.domain.verdict import KEY_OBJECTS, REPORTS, SEGMENTATIONS, Judgement, MatchedBy, VerdictKind
from node.errors import UnreadableInstance
from node.logs import failure
from node.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

_AT_ONCE = 8  # instances in one round of the sweep, so that its other parts come in time
_FORMS = ("BINARY", "FRACTIONAL", "LABELMAP")  # in which of several equal Segmentations we look ours up


def model_version(model: str, digest: str) -> str:
    """Return the version on a model's card where *digest* is still that model's, else the beginning of the digest."""
    if model in catalogue.card_names() and catalogue.digest(model) == digest:
        return catalogue.card(model).version
    return digest[:12]


def look_at_pending(database: Database, store: Store, *, now: Callable[[], datetime], limit: int = _AT_ONCE) -> int:
    """Look at instances that may bear a verdict, at most *limit*; return how many.

    What cannot be looked at now, e.g. because the store is away, is tried again later, and not for ever.
    """
    for count in range(limit):
        with database.transaction() as session:
            pending = verdicts.claim_due(session, now=now())
        if pending is None:
            return count
        _look_at(database, store, pending, now=now)
    return limit


def _look_at(database: Database, store: Store, pending: Pending, *, now: Callable[[], datetime]) -> None:
    fields = {"sop_instance_uid": pending.sop_uid, "study_uid": pending.study_uid}
    found: list[NewVerdict] = []
    trouble = ""
    try:
        if pending.tries > verdicts.MOST_TRIES:
            trouble = f"it could not be looked at, {verdicts.MOST_TRIES} times"
        else:
            found = _Examination(database, store, pending).verdicts()
    except UnreadableInstance as why:
        trouble = str(why)
    except Exception as why:  # noqa: BLE001  # one instance that cannot be looked at keeps no other waiting
        log.error("verdict not looked at: %s", failure(why), extra=fields)
        return  # its next try is due later
    with database.transaction() as session:
        verdicts.settle(session, pending, found, at=now(), trouble=trouble)
    for one in found:
        said = {"verdict": str(one.judgement.kind), "matched_by": str(one.matched_by)}
        log.info("verdict recorded", extra={**fields, **said, "job_id": one.job.id})
    if trouble:
        log.warning("verdict unreadable: %s", trouble, extra=fields)


@dataclass(kw_only=True, slots=True, eq=False)
class _Candidate:
    """A job that an object may be about."""

    job: Job
    results: list[OwnResult]
    by: MatchedBy | None = None
    numbers: set[int] = field(default_factory=set)  # of their segments that are this job's
    files: set[str] = field(default_factory=set)  # SOP Instance UIDs of our Segmentations that they are about


class _Examination:
    """One instance, looked at once."""

    def __init__(self, database: Database, store: Store, pending: Pending) -> None:
        self._database, self._store, self._pending = database, store, pending
        self._headers: dict[str, Dataset] = {}

    def verdicts(self) -> list[NewVerdict]:
        """Return what the instance says of each job that it is about; none where it is about nothing of ours.

        Raises UnreadableInstance where it cannot be parsed, OSError where its file is not there.
        """
        with quiet():  # values that break their VR are looked at where they are used
            theirs = self._read(self._pending.path, pixels=False)
            named = _guarded(references, theirs)
            with self._database.reading() as session:
                if verdicts.own_among(session, [self._pending.sop_uid]):
                    return []
                matched = self._match(session, theirs, named)
                sources = {one.job.id: verdicts.input_uids(session, one.job.id) for one in matched}
            return [
                NewVerdict(
                    job=one.job, matched_by=one.by or MatchedBy.REFERENCE,
                    judgement=self._judge(one, matched, theirs, named, sources[one.job.id]),
                )
                for one in matched
            ]  # fmt: skip

    # Matching: the surest way that leads to a job ends the search.

    def _match(self, session: Session, theirs: Dataset, named: References) -> list[_Candidate]:
        by_name = self._by_reference(session, named)
        if self._pending.sop_class == KEY_OBJECTS:
            return by_name
        candidates = self._of_study(session, {one.job.id for one in by_name})
        if self._pending.sop_class in REPORTS:
            return by_name or self._report_by_tracking(candidates, named)
        infos = _guarded(segment_infos, theirs)
        for one in by_name:
            self._claim(one, infos, MatchedBy.TRACKING, _same_tracking)
        tracked = [one for one in candidates if self._claim(one, infos, MatchedBy.TRACKING, _same_tracking)]
        return [*by_name, *tracked] or self._by_structure(session, candidates, infos, named)

    def _by_reference(self, session: Session, named: References) -> list[_Candidate]:
        found: dict[str, _Candidate] = {}
        for result in verdicts.own_among(session, named.instances):
            if result.job_id not in found:
                job = jobs.get(session, result.job_id)
                mine = verdicts.own_of_study(session, job.study_uid)
                results = [one for one in mine if one.job_id == job.id]
                found[job.id] = _Candidate(job=job, results=results, by=MatchedBy.REFERENCE)
            if result.sop_class in SEGMENTATIONS:
                found[result.job_id].files.add(result.sop_uid)
        return list(found.values())

    def _of_study(self, session: Session, without: Collection[str]) -> list[_Candidate]:
        """Return the other jobs of the study that have results, the newest first."""
        results: dict[str, list[OwnResult]] = {}
        for result in verdicts.own_of_study(session, self._pending.study_uid):
            results.setdefault(result.job_id, []).append(result)
        wanted = [job_id for job_id in results if job_id not in without]
        return [_Candidate(job=job, results=results[job.id]) for job in verdicts.jobs_of(session, wanted)]

    def _report_by_tracking(self, candidates: Sequence[_Candidate], named: References) -> list[_Candidate]:
        found = [one for one in candidates if self._tracking_uids(one) & named.tracking]
        for one in found:
            one.by = MatchedBy.TRACKING
        return found

    def _by_structure(
        self, session: Session, candidates: Sequence[_Candidate], infos: Sequence[SegmentInfo], named: References
    ) -> list[_Candidate]:
        """Return, for each model, its newest job over the same source series; no segment is given to two models.

        What came before a result was there says nothing of it, however alike the two are.
        """
        found: list[_Candidate] = []
        older = verdicts.ready_before(session, [one.job.id for one in candidates], self._pending.kept_at)
        free = list(infos)
        models: set[str] = set()
        for one in candidates:
            same = one.job.series_uid in named.series or verdicts.input_uids(session, one.job.id) & named.instances
            if one.job.id not in older or not same or one.job.model in models or not _segmentations(one.results):
                continue
            models.add(one.job.model)
            if self._claim(one, free, MatchedBy.STRUCTURE, is_by_structure):
                free = [info for info in free if info.number not in one.numbers]
                found.append(one)
        return found

    def _claim(
        self, candidate: _Candidate, infos: Iterable[SegmentInfo], by: MatchedBy,
        alike: Callable[[SegmentInfo, SegmentInfo], bool],
    ) -> bool:  # fmt: skip
        """Note which of their segments are a candidate's, and in which of our files; return whether any is."""
        whole = candidate.by is MatchedBy.REFERENCE and bool(candidate.files)  # the files were named
        for result in _segmentations(candidate.results):
            ours = self._infos(result)
            hit = {theirs.number for theirs in infos if any(alike(mine, theirs) for mine in ours)}
            candidate.numbers |= hit
            if hit and not whole:
                candidate.files.add(result.sop_uid)
        if candidate.numbers and candidate.by is None:
            candidate.by = by
        return bool(candidate.numbers)

    # Judging: what fails here is a verdict too, with its reason.

    def _judge(
        self, one: _Candidate, matched: Sequence[_Candidate], theirs: Dataset, named: References,
        sources: Collection[str],
    ) -> Judgement:  # fmt: skip
        try:
            same_patient(self._header(one.results[0]), theirs)
            if self._pending.study_uid != one.job.study_uid:
                return Judgement(kind=VerdictKind.NOTED, reason="it belongs to another study, and refers to the result")
            if self._pending.sop_class == KEY_OBJECTS:
                return judge_key_objects(theirs, sources)
            if self._pending.sop_class in REPORTS:
                return self._judge_report(one, theirs, named)
            return self._judge_seg(one, {n for other in matched if other is not one for n in other.numbers})
        except Unreadable as why:
            return Judgement(kind=VerdictKind.UNREADABLE, reason=str(why))
        except UnreadableInstance:
            return Judgement(kind=VerdictKind.UNREADABLE, reason="the result itself can no longer be read")
        except FileNotFoundError:
            return Judgement(kind=VerdictKind.UNREADABLE, reason="the result itself is no longer in the store")
        except OSError:
            raise  # the store is away: later
        except PARSE_ERRORS as why:
            return Judgement(kind=VerdictKind.UNREADABLE, reason=f"it could not be compared ({type(why).__name__})")

    def _judge_seg(self, one: _Candidate, elsewhere: Collection[int]) -> Judgement:
        theirs = Drawing(self._read(self._pending.path, pixels=True))
        ours = [Drawing(self._read(result.path, pixels=True)) for result in self._needed(one)]
        return judge_seg(ours, theirs, elsewhere=elsewhere)

    def _needed(self, one: _Candidate) -> list[OwnResult]:
        """Return our Segmentations to compare with: each segment once, whatever forms it was sent in."""
        wanted = [r for r in _segmentations(one.results) if not one.files or r.sop_uid in one.files]
        wanted.sort(key=lambda result: _rank(self._header(result)))
        needed: list[OwnResult] = []
        seen: set[str] = set()
        for result in wanted:
            uids = {info.tracking_uid for info in self._infos(result)}
            if not uids <= seen:
                needed.append(result)
                seen |= uids
        return needed

    def _judge_report(self, one: _Candidate, theirs: Dataset, named: References) -> Judgement:
        ours = [result for result in one.results if result.sop_class in REPORTS]
        successor = bool(named.predecessors & {result.sop_uid for result in ours})
        headers = [self._header(result) for result in ours]
        return judge_report(headers, self._tracking_uids(one), theirs, successor=successor)

    def _tracking_uids(self, one: _Candidate) -> set[str]:
        found: set[str] = set()
        for result in one.results:
            if result.sop_class in SEGMENTATIONS:
                found |= {info.tracking_uid for info in self._infos(result)}
            elif result.sop_class in REPORTS:
                found |= set(read_report(self._header(result)).findings)
        return found - {""}

    def _infos(self, result: OwnResult) -> tuple[SegmentInfo, ...]:
        """Return the segments of a file of ours; none where it is damaged or gone: others may still be matched."""
        try:
            return segment_infos(self._header(result))
        except (UnreadableInstance, FileNotFoundError):
            return ()

    def _header(self, result: OwnResult) -> Dataset:
        if result.sop_uid not in self._headers:
            self._headers[result.sop_uid] = self._read(result.path, pixels=False)
        return self._headers[result.sop_uid]

    def _read(self, name: str, *, pixels: bool) -> Dataset:
        path = self._store.path(name)
        path.stat()  # a store that is away is no unreadable instance
        return read_instance(path, pixels=pixels)


def _same_tracking(ours: SegmentInfo, theirs: SegmentInfo) -> bool:
    return bool(ours.tracking_uid) and ours.tracking_uid == theirs.tracking_uid


def _segmentations(results: Iterable[OwnResult]) -> list[OwnResult]:
    return [one for one in results if one.sop_class in SEGMENTATIONS]


def _rank(header: Dataset) -> int:
    form = str(header.get("SegmentationType") or "")
    return _FORMS.index(form) if form in _FORMS else len(_FORMS)


def _guarded(read: Callable[[Dataset], T], dataset: Dataset) -> T:
    """Return what *read* finds in a foreign data set; UnreadableInstance where a value deep in it breaks its type."""
    try:
        return read(dataset)
    except PARSE_ERRORS as why:
        raise UnreadableInstance(f"the instance has damaged values ({type(why).__name__})") from why
