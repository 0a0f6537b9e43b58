"""Every operation of the API. Routes, checks and the OpenAPI description are built from this list."""

from relay.api import connect_accounts, erasures, figures, incidents, system
from relay.api.access import audit, keys, tokens
from relay.api.deliveries import deliveries, replays
from relay.api.events import events, publishing
from relay.api.http.operations import Operation
from relay.api.jobs import groups, intents, jobs
from relay.api.subscriptions import declared, previews, pulling, subscriptions

_RESOURCES = (
    jobs,
    declared,
    previews,
    subscriptions,
    replays,
    events,
    publishing,
    pulling,
    deliveries,
    groups,
    incidents,
    figures,
    intents,
    erasures,
    keys,
    connect_accounts,
    tokens,
    audit,
    system,
)

OPERATIONS = tuple(one for resource in _RESOURCES for one in vars(resource).values() if isinstance(one, Operation))
