"""What looking after a node needs: whom an instance names, what is lost, set aside, deleted or paused"""

import sqlalchemy as sa
from alembic import op

import node.db.tables

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("what", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("at", node.db.tables.Utc(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("what", name=op.f("pk_pause")),
    )
    op.create_table(
        "garbage",
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("at", node.db.tables.Utc(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_uid"], ["study.uid"], name=op.f("fk_garbage_study_uid")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_garbage_job_id")),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_garbage")),
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.add_column(sa.Column("patient_id", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("set_aside", sa.Text(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("lost_at", node.db.tables.Utc(timezone=True), nullable=True))
    with op.batch_alter_table("result", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lost_at", node.db.tables.Utc(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("deleted_at", node.db.tables.Utc(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("result", schema=None) as batch_op:
        batch_op.drop_column("deleted_at")
        batch_op.drop_column("lost_at")
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.drop_column("lost_at")
        batch_op.drop_column("set_aside")
        batch_op.drop_column("patient_id")
    op.drop_table("garbage")
    op.drop_table("pause")
