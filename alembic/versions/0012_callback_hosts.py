"""the hosts that each caller's callbacks go to"""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nothing is filled in: no row says whose callback it is. A host counts when its caller names it again.
    op.create_table(
        'callback_hosts',
        sa.Column('caller', sa.Text(), nullable=False),
        sa.Column('host', sa.Text(), nullable=False),
        sa.Column('used_at', sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint('caller', 'host', name=op.f('pk_callback_hosts')),
    )
    op.create_index('ix_callback_hosts_used_at', 'callback_hosts', ['used_at'])


def downgrade() -> None:
    op.drop_table('callback_hosts')
