"""subscriptions are counted per token"""

import sqlalchemy as sa
from alembic import op

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('subscriptions', sa.Column('creator', sa.Text, nullable=True))


def downgrade() -> None:
    op.execute('ALTER TABLE subscriptions DROP COLUMN creator')
