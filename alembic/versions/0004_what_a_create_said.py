"""what a create said: its own metadata, and the account that it is sent from"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.add_column(sa.Column('request', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('connect_account_id', sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.drop_column('connect_account_id')
        batch_op.drop_column('request')
