"""encryption keys are found by the ciphertexts that need them; nodes announce none"""

import sqlalchemy as sa
from alembic import op

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table('node_keys')
    op.drop_table('encryption_keys')
    where = sa.text('captured IS NOT NULL')
    op.create_index('ix_jobs_captured', 'jobs', ['uid'], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_index('ix_jobs_captured', 'jobs')
    op.create_table(
        'encryption_keys',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('created_at', sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_encryption_keys')),
    )
    op.create_table(
        'node_keys',
        sa.Column('node', sa.Text(), nullable=False),
        sa.Column('keys', sa.Text(), nullable=False),
        sa.Column('since', sa.Float(), nullable=False),
        sa.Column('seen_at', sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint('node', name=op.f('pk_node_keys')),
    )
