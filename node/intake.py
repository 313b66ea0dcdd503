"""Receiving: an instance is kept when its bytes and the row that finds them would survive a power cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from node.db import jobs, results, studies, verdicts
from node.db.session import Database
from node.dicom.geometry import orientation_name
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts
from node.domain.verdict import BEARERS
from node.errors import StoreFull, UnreadableInstance
from node.failpoints import reach
from node.store import Store, sha256_hex

log = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds in which a lost connection to the database is made anew, before the sender is asked to wait


class Mismatch(UnreadableInstance):
    """The data set is another instance than the one that the peer announced."""


class Intake:
    """Keeps instances."""

    def __init__(self, database: Database, store: Store, now: Callable[[], datetime], *, manufacturer: str) -> None:
        self.database, self.store, self.now = database, store, now
        self._manufacturer = manufacturer

    def keep(self, data: bytes, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> InstanceFacts:
        """Keep one Part-10 encoded instance durably and return its facts.

        Raises UnreadableInstance where it cannot be filed, Mismatch where it is not the announced *sop_class* and
        *sop_uid*, StoreFull where it could not be made durable. Keeping the same bytes again changes nothing.
        """
        facts = read_facts(data)
        _compare(facts, sop_class, sop_uid)
        content_sha = sha256_hex(data)
        path = self.store.put_instance(data, content_sha, study_uid=facts.study_uid, sop_uid=facts.sop_uid)
        kept = studies.Kept(
            facts=facts, orientation=orientation_name(facts.orientation), content_sha=content_sha, path=path,
            size=len(data), calling_ae=calling_ae, at=self.now(),
        )  # fmt: skip
        try:
            self.database.patiently(lambda session: self._record(session, kept), seconds=_PATIENCE)
        except SQLAlchemyError as why:
            raise StoreFull(f"the database did not take the record of an instance: {type(why).__name__}") from why
        reach("intake.committed")
        return facts

    def _record(self, session: Session, kept: studies.Kept) -> None:
        ours = studies.is_own_result(session, kept.facts.sop_uid)
        bearer = kept.facts.sop_class in BEARERS  # what may bear a verdict: no model reads it, so it wakes nobody
        wakes = not (ours or bearer or kept.facts.manufacturer == self._manufacturer)
        new = studies.keep_instance(session, kept, wakes=wakes)
        if new and bearer and not ours:  # an edited result may keep our Manufacturer: only its UID decides
            verdicts.mark_pending(session, kept.facts.sop_uid, kept.content_sha, at=kept.at)
        if new and self.store.size_of(kept.path) < 0:
            # The same instance was just deleted because its time was over: without its file it is not kept.
            raise StoreFull("an instance was deleted while it came in again: it has to be sent once more")
        if new and studies.is_in_conflict(session, kept.facts.study_uid):
            for job_id in jobs.stop_for_conflict(session, kept.facts.study_uid, who=kept.calling_ae, at=kept.at):
                results.cancel_open(session, job_id, at=kept.at)
        if not new:
            log.debug("the same bytes again", extra={"sop_instance_uid": kept.facts.sop_uid})


def _compare(facts: InstanceFacts, sop_class: str, sop_uid: str) -> None:
    if sop_uid and facts.sop_uid != sop_uid:
        raise Mismatch(f"announced as instance {sop_uid}, but the data set is {facts.sop_uid}")
    if sop_class and facts.sop_class != sop_class:
        raise Mismatch(f"announced as SOP class {sop_class}, but the data set is {facts.sop_class}")
