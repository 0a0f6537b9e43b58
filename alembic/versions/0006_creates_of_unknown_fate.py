"""creates of unknown fate: what they said, whether an event told of them, and what a person found out"""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('intents') as batch_op:
        batch_op.add_column(sa.Column('channel', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('connect_account_id', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('request', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('metadata', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('sealed', sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column('told', sa.SmallInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('fate', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('job_id', sa.Text(), nullable=True))
    # What was listed before is known to whoever reads the list: an event for each of them would be a flood.
    op.execute("UPDATE intents SET told = 1 WHERE reason IS NOT NULL")
    op.drop_index('ix_intents_unknown', table_name='intents')
    for name, columns, where in (
        ('ix_intents_unknown', ['id'], 'reason IS NOT NULL AND fate IS NULL'),
        ('ix_intents_untold', ['reason', 'id'], 'told = 0'),
    ):
        op.create_index(name, 'intents', columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.execute("DELETE FROM intents WHERE fate IS NOT NULL")
    op.drop_index('ix_intents_untold', table_name='intents')
    op.drop_index('ix_intents_unknown', table_name='intents')
    where = sa.text('reason IS NOT NULL')
    op.create_index('ix_intents_unknown', 'intents', ['id'], sqlite_where=where, postgresql_where=where)
    with op.batch_alter_table('intents') as batch_op:
        for name in ('job_id', 'fate', 'told', 'sealed', 'metadata', 'request', 'connect_account_id', 'channel'):
            batch_op.drop_column(name)
