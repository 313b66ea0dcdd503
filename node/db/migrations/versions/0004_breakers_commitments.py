"""Breakers of peers, questions for storage commitment, deliveries that are verified"""

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "breaker",
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened_at", node.db.tables.Utc(timezone=True), nullable=True),
        sa.Column("until", node.db.tables.Utc(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("peer", name=op.f("pk_breaker")),
    )
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("asked_at", node.db.tables.Utc(timezone=True), nullable=False),
        sa.Column("answered_at", node.db.tables.Utc(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_commitment_job_id")),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitment")),
    )
    with op.batch_alter_table("commitment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_commitment_job_id"), ["job_id"], unique=False)
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.add_column(sa.Column("looks", sa.Integer(), server_default="0", nullable=False))
        batch_op.create_index(batch_op.f("ix_delivery_peer_state"), ["peer", "state"], unique=False)
    # A job that was done stays done: what its peers answered then is all that was ever asked of them.
    op.execute(
        "UPDATE delivery SET state = 'verified', reason = 'by its answer: sent before results were looked for' "
        "WHERE state = 'acked' AND job_id IN (SELECT id FROM job WHERE state = 'done')"
    )


def downgrade() -> None:
    op.execute("UPDATE delivery SET state = 'acked' WHERE state = 'verified'")
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_delivery_peer_state"))
        batch_op.drop_column("looks")
    op.drop_table("commitment")
    op.drop_table("breaker")
