"""Every page, by module."""

from relay.web.pages import (
    audit,
    deliveries,
    events,
    groups,
    incidents,
    intents,
    jobs,
    overview,
    settings,
    sources,
    subscriptions,
    tokens,
)

_MODULES = (
    overview,
    jobs,
    groups,
    deliveries,
    subscriptions,
    events,
    incidents,
    intents,
    sources,
    tokens,
    audit,
    settings,
)

PAGES = tuple(page for module in _MODULES for page in module.PAGES)
