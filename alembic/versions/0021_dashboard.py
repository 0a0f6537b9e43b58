"""figures over time, sessions of the dashboard, and searchable metadata of jobs"""

import sqlalchemy as sa
from alembic import op

revision = '0021'
down_revision = '0020'
branch_labels = None
depends_on = None

LARGE = sa.BigInteger().with_variant(sa.Integer, 'sqlite')
TIME = sa.Float(precision=53)


def upgrade() -> None:
    op.create_table(
        'figures',
        sa.Column('name', sa.Text, primary_key=True),
        sa.Column('label', sa.Text, primary_key=True),
        sa.Column('span', sa.Text, primary_key=True),
        sa.Column('began_at', TIME, primary_key=True),
        sa.Column('count', LARGE, nullable=False),
        sa.Column('total', TIME, nullable=False),
        sa.Column('buckets', sa.LargeBinary, nullable=True),
    )
    op.create_index('ix_figures_span', 'figures', ['span', 'began_at'])
    op.create_table(
        'sessions',
        sa.Column('digest', sa.Text, primary_key=True),
        sa.Column('kind', sa.Text, nullable=False),
        sa.Column('token_digest', sa.Text, nullable=False),
        sa.Column('name', sa.Text, nullable=False),
        sa.Column('created_at', TIME, nullable=False),
        sa.Column('expires_at', TIME, nullable=False),
    )
    op.create_index('ix_sessions_expires_at', 'sessions', ['expires_at'])
    op.create_index('ix_sessions_token', 'sessions', ['token_digest', 'kind', 'created_at'])
    op.create_table(
        'job_search',
        sa.Column('key', sa.Text, primary_key=True),
        sa.Column('digest', sa.LargeBinary, primary_key=True),
        sa.Column('job_uid', sa.Text, primary_key=True),
    )
    op.create_index('ix_job_search_job_uid', 'job_search', ['job_uid'])


def downgrade() -> None:
    op.drop_table('job_search')
    op.drop_table('sessions')
    op.drop_table('figures')
