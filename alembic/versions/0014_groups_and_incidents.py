"""groups of jobs, incidents, and the accounts that send"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), 'postgresql')
TIME = sa.Float(precision=53)
COUNT = sa.BigInteger().with_variant(sa.Integer, 'sqlite')
LIVE = "state IN ('watching', 'open')"
JOB_COLUMNS = ('group_name', 'result_status', 'error_code')
JOB_INDEXES = (
    ('ix_jobs_group', ('group_name', 'uid'), 'group_name IS NOT NULL'),
    (
        'ix_jobs_failed',
        ('source', 'account', 'error_code', 'connect_account_id', 'closed_at', 'uid'),
        'error_code IS NOT NULL',
    ),
    (
        'ix_jobs_group_work',
        ('source', 'account', 'group_name', 'closed_at', 'channel', 'scheduled_at'),
        'group_name IS NOT NULL',
    ),
    (
        'ix_jobs_open_connect',
        ('source', 'account', 'connect_account_id', 'uid'),
        'closed_at IS NULL AND connect_account_id IS NOT NULL',
    ),
)
INDEXES = (
    ('groups', 'ix_groups_due', ('due_at', 'id'), 'due_at IS NOT NULL'),
    ('groups', 'ix_groups_open', ('id',), 'finished_at IS NULL'),
    ('groups', 'ix_groups_finished', ('finished_at', 'id'), 'finished_at IS NOT NULL'),
    ('incidents', 'ix_incidents_due', ('due_at', 'id'), 'due_at IS NOT NULL'),
    ('incidents', 'ix_incidents_shown', ('id',), "state <> 'watching'"),
    ('incidents', 'ix_incidents_open', ('id',), "state = 'open'"),
    ('incidents', 'ix_incidents_closed_at', ('closed_at', 'id'), 'closed_at IS NOT NULL'),
)


def partial_index(table: str, name: str, columns: tuple[str, ...], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name, table, list(columns), unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )


def upgrade() -> None:
    for name in JOB_COLUMNS:
        op.add_column('jobs', sa.Column(name, sa.Text, nullable=True))
    op.add_column('jobs', sa.Column('group_round', sa.Integer, nullable=True))
    for name, columns, where in JOB_INDEXES:
        partial_index('jobs', name, columns, where)
    op.add_column('accounts', sa.Column('listed_at', TIME, nullable=True))
    op.add_column('intents', sa.Column('group_name', sa.Text, nullable=True))
    op.add_column('intents', sa.Column('group_size', COUNT, nullable=True))
    op.create_table(
        'groups',
        sa.Column('id', sa.Text, nullable=False),
        sa.Column('source', sa.Text, nullable=False),
        sa.Column('account', sa.Text, nullable=False),
        sa.Column('name', sa.Text, nullable=False),
        sa.Column('round', sa.Integer, nullable=False),
        sa.Column('expected', COUNT, nullable=True),
        sa.Column('closed_at', TIME, nullable=True),
        sa.Column('counts', JSON, nullable=False),
        sa.Column('skipped', COUNT, nullable=False),
        sa.Column('failures', JSON, nullable=False),
        sa.Column('first_at', TIME, nullable=False),
        sa.Column('last_at', TIME, nullable=False),
        sa.Column('max_gap_seconds', TIME, nullable=False),
        sa.Column('finished_at', TIME, nullable=True),
        sa.Column('due_at', TIME, nullable=True),
        sa.PrimaryKeyConstraint('id', name='pk_groups'),
        sa.UniqueConstraint('source', 'account', 'name', name='uq_groups_source_account_name'),
    )
    op.create_index('ix_groups_name', 'groups', ['name'])
    op.create_index('ix_groups_account', 'groups', ['account', 'id'])
    op.create_index('ix_groups_source', 'groups', ['source', 'id'])
    op.create_table(
        'incidents',
        sa.Column('id', sa.Text, nullable=False),
        sa.Column('digest', sa.Text, nullable=False),
        sa.Column('kind', sa.Text, nullable=False),
        sa.Column('source', sa.Text, nullable=True),
        sa.Column('account', sa.Text, nullable=True),
        sa.Column('owner', sa.Text, nullable=True),
        sa.Column('connect_account_id', sa.Text, nullable=True),
        sa.Column('subscription_id', sa.Text, nullable=True),
        sa.Column('sink', sa.Text, nullable=True),
        sa.Column('code', sa.Text, nullable=True),
        sa.Column('channel', sa.Text, nullable=True),
        sa.Column('state', sa.Text, nullable=False),
        sa.Column('recent', JSON, nullable=False),
        sa.Column('failed_count', COUNT, nullable=False),
        sa.Column('told_count', COUNT, nullable=False),
        sa.Column('first_failure_at', TIME, nullable=False),
        sa.Column('last_failure_at', TIME, nullable=False),
        sa.Column('opened_at', TIME, nullable=True),
        sa.Column('closed_at', TIME, nullable=True),
        sa.Column('closed_because', sa.Text, nullable=True),
        sa.Column('hint', JSON, nullable=True),
        sa.Column('due_at', TIME, nullable=True),
        sa.PrimaryKeyConstraint('id', name='pk_incidents'),
    )
    partial_index('incidents', 'uq_incidents_digest', ('digest',), LIVE, unique=True)
    partial_index('incidents', 'ix_incidents_live', ('owner', 'state', 'due_at'), LIVE)
    op.create_index('ix_incidents_owner', 'incidents', ['owner', 'id'])
    for table, name, columns, where in INDEXES:
        partial_index(table, name, columns, where)
    op.create_table(
        'connect_accounts',
        sa.Column('source', sa.Text, nullable=False),
        sa.Column('account', sa.Text, nullable=False),
        sa.Column('id', sa.Text, nullable=False),
        sa.Column('uid', sa.Text, nullable=False),
        sa.Column('channel', sa.Text, nullable=True),
        sa.Column('name', sa.Text, nullable=True),
        sa.Column('status', sa.Text, nullable=True),
        sa.Column('can_send', sa.Integer, nullable=True),
        sa.Column('state', sa.Text, nullable=False),
        sa.Column('since', TIME, nullable=False),
        sa.Column('unconfirmed', sa.Text, nullable=True),
        sa.Column('unconfirmed_at', TIME, nullable=True),
        sa.Column('changes', JSON, nullable=False),
        sa.Column('told_state', sa.Text, nullable=False),
        sa.Column('told_at', TIME, nullable=True),
        sa.PrimaryKeyConstraint('source', 'account', 'id', name='pk_connect_accounts'),
    )
    op.create_index('uq_connect_accounts_uid', 'connect_accounts', ['uid'], unique=True)
    partial_index('connect_accounts', 'ix_connect_accounts_removed', ('since',), "state = 'removed'")


def downgrade() -> None:
    for table in ('connect_accounts', 'incidents', 'groups'):
        op.drop_table(table)
    for name, _, _ in JOB_INDEXES:
        op.drop_index(name, table_name='jobs')
    for name in (*JOB_COLUMNS, 'group_round'):
        op.execute(f'ALTER TABLE jobs DROP COLUMN {name}')
    op.execute('ALTER TABLE accounts DROP COLUMN listed_at')
    op.execute('ALTER TABLE intents DROP COLUMN group_name')
    op.execute('ALTER TABLE intents DROP COLUMN group_size')
