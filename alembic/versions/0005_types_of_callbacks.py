"""types of callbacks"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('job_callbacks') as batch_op:
        batch_op.add_column(sa.Column('types', sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('job_callbacks') as batch_op:
        batch_op.drop_column('types')
