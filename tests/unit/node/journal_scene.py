"""What the tests of the logbook have in common: instances taken in, a listener killed, what a person is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from node.db import studies
from node.db.tables import InstanceRow
from node.health import Need, _of_store
from node.intake import Intake
from node.testing import part10
from tests.unit.node.conftest import World

Opened = Callable[..., Intake]  # longest: seconds


def keep(intake: Intake, *images: Dataset) -> None:
    """Take instances in, one after the other."""
    for image in images:
        intake.keep(part10(image), calling_ae="SCANNER")


def rows(world: World) -> list[InstanceRow]:
    """Return the rows of all instances, the first that came first."""
    with world.database.reading() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def killed(intake: Intake) -> None:
    """End a listener as kill -9 does: nothing more is filed, its lock goes."""
    book = intake.logbook
    assert book is not None and book._journal is not None
    book._filing._over = True
    with book._filing._changed:
        book._filing._changed.notify_all()
    book._filing._thread.join()
    book._filing._struck = book._filing._added  # nobody waits for it any more
    book._journal.close(remove=False)
    book._journal = None


@contextmanager
def nothing_filed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what comes into the journal stay there."""
    with monkeypatch.context() as patch:
        patch.setattr(studies, "keep_instances", never)
        patch.setattr("node.intake._PATIENCE", 0.0)
        yield


def needs_of(world: World) -> list[Need]:
    """Return what `pacs-node status` says of the store."""
    return list(_of_store(world.store, world.settings(disk_low_percent=0, min_free_bytes=0), now=world.clock()))


def never(*_: object) -> list[Exception | None]:
    """Stand for a filing that does not get to it before the process dies."""
    raise OperationalError("insert", {}, ValueError("not today"))
