"""When a study is complete: associations, counts, performed steps; questions for storage commitment"""

from typing import Any

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0007"
down_revision = "0006"

UID = sa.String(length=64)


def at(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """A column for a time."""
    return sa.Column(name, node.db.tables.Utc(timezone=True), nullable=nullable)


def words(name: str, length: int = 0) -> sa.Column[Any]:
    """A column for a text."""
    return sa.Column(name, sa.String(length=length) if length else sa.Text(), nullable=False)


def upgrade() -> None:
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.add_column(at("opened_at", nullable=True))
        batch_op.add_column(at("look_at", nullable=True))
    op.create_table(
        "association", words("id", 36), sa.Column("study_uid", UID, nullable=False), words("calling_ae"),
        words("owner"), at("since"), sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_association_study_uid")),
    )  # fmt: skip
    op.create_index(op.f("ix_association_study_uid"), "association", ["study_uid"])
    op.create_table(
        "count", sa.Column("study_uid", UID, nullable=False), words("peer", 64),
        sa.Column("epoch", sa.Integer(), nullable=False), at("asked_at"), at("next_at"),
        sa.Column("tries", sa.Integer(), nullable=False), sa.Column("there", sa.JSON(), nullable=False),
        words("reason"), sa.PrimaryKeyConstraint("study_uid", name=op.f("pk_count")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_count_study_uid")),
    )  # fmt: skip
    op.create_table(
        "step", sa.Column("sop_uid", UID, nullable=False), words("state", 16), words("calling_ae"), at("created_at"),
        at("updated_at"), sa.Column("series", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sop_uid", name=op.f("pk_step")),
    )  # fmt: skip
    op.create_table(
        "step_study", sa.Column("study_uid", UID, nullable=False), sa.Column("step_uid", UID, nullable=False),
        sa.PrimaryKeyConstraint("study_uid", "step_uid", name=op.f("pk_step_study")),
        sa.ForeignKeyConstraint(["step_uid"], ["step.sop_uid"], name=op.f("fk_step_study_step_uid")),
    )  # fmt: skip
    _commit_requests()


def _commit_requests() -> None:
    op.create_table(
        "commit_request",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        words("calling_ae", 16), sa.Column("transaction_uid", UID, nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False), at("asked_at"), at("next_at"),
        sa.Column("tries", sa.Integer(), nullable=False), words("owner"), at("lease_until", nullable=True),
        at("reported_at", nullable=True), sa.Column("committed", sa.Integer(), nullable=True), words("reason"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commit_request")),
        sa.UniqueConstraint("calling_ae", "transaction_uid", name=op.f("uq_commit_request_calling_ae_transaction_uid")),
    )  # fmt: skip
    op.create_index("ix_commit_request_due", "commit_request", ["reported_at", "next_at"])
