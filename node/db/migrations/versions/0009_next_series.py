"""The next best series is read where a model declines the best, and what it declined is shown"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    with op.batch_alter_table("choice", schema=None) as batch_op:
        batch_op.add_column(sa.Column("place", sa.Integer(), nullable=True))
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pictured", sa.Boolean(), server_default="0", nullable=False))
        batch_op.drop_constraint("uq_job_study_uid_model_revision", type_="unique")
        batch_op.create_unique_constraint(
            "uq_job_study_uid_model_revision_series_uid", ["study_uid", "model", "revision", "series_uid"]
        )
