"""deliveries of a refused bundle are sent by themselves"""

import sqlalchemy as sa
from alembic import op

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('deliveries', sa.Column('alone', sa.SmallInteger, server_default='0', nullable=False))


def downgrade() -> None:
    op.execute('ALTER TABLE deliveries DROP COLUMN alone')
