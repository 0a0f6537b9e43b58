"""Every operation of the API. Routes, checks and the OpenAPI description are built from this list."""

from relay.api import (
    audit,
    connect_accounts,
    declared,
    deliveries,
    erasures,
    events,
    figures,
    groups,
    incidents,
    intents,
    jobs,
    keys,
    previews,
    publishing,
    pulling,
    registration,
    replays,
    sessions,
    settings,
    sources,
    subscription_models,
    subscriptions,
    system,
    tokens,
)
from relay.api.operations import models_of
from relay.api.shown import example_of

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
    sources,
    connect_accounts,
    tokens,
    sessions,
    audit,
    settings,
    system,
)

OPERATIONS = tuple(operation for resource in _RESOURCES for operation in resource.OPERATIONS)

_DICTS = {
    name: example
    for module in (*_RESOURCES, registration, subscription_models)
    for name, example in getattr(module, "EXAMPLES", {}).items()
}
EXAMPLES = {
    model.__name__: _DICTS[model.__name__] if model.__name__ in _DICTS else example_of(model)
    for model in models_of(OPERATIONS)
}
"""One example of each body and answer, by the name of its model."""
