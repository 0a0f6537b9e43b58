"""one node at a time trades the refresh token of a sink's credential"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('subscriptions', sa.Column('refresh_until', sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.execute('ALTER TABLE subscriptions DROP COLUMN refresh_until')
