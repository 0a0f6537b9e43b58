"""API tokens in the database"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'
)


def upgrade() -> None:
    op.create_table(
        'tokens',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('digest', sa.Text(), nullable=False),
        sa.Column('scopes', JSON, nullable=False),
        sa.Column('created_at', sa.Float(), nullable=False),
        sa.Column('created_by', sa.Text(), nullable=False),
        sa.Column('expires_at', sa.Float(), nullable=True),
        sa.Column('last_used_at', sa.Float(), nullable=True),
        sa.Column('source', sa.Text(), nullable=True),
        sa.Column('account', sa.Text(), nullable=True),
        sa.Column('networks', JSON, nullable=False),
        sa.Column('requests_per_minute', sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_tokens')),
        sa.UniqueConstraint('name', name=op.f('uq_tokens_name')),
        sa.UniqueConstraint('digest', name=op.f('uq_tokens_digest')),
    )


def downgrade() -> None:
    op.drop_table('tokens')
