"""the progress that the last event of a job had, of jobs whose progress is told"""

from alembic import op
from sqlalchemy import Column, LargeBinary

revision = '0031'
down_revision = '0030'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", Column("told", LargeBinary))


def downgrade() -> None:
    op.drop_column("jobs", "told")
