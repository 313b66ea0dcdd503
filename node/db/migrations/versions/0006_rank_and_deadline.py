"""Jobs age, and may have a deadline"""

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0006"
down_revision = "0005"

AGEING = 1800  # seconds, as node.domain.job had it


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rank", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("deadline_at", node.db.tables.Utc(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("late", sa.Boolean(), server_default="0", nullable=False))
        batch_op.drop_index("ix_job_claim")
        batch_op.create_index("ix_job_claim", ["state", "rank"], unique=False)
    epoch = "CAST(strftime('%s', created_at) AS INTEGER)"
    if op.get_bind().dialect.name == "postgresql":
        epoch = "CAST(EXTRACT(EPOCH FROM created_at) AS BIGINT)"
    op.execute(f"UPDATE job SET rank = {epoch} + priority * {AGEING}")  # noqa: S608  # of our own words
