"""owners: the account that an event is about, and that a subscription, its deliveries and a replay belong to"""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

TABLES = ('events', 'subscriptions', 'deliveries', 'replays')
OWNED = sa.text('owner IS NOT NULL')


def upgrade() -> None:
    # Nothing is filled in: no token was bound to an account before, and rewriting every event would take too long.
    for table in TABLES:
        op.add_column(table, sa.Column('owner', sa.Text(), nullable=True))
    op.create_index('ix_events_owner', 'events', ['owner', 'recorded_at', 'position'])
    for table in ('subscriptions', 'deliveries'):
        op.create_index(f'ix_{table}_owner', table, ['owner', 'id'], sqlite_where=OWNED, postgresql_where=OWNED)


def downgrade() -> None:
    # What belongs to an account would send it the events of all others.
    op.execute(
        "UPDATE subscriptions SET state = 'paused', state_reason = 'it belonged to an account' WHERE owner IS NOT NULL"
    )
    for table in ('deliveries', 'subscriptions', 'events'):
        op.drop_index(f'ix_{table}_owner', table_name=table)
    for table in reversed(TABLES):
        op.drop_column(table, 'owner')
