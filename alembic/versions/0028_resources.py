"""a job and a create have a resource: a kind of job of their source

A job may also have an address of its own, at which it is read, encrypted because such addresses can hold a signature,
and the progress that its last event had. An account may be known to have few credits left, since a time.

The unique constraint of `jobs` changes. SQLite has no statement for that, so its table is made anew.
"""

from alembic import op
from sqlalchemy import Column, Float, LargeBinary, Text, text

revision = '0028'
down_revision = '0027'
branch_labels = None
depends_on = None

KEY = ['external_id', 'source', 'account']
REMOVED = {
    'jobs of further resources': "jobs WHERE resource <> ''",
    'status URLs of jobs': "jobs WHERE status_url IS NOT NULL AND resource = ''",
}
INDEX, FILLED = 'ix_jobs_status_url', text('status_url IS NOT NULL')


def upgrade() -> None:
    for table in ('jobs', 'intents'):
        op.add_column(table, Column('resource', Text, nullable=False, server_default=''))  # rewrites no row
    for name in ('status_url', 'told'):
        op.add_column('jobs', Column(name, LargeBinary))
    op.add_column('accounts', Column('credits_low_since', Float))
    op.create_index(INDEX, 'jobs', ['uid'], sqlite_where=FILLED, postgresql_where=FILLED)
    change([*KEY], [*KEY, 'resource'])


def downgrade() -> None:
    op.drop_index(INDEX, 'jobs')
    op.drop_column('accounts', 'credits_low_since')
    for name in ('told', 'status_url'):
        op.drop_column('jobs', name)
    # The program before would poll them as jobs of the first resource, and an id may be there twice.
    op.execute("DELETE FROM jobs WHERE resource <> ''")
    change([*KEY, 'resource'], [*KEY])
    for table in ('jobs', 'intents'):
        op.drop_column(table, 'resource')


def change(before, after) -> None:
    name = '_'.join(['uq_jobs', *before]), '_'.join(['uq_jobs', *after])
    if op.get_bind().dialect.name == 'sqlite':
        rebuild(f'{name[0]} UNIQUE ({", ".join(before)})', f'{name[1]} UNIQUE ({", ".join(after)})')
        return
    op.create_unique_constraint(name[1], 'jobs', after)
    op.drop_constraint(name[0], 'jobs')


def rebuild(before, after) -> None:
    """As https://www.sqlite.org/lang_altertable.html#otheralter says. Nothing refers to the table."""
    connection = op.get_bind()
    rows = connection.exec_driver_sql("SELECT name, type, sql FROM sqlite_master WHERE tbl_name = 'jobs' AND sql <> ''")
    made = rows.all()
    (table,) = (row.sql for row in made if row.type == 'table')
    assert before in table, table
    _, _, rest = table.partition('(')
    connection.exec_driver_sql(f'CREATE TABLE new_jobs ({rest.replace(before, after)}')
    names = ', '.join(row.name for row in connection.exec_driver_sql('PRAGMA table_info(jobs)'))
    connection.exec_driver_sql(f'INSERT INTO new_jobs ({names}) SELECT {names} FROM jobs ORDER BY uid')
    connection.exec_driver_sql('DROP TABLE jobs')
    connection.exec_driver_sql('ALTER TABLE new_jobs RENAME TO jobs')
    for row in made:
        if row.type == 'index':
            connection.exec_driver_sql(row.sql)
