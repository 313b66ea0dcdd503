"""What radiologists say of results"""

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "verdict",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("sop_uid", sa.String(length=64), nullable=False),
        sa.Column("content_sha", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("matched_by", sa.String(length=32), nullable=False),
        sa.Column("at", node.db.tables.Utc(timezone=True), nullable=False),
        sa.Column("calling_ae", sa.Text(), nullable=False),
        sa.Column("dice", sa.Double(), nullable=True),
        sa.Column("volume_change", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_verdict_job_id")),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_verdict_study_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
        sa.UniqueConstraint("sop_uid", "content_sha", "job_id", name=op.f("uq_verdict_sop_uid_content_sha_job_id")),
    )
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdict_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_verdict_job_id"), ["job_id"], unique=False)
    op.create_table(
        "verdict_pending",
        sa.Column(
            "instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("not_before", node.db.tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_verdict_pending_instance_id")),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_verdict_pending")),
    )
    with op.batch_alter_table("verdict_pending", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdict_pending_not_before"), ["not_before"], unique=False)


def downgrade() -> None:
    op.drop_table("verdict_pending")
    op.drop_table("verdict")
