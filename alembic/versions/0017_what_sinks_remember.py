"""what subscriptions remember of their sinks"""

import sqlalchemy as sa
from alembic import op

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None

TIME = sa.Float(precision=53)


def upgrade() -> None:
    op.create_table(
        'sink_memories',
        sa.Column('subscription_id', sa.Text(), nullable=False),
        sa.Column('key', sa.Text(), nullable=False),
        sa.Column('data', sa.Text(), nullable=False),
        sa.Column('token', sa.Text(), nullable=True),
        sa.Column('held_until', TIME, nullable=True),
        sa.Column('updated_at', TIME, nullable=False),
        sa.PrimaryKeyConstraint('subscription_id', 'key', name=op.f('pk_sink_memories')),
    )
    op.create_index('ix_sink_memories_key', 'sink_memories', ['key'])
    op.create_index('ix_sink_memories_updated_at', 'sink_memories', ['updated_at'])


def downgrade() -> None:
    op.drop_table('sink_memories')
