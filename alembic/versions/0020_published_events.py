"""events that other programs publish"""

import sqlalchemy as sa
from alembic import op

revision = '0020'
down_revision = '0019'
branch_labels = None
depends_on = None

PUBLISHED = sa.text('identity IS NOT NULL')


def upgrade() -> None:
    op.add_column('events', sa.Column('stream', sa.Text, nullable=True))
    op.add_column('events', sa.Column('identity', sa.Text, nullable=True))
    op.create_index(
        'uq_events_identity', 'events', ['identity'], unique=True, sqlite_where=PUBLISHED, postgresql_where=PUBLISHED,
    )
    op.create_table(
        'streams',
        sa.Column('uid', sa.Text, primary_key=True),
        sa.Column('sequence', sa.Integer, nullable=False),
        sa.Column('used_at', sa.Float(precision=53), nullable=False),
    )
    op.create_index('ix_streams_used_at', 'streams', ['used_at'])


def downgrade() -> None:
    # The version before keeps no order of published events, and would lock no stream.
    op.execute("UPDATE deliveries SET state = 'pending' WHERE state = 'blocked' AND job_uid LIKE 'key_%'")
    op.execute("UPDATE deliveries SET job_uid = NULL, sequence = NULL WHERE job_uid LIKE 'key_%'")
    op.drop_table('streams')
    op.drop_index('uq_events_identity', 'events')
    op.execute('ALTER TABLE events DROP COLUMN identity')
    op.execute('ALTER TABLE events DROP COLUMN stream')
