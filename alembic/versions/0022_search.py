"""pages of jobs by channel and by connect account"""

import sqlalchemy as sa
from alembic import op

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None


def _add(name: str, column: str) -> None:
    where = sa.text(f'{column} IS NOT NULL')
    op.create_index(name, 'jobs', [column, 'uid'], sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    _add('ix_jobs_channel', 'channel')
    _add('ix_jobs_connect', 'connect_account_id')


def downgrade() -> None:
    op.drop_index('ix_jobs_connect', 'jobs')
    op.drop_index('ix_jobs_channel', 'jobs')
