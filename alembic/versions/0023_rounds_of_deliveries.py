"""rounds of deliveries: how often each was sent again"""

import sqlalchemy as sa
from alembic import op

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('deliveries', sa.Column('round', sa.Integer, server_default='0', nullable=False))


def downgrade() -> None:
    op.execute('ALTER TABLE deliveries DROP COLUMN round')
