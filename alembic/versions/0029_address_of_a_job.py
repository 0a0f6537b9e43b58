"""a job may have an address of its own, at which it is read. It is encrypted: such addresses can hold a signature"""

from alembic import op
from sqlalchemy import Column, LargeBinary, text

revision = '0029'
down_revision = '0028'
branch_labels = None
depends_on = None

INDEX, FILLED = "ix_jobs_status_url", text("status_url IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", Column("status_url", LargeBinary))
    op.create_index(INDEX, "jobs", ["uid"], sqlite_where=FILLED, postgresql_where=FILLED)


def downgrade() -> None:
    op.drop_index(INDEX, "jobs")
    op.drop_column("jobs", "status_url")
