"""Alembic's entry: migrations run over the URL that the caller passes in."""

from alembic import context

from node.db.session import open_engine
from node.db.tables import Base

engine = open_engine(context.config.attributes["url"], patient=True)
with engine.connect() as connection:
    # All or nothing: SQLite can undo DDL too once the driver leaves BEGIN to us, as open_engine has it.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
