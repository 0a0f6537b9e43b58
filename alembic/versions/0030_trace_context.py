"""a job may have a trace context

It came with the request that created the job: `traceparent`, and `tracestate` after a space. Most jobs have none. The
column rewrites no row.
"""

from alembic import op
from sqlalchemy import Column, Text

revision = '0030'
down_revision = '0029'
branch_labels = None
depends_on = None

REMOVED = {'trace contexts': 'jobs WHERE trace IS NOT NULL'}


def upgrade() -> None:
    op.add_column('jobs', Column('trace', Text))


def downgrade() -> None:
    op.drop_column('jobs', 'trace')
