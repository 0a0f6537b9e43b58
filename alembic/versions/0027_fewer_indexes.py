"""fewer index entries for each job, and on PostgreSQL room for new versions of its row"""

from alembic import op
from sqlalchemy import text

revision = '0027'
down_revision = '0026'
branch_labels = None
depends_on = None

OLD = {
    'ix_jobs_open_uid': (['uid'], 'closed_at IS NULL'),
    'ix_jobs_closed_uid': (['uid'], 'closed_at IS NOT NULL'),
    'ix_jobs_status_uid': (['status', 'uid'], None),
    'ix_jobs_source_uid': (['source', 'uid'], None),
}
NEW = {
    'ix_jobs_unended': (['uid'], "(outcome IS NULL OR outcome IN ('untracked', 'not_found'))"),
    'ix_jobs_unsuccessful': (['status', 'uid'], "status || '' IN ('failed', 'cancelled')"),
}


def upgrade() -> None:
    change(OLD, NEW, 'SET (fillfactor = 85)')


def downgrade() -> None:
    change(NEW, OLD, 'RESET (fillfactor)')


def change(before, after, option) -> None:
    for name, (columns, where) in after.items():  # first: nothing can be read after the first one is dropped
        where = None if where is None else text(where)
        op.create_index(name, 'jobs', columns, sqlite_where=where, postgresql_where=where)
    for name in before:
        op.drop_index(name, 'jobs')
    if op.get_bind().dialect.name == 'postgresql':
        op.execute(f'ALTER TABLE jobs {option}')
