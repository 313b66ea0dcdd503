"""A listening node on loopback: its store and table are real, its associations too."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from node.bootstrap import Services, build, prepare
from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.db.tables import InstanceRow
from node.intake import Intake
from node.scp.server import start_scp
from node.settings import Settings, load_settings
from node.store import Store
from node.testing import FixedClock
from workers.inference import InferenceChild


@pytest.fixture(scope="module")
def child() -> Iterator[InferenceChild]:
    """One inference process for all tests of a file."""
    child = InferenceChild()
    yield child
    child.kill()


#: A node of which nobody is waited for, with one peer and one rule, which ends the text.
ONE_RULE = """
quiet_period = 0.001
device = "cpu"
[[peer]]
name = "pacs"
ae_title = "PACS"
[[rule]]
name = "lungs"
model = "ct-lung"
destinations = ["pacs"]
"""


def services_in(home: Path, configuration: str) -> Services:
    """Return a worker's services of a fresh home with this pacs-node.toml."""
    (home / "pacs-node.toml").write_text(configuration, encoding="utf-8")
    settings = load_settings(home)
    prepare(settings)
    return build(settings, "worker-gpu")


SENDER = {"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "port": 104}


@dataclass
class Door:
    """A listening node."""

    settings: Settings
    database: Database
    store: Store
    shut: Callable[[], None] = lambda: None  # stop listening

    def rows(self) -> list[InstanceRow]:
        """Return the rows of all instances, oldest first."""
        with self.database.reading() as session:
            return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))

    def files(self) -> list[Path]:
        """Return every file below the store's instances, and what came in and is none yet."""
        rooms = (self.store.root / "instances", self.store.root / "incoming")
        return sorted(path for room in rooms for path in room.rglob("*") if path.is_file())


OpenDoor = Callable[..., Door]


def once(act: Callable[[], None]) -> Callable[[], None]:
    """Return *act* as something that happens the first time only."""
    done: list[None] = []
    return lambda: done.append(act()) if not done else None


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenDoor]:
    """Return a function that starts a listener with the given settings, and perhaps another store."""
    with ExitStack() as stack:

        def start(store: Store | None = None, *, journal: bool = False, **changes: Any) -> Door:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            values = {"home": tmp_path / "home", "host": "127.0.0.1", "port": port, "peer": [SENDER], **changes}
            settings = Settings(**values)
            settings.home.mkdir(exist_ok=True)
            migrate(settings.database)
            engine = open_engine(settings.database)
            stack.callback(engine.dispose)
            door = Door(settings, Database(engine), store or Store(settings.home / "store"))
            intake = Intake(door.database, door.store, FixedClock(), manufacturer=settings.manufacturer)
            if journal:
                intake.open_logbook(8 << 20, longest=3600.0)
                assert intake.logbook is not None
                stack.callback(intake.logbook.close, limit=10)
            server = start_scp(settings, intake)
            door.shut = once(server.shutdown)
            stack.callback(door.shut)
            return door

        yield start


@pytest.fixture
def door(open_door: OpenDoor) -> Door:
    """A node that listens with the settings of every day and knows one sender, SCANNER."""
    return open_door()
