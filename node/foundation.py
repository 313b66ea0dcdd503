"""What every process stands on: settings, table, store. Nothing here needs a broker, or writes results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models import catalogue
from node.db.session import Database, check_schema, open_engine
from node.errors import SettingsError
from node.intake import Intake
from node.logs import lose_what_cannot_be_written, set_up_logging
from node.settings import Settings, load_settings
from node.store import Store


def utc_now() -> datetime:
    """Return the time now, aware, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Foundation:
    """What an entry point works with that takes instances in, and no more."""

    settings: Settings
    database: Database
    store: Store

    def now(self) -> datetime:
        """Return the time now, aware, UTC."""
        return utc_now()

    def intake(self) -> Intake:
        """Return what keeps instances."""
        return Intake(self.database, self.store, self.now, manufacturer=self.settings.manufacturer)


def settings_for(home: Path | None, role: str) -> Settings:
    """Return the settings for a long-running role, with its logging set up."""
    settings = load_settings(home)
    lose_what_cannot_be_written()
    set_up_logging(role, level=settings.log_level, form=settings.log_format)
    return settings


def check_models(settings: Settings) -> None:
    """Refuse rules that ask for a model that is not there."""
    known = catalogue.card_names()
    for rule in settings.rules:
        if rule.model not in known:
            raise SettingsError(f"rule {rule.name!r}: there is no model {rule.model!r}; known: {', '.join(known)}")


def lay(settings: Settings) -> Foundation:
    """Return what one process stands on; SettingsError where the home is not prepared."""
    check_models(settings)
    engine = open_engine(settings.database)
    check_schema(engine)
    store = Store(settings.home / "store", min_free=settings.min_free_bytes)
    return Foundation(settings=settings, database=Database(engine), store=store)
