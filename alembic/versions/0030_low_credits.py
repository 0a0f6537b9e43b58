"""an account may be known to have few credits left, since a time"""

from alembic import op
from sqlalchemy import Column, Float

revision = '0030'
down_revision = '0029'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", Column("credits_low_since", Float))


def downgrade() -> None:
    op.drop_column("accounts", "credits_low_since")
