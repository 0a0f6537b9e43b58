"""what chat subscriptions get by default"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), 'postgresql')
SUBSCRIPTIONS = sa.table(
    'subscriptions', sa.column('id', sa.Text), sa.column('kind', sa.Text), sa.column('types', JSON),
    sa.column('config', JSON),
)
JOB_TROUBLE = ('failed', 'overdue', 'not_found')
ABOUT_SOURCES = ('relay.source.unauthorized', 'relay.source.down', 'relay.source.recovered')
OLD = {*ABOUT_SOURCES, 'relay.create.unknown'}
NEW = (
    'relay.subscription.disabled', 'relay.subscription.recovered', 'relay.delivery.expired', 'relay.group.finished',
    'relay.incident.opened', 'relay.incident.grew', 'relay.incident.closed',
)
OF_ACCOUNTS = ('needs_reconnect', 'cannot_send', 'recovered')


def prefixes(types: list[str]) -> list[str]:
    """The sources' prefixes, such as ai.revor, if the types are what a chat subscription got by default; else none."""
    found = [one.removesuffix('.job.failed') for one in types if one.endswith('.job.failed')]
    jobs = {f'{prefix}.job.{kind}' for prefix in found for kind in JOB_TROUBLE}
    return found if set(types) in (jobs | OLD, jobs | set(ABOUT_SOURCES)) else []


def chats() -> list[sa.Row]:
    chosen = sa.select(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.kind == 'slack')
    return list(op.get_bind().execute(chosen))


def store(id: str, types: list[str] | None, config: dict) -> None:
    changed = sa.update(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.id == id).values(types=types, config=config)
    op.get_bind().execute(changed)


def upgrade() -> None:
    # The default was stored at creation. A list that a user has given stays.
    for row in chats():
        types = row.types
        found = prefixes(types or [])
        if found:
            accounts = [f'{prefix}.account.{kind}' for prefix in found for kind in OF_ACCOUNTS]
            types = list(dict.fromkeys([*types, 'relay.create.unknown', *NEW, *accounts]))
        store(row.id, types, {**row.config, 'incidents': 'collapse'})


def downgrade() -> None:
    # Types that the older program does not know are taken away.
    for row in chats():
        kept = None if row.types is None else [
            one for one in row.types
            if '.account.' not in one and not one.startswith(('relay.group.', 'relay.incident.'))
        ]
        store(row.id, kept, {name: value for name, value in row.config.items() if name != 'incidents'})
