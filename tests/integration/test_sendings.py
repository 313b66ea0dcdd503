"""Associations over a real listener: what the table knows of them, and when a study is complete by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from node.db import completion, events, jobs
from node.db.completion import Open
from node.db.tables import AssociationRow
from node.planning import Planned, settle_due
from node.scp import sendings as module
from node.scp.sendings import Sendings
from node.testing import FixedClock, synthetic_ct
from tests.integration.conftest import Door
from tests.integration.test_scp import associate, send
from tests.rig import wait_for

STUDY = "2.25.4711"
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture(autouse=True)
def told_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is told after 50 ms, not after half a second."""
    monkeypatch.setattr(module, "_PAUSE", 0.05)


def known(door: Door) -> list[tuple[str, str]]:
    """Return (study, calling AE title) of the associations of the table."""
    with door.database.reading() as session:
        return [(row.study_uid, row.calling_ae) for row in session.scalars(select(AssociationRow))]


def settle(door: Door, after: float = 120) -> list[Planned]:
    """Settle what is complete so many seconds after all came."""
    now = FixedClock()() + timedelta(seconds=after)
    return settle_due(door.database, door.settings.rules, door.settings.waits, now=now)


def store(association: Any, image: Dataset) -> None:
    """Store one image."""
    assert association.send_c_store(image).Status == 0x0000


def test_a_sender_that_pauses_on_its_association_gets_one_job(door: Door) -> None:
    """Twice the quiet time goes by between two images; the study settles when the association is released."""
    images = synthetic_ct(slices=12)
    association = associate(door, (CT, EXPLICIT))
    for image in images[:6]:
        store(association, image)
    wait_for("word of the association", lambda: known(door) == [(STUDY, "SCANNER")], limit=10)
    assert settle(door) == []
    for image in images[6:]:
        store(association, image)
    association.release()
    wait_for("word of its end", lambda: known(door) == [], limit=10)
    (planned,) = settle(door)
    assert planned.revision == 1
    with door.database.reading() as session:
        assert {job.revision for job in jobs.list_jobs(session)} == {1}


def test_four_senders_at_once_with_shuffled_series_get_one_job_for_each_model(door: Door) -> None:
    """Each brings a part of every series; in between, the study never settles."""
    images = [image for number in (1, 2, 3) for image in synthetic_ct(slices=12, series_number=number)]
    middle = threading.Barrier(5)
    over = threading.Barrier(5)

    def bring(part: list[Dataset]) -> None:
        association = associate(door, (CT, EXPLICIT))
        for place, image in enumerate(part):
            if place == len(part) // 2:
                middle.wait(30)
                over.wait(30)
            store(association, image)
        association.release()

    threads = [threading.Thread(target=bring, args=(images[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    middle.wait(30)
    wait_for("word of all four", lambda: len(known(door)) == 4, limit=10)
    assert settle(door) == []
    over.wait(30)
    for thread in threads:
        thread.join()
    wait_for("word of their end", lambda: known(door) == [], limit=10)
    (planned,) = settle(door)
    assert (planned.revision, len(planned.job_ids)) == (1, 2)


def test_an_association_that_breaks_off_is_told_and_holds_nothing(door: Door) -> None:
    """What it brought is kept, the study settles by quiet, and its story says so."""
    association = associate(door, (CT, EXPLICIT))
    for image in synthetic_ct(slices=12)[:5]:
        store(association, image)
    wait_for("word of the association", lambda: known(door) == [(STUDY, "SCANNER")], limit=10)
    association.abort()
    wait_for("word of its end", lambda: known(door) == [], limit=10)
    assert len(settle(door)) == 1
    with door.database.reading() as session:
        told = [(event.what, event.who) for event in events.story(session, study_uid=STUDY)]
    assert told == [("association broke off", "SCANNER"), ("settled", "sweep")]


def test_a_short_association_costs_the_table_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over before it was to be told."""
    monkeypatch.setattr(module, "_PAUSE", 1.0)
    held: list[Open] = []
    monkeypatch.setattr(completion, "hold", lambda _, found, **__: held.extend(found))
    assert send(door, *synthetic_ct(slices=3)) == [0x0000] * 3
    wait_for("the telling to end", lambda: all(t.name != "sendings" for t in threading.enumerate()), limit=20)
    assert held == []


def test_word_that_the_database_does_not_take_is_told_once_it_does(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An association that ended while the database was away does not stay open for ever."""
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    send(door, *synthetic_ct(slices=1))
    sendings = Sendings(door.database, FixedClock())
    key = object()
    sendings.brought(key, STUDY, calling_ae="SCANNER")
    assert sendings.rest(10)
    assert known(door) == [(STUDY, "SCANNER")]
    failing = iter([True, True, False])
    release: Callable[..., None] = completion.release

    def sick(session: Any, ids: Any) -> None:
        if next(failing):
            raise OperationalError("DELETE", {}, Exception("test"))
        release(session, ids)

    monkeypatch.setattr(completion, "release", sick)
    sendings.ended(key, broke_off=False)
    assert sendings.rest(10)
    assert known(door) == []


def test_an_association_that_ends_while_it_is_told_is_taken_away_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is just being written."""
    send(door, *synthetic_ct(slices=1))
    sendings = Sendings(door.database, FixedClock())
    key = object()
    hold: Callable[..., None] = completion.hold

    def ending(session: Any, found: Any, **rest: Any) -> None:
        hold(session, found, **rest)
        sendings.ended(key, broke_off=False)

    monkeypatch.setattr(completion, "hold", ending)
    sendings.brought(key, STUDY, calling_ae="SCANNER")
    assert sendings.rest(10)
    assert known(door) == []


def test_who_brings_more_of_a_known_study_is_told_before_that_is_in_the_table(door: Door) -> None:
    """Else the study could look quiet and settle while it is being sent."""
    send(door, *synthetic_ct(slices=1))
    sendings = Sendings(door.database, FixedClock(), lambda: lambda _: False)
    sendings.brought(object(), STUDY, calling_ae="SCANNER")
    assert sendings.rest(10)
    assert known(door) == [(STUDY, "SCANNER")]
