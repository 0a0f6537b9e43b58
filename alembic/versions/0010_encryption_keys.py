"""the encryption keys that secrets need, and which keys the running nodes have"""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None

SEALED = (
    ('subscriptions', 'sealed'),
    ('secrets', 'ciphertext'),
    ('accounts', 'key_ciphertext'),
    ('idempotency_keys', 'ciphertext'),
    ('intents', 'sealed'),
)


def upgrade() -> None:
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
    # Bytes 2 to 5 of a ciphertext name its key.
    postgres = op.get_bind().dialect.name == 'postgresql'
    for table, column in SEALED:
        key = f'substr({column}, 2, 4)'
        version = "'\\x01'::bytea" if postgres else "x'01'"
        shown = f"encode({key}, 'hex')" if postgres else f'lower(hex({key}))'
        op.execute(
            f"INSERT INTO encryption_keys (id, created_at) SELECT DISTINCT {shown}, 0.0 FROM {table} "
            f"WHERE substr({column}, 1, 1) = {version} ON CONFLICT (id) DO NOTHING"
        )


def downgrade() -> None:
    op.drop_table('node_keys')
    op.drop_table('encryption_keys')
