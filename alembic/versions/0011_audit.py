"""the audit: an append-only table, and what retention has removed of it"""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

_CUT = "SELECT 1 FROM audit_cuts WHERE chain = OLD.chain AND number >= OLD.number"
_SQLITE = (
    "CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
    f"CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit WHEN NOT EXISTS ({_CUT}) "
    "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END",
)
_POSTGRESQL = (
    "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    f"IF TG_OP = 'DELETE' AND EXISTS ({_CUT}) THEN RETURN OLD; END IF; "
    "RAISE EXCEPTION 'the audit is append-only'; END $$",
    "CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit "
    "FOR EACH ROW EXECUTE FUNCTION audit_append_only()",
    "CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
)


def upgrade() -> None:
    large = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    op.create_table(
        'audit',
        sa.Column('chain', sa.Text(), nullable=False),
        sa.Column('number', large, autoincrement=False, nullable=False),
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('at', sa.Float(precision=53), nullable=False),
        sa.Column('action', sa.Text(), nullable=False),
        sa.Column('actor', sa.Text(), nullable=True),
        sa.Column('token_id', sa.Text(), nullable=True),
        sa.Column('target', sa.Text(), nullable=True),
        sa.Column('address', sa.Text(), nullable=True),
        sa.Column('result', sa.Text(), nullable=False),
        sa.Column('status', sa.Integer(), nullable=True),
        sa.Column('times', large, nullable=False),
        sa.Column('request_id', sa.Text(), nullable=True),
        sa.Column('ends', large, nullable=True),
        sa.Column('detail', sa.LargeBinary(), nullable=False),
        sa.Column('key_id', sa.Text(), nullable=False),
        sa.Column('previous', sa.LargeBinary(), nullable=False),
        sa.Column('mac', sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint('chain', 'number', name=op.f('pk_audit')),
    )
    op.create_index('ix_audit_id', 'audit', ['id'], unique=True)
    op.create_index('ix_audit_action_id', 'audit', ['action', 'id'])
    op.create_index('ix_audit_actor_id', 'audit', ['actor', 'id'])
    ended = sa.text('ends IS NOT NULL')
    op.create_index('ix_audit_ends', 'audit', ['chain', 'ends'], sqlite_where=ended, postgresql_where=ended)
    op.create_table(
        'audit_cuts',
        sa.Column('chain', sa.Text(), nullable=False),
        sa.Column('number', large, nullable=False),
        sa.Column('mac', sa.LargeBinary(), nullable=False),
        sa.Column('at', sa.Float(precision=53), nullable=False),
        sa.Column('key_id', sa.Text(), nullable=False),
        sa.Column('signature', sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint('chain', name=op.f('pk_audit_cuts')),
    )
    for statement in _SQLITE if op.get_bind().dialect.name == 'sqlite' else _POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table('audit')
    op.drop_table('audit_cuts')
    if op.get_bind().dialect.name != 'sqlite':
        op.execute('DROP FUNCTION audit_append_only()')
