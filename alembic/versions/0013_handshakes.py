"""a sink can have to agree before the first event"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), 'postgresql')
WHERE = sa.text("state = 'pending'")


def upgrade() -> None:
    op.add_column('subscriptions', sa.Column('consent', JSON, nullable=True))
    op.add_column('subscriptions', sa.Column('handshake_at', sa.Float(precision=53), nullable=True))
    op.create_index(
        'ix_subscriptions_handshake',
        'subscriptions',
        ['handshake_at', 'id'],
        sqlite_where=WHERE,
        postgresql_where=WHERE,
    )


def downgrade() -> None:
    op.drop_index('ix_subscriptions_handshake', table_name='subscriptions')
    op.execute('ALTER TABLE subscriptions DROP COLUMN handshake_at')
    op.execute('ALTER TABLE subscriptions DROP COLUMN consent')
