"""the first schema"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('accounts',
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('since', sa.Float(precision=53), nullable=True),
    sa.Column('problem', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('key_ciphertext', sa.LargeBinary(), nullable=True),
    sa.Column('holder', sa.Text(), nullable=True),
    sa.Column('held_until', sa.Float(precision=53), nullable=True),
    sa.Column('plan', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('source', 'name', name=op.f('pk_accounts'))
    )
    op.create_table('attempts',
    sa.Column('position', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('delivery_id', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('started_at', sa.Float(precision=53), nullable=False),
    sa.Column('duration_ms', sa.Float(precision=53), nullable=False),
    sa.Column('status_code', sa.Integer(), nullable=True),
    sa.Column('error', sa.Text(), nullable=True),
    sa.Column('details', sa.LargeBinary(), nullable=True),
    sa.Column('response_excerpt', sa.Text(), nullable=True),
    sa.Column('remote_ip', sa.Text(), nullable=True),
    sa.Column('decision', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('position', name=op.f('pk_attempts'))
    )
    with op.batch_alter_table('attempts') as batch_op:
        batch_op.create_index('ix_attempts_delivery_id_number', ['delivery_id', 'number'], unique=False)

    op.create_table('deliveries',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('event_id', sa.Text(), nullable=False),
    sa.Column('subscription_id', sa.Text(), nullable=False),
    sa.Column('job_uid', sa.Text(), nullable=True),
    sa.Column('sequence', sa.Integer(), nullable=True),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('due_at', sa.Float(precision=53), nullable=False),
    sa.Column('attempt_count', sa.Integer(), nullable=False),
    sa.Column('made_count', sa.Integer(), nullable=False),
    sa.Column('lease_token', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('ended_at', sa.Float(precision=53), nullable=True),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('replay', sa.Text(), nullable=True),
    sa.Column('was', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_deliveries')),
    sa.UniqueConstraint('event_id', 'subscription_id', name=op.f('uq_deliveries_event_id_subscription_id'))
    )
    with op.batch_alter_table('deliveries') as batch_op:
        batch_op.create_index('ix_deliveries_cancelled', ['id'], unique=False, sqlite_where=sa.text("state = 'cancelled'"), postgresql_where=sa.text("state = 'cancelled'"))
        batch_op.create_index('ix_deliveries_dead', ['id'], unique=False, sqlite_where=sa.text("state = 'dead'"), postgresql_where=sa.text("state = 'dead'"))
        batch_op.create_index('ix_deliveries_due', ['subscription_id', 'priority', 'due_at'], unique=False, sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"))
        batch_op.create_index('ix_deliveries_lease', ['lease_token'], unique=False, sqlite_where=sa.text('lease_token IS NOT NULL'), postgresql_where=sa.text('lease_token IS NOT NULL'))
        batch_op.create_index('ix_deliveries_open', ['job_uid', 'subscription_id', 'sequence'], unique=False, sqlite_where=sa.text("state IN ('pending', 'blocked')"), postgresql_where=sa.text("state IN ('pending', 'blocked')"))
        batch_op.create_index('ix_deliveries_pending', ['id'], unique=False, sqlite_where=sa.text("state IN ('pending', 'blocked') AND created_at >= 0"), postgresql_where=sa.text("state IN ('pending', 'blocked') AND created_at >= 0"))
        batch_op.create_index('ix_deliveries_replay', ['replay'], unique=False, sqlite_where=sa.text('replay IS NOT NULL'), postgresql_where=sa.text('replay IS NOT NULL'))
        batch_op.create_index('ix_deliveries_subscription_id_id', ['subscription_id', 'id'], unique=False)

    op.create_table('events',
    sa.Column('position', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('job_uid', sa.Text(), nullable=True),
    sa.Column('sequence', sa.Integer(), nullable=True),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('subject', sa.Text(), nullable=True),
    sa.Column('time', sa.Float(precision=53), nullable=False),
    sa.Column('recorded_at', sa.Float(precision=53), nullable=False),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('position', name=op.f('pk_events')),
    sa.UniqueConstraint('id', name=op.f('uq_events_id')),
    sa.UniqueConstraint('job_uid', 'sequence', name=op.f('uq_events_job_uid_sequence')),
    sqlite_autoincrement=True
    )
    with op.batch_alter_table('events') as batch_op:
        batch_op.create_index('ix_events_recorded_at', ['recorded_at', 'position'], unique=False)
        batch_op.create_index('ix_events_subject', ['subject', 'recorded_at', 'position'], unique=False)
        batch_op.create_index('ix_events_type', ['type', 'recorded_at', 'position'], unique=False)

    op.create_table('hazards',
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('event_count', sa.Float(precision=53), nullable=False),
    sa.Column('values_json', sa.Text(), nullable=False),
    sa.Column('updated_at', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('source', 'name', name=op.f('pk_hazards'))
    )
    op.create_table('idempotency_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('body_digest', sa.Text(), nullable=False),
    sa.Column('status_code', sa.Integer(), nullable=True),
    sa.Column('ciphertext', sa.LargeBinary(), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_idempotency_keys'))
    )
    with op.batch_alter_table('idempotency_keys') as batch_op:
        batch_op.create_index('ix_idempotency_keys_created_at', ['created_at'], unique=False)

    op.create_table('intents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('body_digest', sa.Text(), nullable=False),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('status_code', sa.Integer(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_intents'))
    )
    with op.batch_alter_table('intents') as batch_op:
        batch_op.create_index('ix_intents_repeat', ['source', 'account', 'path', 'body_digest'], unique=False, sqlite_where=sa.text('idempotency_key IS NOT NULL'), postgresql_where=sa.text('idempotency_key IS NOT NULL'))
        batch_op.create_index('ix_intents_unknown', ['id'], unique=False, sqlite_where=sa.text('reason IS NOT NULL'), postgresql_where=sa.text('reason IS NOT NULL'))

    op.create_table('job_callbacks',
    sa.Column('job_uid', sa.Text(), nullable=False),
    sa.Column('subscription_id', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('job_uid', 'subscription_id', name=op.f('pk_job_callbacks'))
    )
    with op.batch_alter_table('job_callbacks') as batch_op:
        batch_op.create_index('ix_job_callbacks_subscription_id', ['subscription_id'], unique=False)

    op.create_table('jobs',
    sa.Column('uid', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('account', sa.Text(), nullable=False),
    sa.Column('external_id', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=True),
    sa.Column('phase', sa.Text(), nullable=True),
    sa.Column('outcome', sa.Text(), nullable=True),
    sa.Column('sequence', sa.Integer(), nullable=False),
    sa.Column('retry_count', sa.Integer(), nullable=False),
    sa.Column('running_sent', sa.Integer(), nullable=False),
    sa.Column('running_started_at', sa.Float(precision=53), nullable=True),
    sa.Column('overdue', sa.Integer(), nullable=False),
    sa.Column('action', sa.Text(), nullable=True),
    sa.Column('channel', sa.Text(), nullable=True),
    sa.Column('scheduled_at', sa.Float(precision=53), nullable=True),
    sa.Column('started_at', sa.Float(precision=53), nullable=True),
    sa.Column('next_attempt_at', sa.Float(precision=53), nullable=True),
    sa.Column('attempt_count', sa.Integer(), nullable=False),
    sa.Column('spacing_seconds', sa.Float(precision=53), nullable=True),
    sa.Column('weight', sa.Float(precision=53), nullable=False),
    sa.Column('tracked_at', sa.Float(precision=53), nullable=False),
    sa.Column('last_polled_at', sa.Float(precision=53), nullable=True),
    sa.Column('next_poll_at', sa.Float(precision=53), nullable=True),
    sa.Column('poll_step', sa.SmallInteger(), server_default='0', nullable=False),
    sa.Column('closed_at', sa.Float(precision=53), nullable=True),
    sa.Column('deadline_at', sa.Float(precision=53), nullable=True),
    sa.Column('poll_count', sa.Integer(), nullable=False),
    sa.Column('failure_count', sa.Integer(), nullable=False),
    sa.Column('missing_count', sa.Integer(), nullable=False),
    sa.Column('missing_since', sa.Float(precision=53), nullable=True),
    sa.Column('last_error', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('metadata', sa.LargeBinary(), nullable=False),
    sa.Column('upstream', sa.LargeBinary(), nullable=True),
    sa.PrimaryKeyConstraint('uid', name=op.f('pk_jobs')),
    sa.UniqueConstraint('external_id', 'source', 'account', name=op.f('uq_jobs_external_id_source_account'))
    )
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.create_index('ix_jobs_account_uid', ['account', 'uid'], unique=False)
        batch_op.create_index('ix_jobs_closed', ['closed_at', 'uid'], unique=False, sqlite_where=sa.text('closed_at IS NOT NULL'), postgresql_where=sa.text('closed_at IS NOT NULL'))
        batch_op.create_index('ix_jobs_closed_uid', ['uid'], unique=False, sqlite_where=sa.text('closed_at IS NOT NULL'), postgresql_where=sa.text('closed_at IS NOT NULL'))
        batch_op.create_index('ix_jobs_deadline', ['deadline_at'], unique=False, sqlite_where=sa.text('closed_at IS NULL AND overdue = 0'), postgresql_where=sa.text('closed_at IS NULL AND overdue = 0'))
        batch_op.create_index('ix_jobs_open', ['source', 'account', 'uid'], unique=False, sqlite_where=sa.text('closed_at IS NULL'), postgresql_where=sa.text('closed_at IS NULL'))
        batch_op.create_index('ix_jobs_open_uid', ['uid'], unique=False, sqlite_where=sa.text('closed_at IS NULL'), postgresql_where=sa.text('closed_at IS NULL'))
        batch_op.create_index('ix_jobs_source_uid', ['source', 'uid'], unique=False)
        batch_op.create_index('ix_jobs_status_uid', ['status', 'uid'], unique=False)

    op.create_table('replays',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('subscription_id', sa.Text(), nullable=True),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('since', sa.Float(precision=53), nullable=False),
    sa.Column('until', sa.Float(precision=53), nullable=False),
    sa.Column('types', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('which', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('position', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('last_position', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('matched', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('passed', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('queued', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('delivered', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('dead', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('holder', sa.Text(), nullable=True),
    sa.Column('held_until', sa.Float(precision=53), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('ended_at', sa.Float(precision=53), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_replays'))
    )
    with op.batch_alter_table('replays') as batch_op:
        batch_op.create_index('ix_replays_ended_at', ['ended_at'], unique=False, sqlite_where=sa.text('ended_at IS NOT NULL'), postgresql_where=sa.text('ended_at IS NOT NULL'))
        batch_op.create_index('ix_replays_running', ['id'], unique=False, sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'"))

    op.create_table('secrets',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('owner', sa.Text(), nullable=False),
    sa.Column('ciphertext', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('expires_at', sa.Float(precision=53), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_secrets'))
    )
    with op.batch_alter_table('secrets') as batch_op:
        batch_op.create_index('ix_secrets_expires_at', ['expires_at'], unique=False, sqlite_where=sa.text('expires_at IS NOT NULL'), postgresql_where=sa.text('expires_at IS NOT NULL'))
        batch_op.create_index('ix_secrets_owner', ['owner'], unique=False)

    op.create_table('subscriptions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('sink_digest', sa.Text(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.Column('types', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=True),
    sa.Column('source', sa.Text(), nullable=True),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('state_since', sa.Float(precision=53), nullable=True),
    sa.Column('state_reason', sa.Text(), nullable=True),
    sa.Column('callback', sa.Integer(), nullable=False),
    sa.Column('config', sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), 'postgresql'), nullable=False),
    sa.Column('description', sa.Text(), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('start_at', sa.Float(precision=53), nullable=True),
    sa.Column('failing_since', sa.Float(precision=53), nullable=True),
    sa.Column('failing_reason', sa.Text(), nullable=True),
    sa.Column('paused_until', sa.Float(precision=53), nullable=True),
    sa.Column('probe_at', sa.Float(precision=53), nullable=True),
    sa.Column('drain_since', sa.Float(precision=53), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_subscriptions'))
    )
    with op.batch_alter_table('subscriptions') as batch_op:
        batch_op.create_index('ix_subscriptions_failing', ['failing_since'], unique=False, sqlite_where=sa.text('failing_since IS NOT NULL'), postgresql_where=sa.text('failing_since IS NOT NULL'))
        batch_op.create_index('ix_subscriptions_listed', ['id'], unique=False, sqlite_where=sa.text('callback = 0'), postgresql_where=sa.text('callback = 0'))
        batch_op.create_index('uq_subscriptions_callback', ['sink_digest'], unique=True, sqlite_where=sa.text('callback = 1'), postgresql_where=sa.text('callback = 1'))

    op.create_table('versions',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_versions'))
    )
    if op.get_context().dialect.name == 'postgresql':
        op.execute("ALTER TABLE events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
        op.execute("CREATE INDEX ix_events_xid ON events (xid, position)")


def downgrade() -> None:
    op.drop_table('versions')
    with op.batch_alter_table('subscriptions') as batch_op:
        batch_op.drop_index('uq_subscriptions_callback', sqlite_where=sa.text('callback = 1'), postgresql_where=sa.text('callback = 1'))
        batch_op.drop_index('ix_subscriptions_failing', sqlite_where=sa.text('failing_since IS NOT NULL'), postgresql_where=sa.text('failing_since IS NOT NULL'))
        batch_op.drop_index('ix_subscriptions_listed', sqlite_where=sa.text('callback = 0'), postgresql_where=sa.text('callback = 0'))

    op.drop_table('subscriptions')
    with op.batch_alter_table('secrets') as batch_op:
        batch_op.drop_index('ix_secrets_owner')
        batch_op.drop_index('ix_secrets_expires_at', sqlite_where=sa.text('expires_at IS NOT NULL'), postgresql_where=sa.text('expires_at IS NOT NULL'))

    op.drop_table('secrets')
    with op.batch_alter_table('replays') as batch_op:
        batch_op.drop_index('ix_replays_running', sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'"))
        batch_op.drop_index('ix_replays_ended_at', sqlite_where=sa.text('ended_at IS NOT NULL'), postgresql_where=sa.text('ended_at IS NOT NULL'))

    op.drop_table('replays')
    with op.batch_alter_table('jobs') as batch_op:
        batch_op.drop_index('ix_jobs_status_uid')
        batch_op.drop_index('ix_jobs_source_uid')
        batch_op.drop_index('ix_jobs_open_uid', sqlite_where=sa.text('closed_at IS NULL'), postgresql_where=sa.text('closed_at IS NULL'))
        batch_op.drop_index('ix_jobs_open', sqlite_where=sa.text('closed_at IS NULL'), postgresql_where=sa.text('closed_at IS NULL'))
        batch_op.drop_index('ix_jobs_deadline', sqlite_where=sa.text('closed_at IS NULL AND overdue = 0'), postgresql_where=sa.text('closed_at IS NULL AND overdue = 0'))
        batch_op.drop_index('ix_jobs_closed_uid', sqlite_where=sa.text('closed_at IS NOT NULL'), postgresql_where=sa.text('closed_at IS NOT NULL'))
        batch_op.drop_index('ix_jobs_closed', sqlite_where=sa.text('closed_at IS NOT NULL'), postgresql_where=sa.text('closed_at IS NOT NULL'))
        batch_op.drop_index('ix_jobs_account_uid')

    op.drop_table('jobs')
    with op.batch_alter_table('job_callbacks') as batch_op:
        batch_op.drop_index('ix_job_callbacks_subscription_id')

    op.drop_table('job_callbacks')
    with op.batch_alter_table('intents') as batch_op:
        batch_op.drop_index('ix_intents_unknown', sqlite_where=sa.text('reason IS NOT NULL'), postgresql_where=sa.text('reason IS NOT NULL'))
        batch_op.drop_index('ix_intents_repeat', sqlite_where=sa.text('idempotency_key IS NOT NULL'), postgresql_where=sa.text('idempotency_key IS NOT NULL'))

    op.drop_table('intents')
    with op.batch_alter_table('idempotency_keys') as batch_op:
        batch_op.drop_index('ix_idempotency_keys_created_at')

    op.drop_table('idempotency_keys')
    op.drop_table('hazards')
    with op.batch_alter_table('events') as batch_op:
        batch_op.drop_index('ix_events_type')
        batch_op.drop_index('ix_events_subject')
        batch_op.drop_index('ix_events_recorded_at')

    op.drop_table('events')
    with op.batch_alter_table('deliveries') as batch_op:
        batch_op.drop_index('ix_deliveries_subscription_id_id')
        batch_op.drop_index('ix_deliveries_replay', sqlite_where=sa.text('replay IS NOT NULL'), postgresql_where=sa.text('replay IS NOT NULL'))
        batch_op.drop_index('ix_deliveries_pending', sqlite_where=sa.text("state IN ('pending', 'blocked') AND created_at >= 0"), postgresql_where=sa.text("state IN ('pending', 'blocked') AND created_at >= 0"))
        batch_op.drop_index('ix_deliveries_open', sqlite_where=sa.text("state IN ('pending', 'blocked')"), postgresql_where=sa.text("state IN ('pending', 'blocked')"))
        batch_op.drop_index('ix_deliveries_lease', sqlite_where=sa.text('lease_token IS NOT NULL'), postgresql_where=sa.text('lease_token IS NOT NULL'))
        batch_op.drop_index('ix_deliveries_due', sqlite_where=sa.text("state = 'pending'"), postgresql_where=sa.text("state = 'pending'"))
        batch_op.drop_index('ix_deliveries_dead', sqlite_where=sa.text("state = 'dead'"), postgresql_where=sa.text("state = 'dead'"))
        batch_op.drop_index('ix_deliveries_cancelled', sqlite_where=sa.text("state = 'cancelled'"), postgresql_where=sa.text("state = 'cancelled'"))

    op.drop_table('deliveries')
    with op.batch_alter_table('attempts') as batch_op:
        batch_op.drop_index('ix_attempts_delivery_id_number')

    op.drop_table('attempts')
    op.drop_table('accounts')
