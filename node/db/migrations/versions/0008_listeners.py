"""Listeners, and since when they listen"""

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "listener", sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("since", node.db.tables.Utc(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_listener")),
    )  # fmt: skip
