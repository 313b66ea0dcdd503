"""Alembic's entry: migrations run over the URL that the caller passes in."""

from alembic import context

from node.db.session import open_engine
from node.db.tables import Base

engine = open_engine(context.config.attributes["url"], patient=True)
with engine.connect() as connection:
    if engine.dialect.name == "sqlite":
        # It changes a key by copying the table and dropping the old one, whose rows others refer to. Its manual says to
        # let go of foreign keys for that; inside a transaction this would do nothing.
        connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
    # All or nothing: SQLite can undo DDL too once the driver leaves BEGIN to us, as open_engine has it.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
