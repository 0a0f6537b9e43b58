"""a row for each bucket of a figure; the figures begin anew"""

import sqlalchemy as sa
from alembic import op

revision = '0026'
down_revision = '0025'
branch_labels = None
depends_on = None


def upgrade() -> None:
    large = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    op.drop_table('figures')
    op.create_table(
        'figures',
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('label', sa.Text(), nullable=False),
        sa.Column('span', sa.Text(), nullable=False),
        sa.Column('began_at', sa.Float(precision=53), nullable=False),
        sa.Column('bucket', sa.Integer(), nullable=False),
        sa.Column('count', large, nullable=False),
        sa.Column('total', sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint('name', 'label', 'span', 'began_at', 'bucket', name=op.f('pk_figures')),
    )
    op.create_index('ix_figures_span', 'figures', ['span', 'began_at'])


def downgrade() -> None:
    op.drop_table('figures')
    op.create_table(
        'figures',
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('label', sa.Text(), nullable=False),
        sa.Column('span', sa.Text(), nullable=False),
        sa.Column('began_at', sa.Float(precision=53), nullable=False),
        sa.Column('count', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        sa.Column('total', sa.Float(precision=53), nullable=False),
        sa.Column('buckets', sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint('name', 'label', 'span', 'began_at', name=op.f('pk_figures')),
    )
    op.create_index('ix_figures_span', 'figures', ['span', 'began_at'])
