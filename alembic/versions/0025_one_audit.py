"""one chain for the audit, which begins anew: without the old keys' MACs nothing can be taken over"""

import sqlalchemy as sa
from alembic import context, op

revision = '0025'
down_revision = '0024'
branch_labels = None
depends_on = None

_CUT = "SELECT 1 FROM audit WHERE action = 'audit.cut' AND times >= OLD.number"
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
    op.drop_table('audit_cuts')
    _drop_audit()
    op.execute("DELETE FROM secrets WHERE owner = 'audit'")
    op.create_table(
        'audit',
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
        sa.Column('previous', sa.LargeBinary(), nullable=False),
        sa.Column('mac', sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint('number', name=op.f('pk_audit')),
    )
    op.create_index('ix_audit_id', 'audit', ['id'], unique=True)
    op.create_index('ix_audit_action_id', 'audit', ['action', 'id'])
    op.create_index('ix_audit_actor_id', 'audit', ['actor', 'id'])
    ended = sa.text('ends IS NOT NULL')
    op.create_index('ix_audit_ends', 'audit', ['ends'], sqlite_where=ended, postgresql_where=ended)
    for statement in _SQLITE if op.get_bind().dialect.name == 'sqlite' else _POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    _drop_audit()
    op.execute("DELETE FROM secrets WHERE owner = 'audit'")
    context.script.get_revision('0011').module.upgrade()


def _drop_audit() -> None:
    op.drop_table('audit')
    if op.get_bind().dialect.name != 'sqlite':
        op.execute('DROP FUNCTION audit_append_only()')
