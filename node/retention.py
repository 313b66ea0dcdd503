"""Retention: what nobody needs any more is deleted when its time is over; what is unfinished never."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby

from node.db import retention
from node.db.session import Database
from node.settings import Settings
from node.store import RESULTS_OF, Store

log = logging.getLogger(__name__)


def delete_what_is_over(database: Database, store: Store, settings: Settings, *, now: Callable[[], datetime]) -> int:
    """Delete what has outlived its days, a few studies at a time; return how many files and folders went.

    Nothing goes while a backup reads the store: the database that it copied names these files.
    """
    with store.alone() as alone:
        if not alone:
            return 0
        for days, inputs in ((settings.keep_inputs_days, True), (settings.keep_results_days, False)):
            if days:
                _forget(database, now() - timedelta(days=days), inputs=inputs, at=now())
        return _collect(database, store)


def _forget(database: Database, before: datetime, *, inputs: bool, at: datetime) -> None:
    """Take the rows of what is over out of the table, one transaction for each study."""
    with database.reading() as session:
        uids = retention.over(session, before=before, inputs=inputs)
    for uid in uids:
        with database.transaction() as session:
            if inputs:
                count = retention.forget_inputs(session, uid, before=before, at=at)
            else:
                count = retention.forget_results(session, uid, before=before, folder=RESULTS_OF, at=at)
        what = "inputs" if inputs else "results"
        log.info("%s deleted: their time was over", what, extra={"study_uid": uid, "count": count})


def _collect(database: Database, store: Store) -> int:
    """Delete the files that are noted as nobody's; what a crash left over is among them.

    Each batch holds the study's row while it deletes: an instance that is being received again waits, and then finds
    that its file is gone, or was there first and keeps it.
    """
    deleted = 0
    while True:
        with database.reading() as session:
            noted = retention.noted(session)
        if not noted:
            return deleted
        for uid, group in groupby(noted, key=lambda one: one.study_uid):
            batch = list(group)
            with database.transaction() as session:
                free = retention.still_nobodys(session, uid, batch)
                store.delete(free)
                retention.drop_notes(session, batch)
            deleted += len(free)
