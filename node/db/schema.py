"""The schema's migrations: what changes it. Looking whether it is the newest is `node.db.session.check_schema`."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from node.db.session import MIGRATIONS


def alembic_config(url: str) -> Config:
    """Return what Alembic wants to know of the database at *url* and of our migrations."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Bring the database at *url* to the newest schema; safe to run again."""
    command.upgrade(alembic_config(url), "head")
