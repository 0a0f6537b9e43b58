"""whom a job's create names; uncertain and skipped deliveries"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None

UNCERTAIN = sa.text("state = 'uncertain'")
SKIPPED = sa.text("state = 'cancelled' AND reason IN ('unmatched', 'ambiguous')")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), 'postgresql')
SUBSCRIPTIONS = sa.table(
    'subscriptions', sa.column('id', sa.Text), sa.column('kind', sa.Text), sa.column('types', JSON)
)
CHATS = ('slack', 'slack_workflow', 'teams', 'discord')
TELLS = 'relay.delivery.uncertain'
DEFAULT = {
    'relay.source.unauthorized', 'relay.source.down', 'relay.source.recovered', 'relay.create.unknown',
    'relay.subscription.disabled', 'relay.subscription.recovered', 'relay.delivery.expired', 'relay.group.finished',
    'relay.incident.opened', 'relay.incident.grew', 'relay.incident.closed',
}
OF_JOBS = ('failed', 'overdue', 'not_found')
OF_ACCOUNTS = ('needs_reconnect', 'cannot_send', 'recovered')


def is_default(types: list[str]) -> bool:
    """True if a chat subscription got these types by default. Sources have prefixes, such as ai.revor.job."""
    prefixes = [one.removesuffix('.failed') for one in types if one.endswith('.failed')]
    jobs = {f'{prefix}.{kind}' for prefix in prefixes for kind in OF_JOBS}
    accounts = {f"{prefix.removesuffix('.job')}.account.{kind}" for prefix in prefixes for kind in OF_ACCOUNTS}
    return set(types) == DEFAULT | jobs | accounts


def store(id: str, types: list[str]) -> None:
    op.get_bind().execute(sa.update(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.id == id).values(types=types))


def upgrade() -> None:
    op.add_column('jobs', sa.Column('captured', sa.LargeBinary, nullable=True))
    op.create_index(
        'ix_deliveries_uncertain', 'deliveries', ['id'], sqlite_where=UNCERTAIN, postgresql_where=UNCERTAIN,
    )
    op.create_index(
        'ix_deliveries_skipped', 'deliveries', ['subscription_id', 'created_at'],
        sqlite_where=SKIPPED, postgresql_where=SKIPPED,
    )
    # The default was stored at creation. A list that a user has given stays.
    chats = sa.select(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.kind.in_(CHATS), SUBSCRIPTIONS.c.types.is_not(None))
    for row in list(op.get_bind().execute(chats)):
        if is_default(row.types):
            store(row.id, [*row.types, TELLS])


def downgrade() -> None:
    # The version before has no such state: these deliveries are listed, and can be retried.
    op.execute("UPDATE deliveries SET state = 'dead' WHERE state = 'uncertain'")
    op.execute("UPDATE deliveries SET was = 'dead' WHERE was = 'uncertain'")
    # A type that the version before does not know is taken away.
    for row in list(op.get_bind().execute(sa.select(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.types.is_not(None)))):
        if TELLS in row.types:
            store(row.id, [one for one in row.types if one != TELLS])
    op.drop_index('ix_deliveries_skipped', 'deliveries')
    op.drop_index('ix_deliveries_uncertain', 'deliveries')
    op.execute('ALTER TABLE jobs DROP COLUMN captured')
