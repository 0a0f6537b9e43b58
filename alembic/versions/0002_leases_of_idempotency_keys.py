"""leases of idempotency keys"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No default: a request that was in flight at the upgrade was cut off by it, and its key is free.
    with op.batch_alter_table('idempotency_keys') as batch_op:
        batch_op.add_column(sa.Column('holder', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('held_until', sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('idempotency_keys') as batch_op:
        batch_op.drop_column('held_until')
        batch_op.drop_column('holder')
