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
    replays,
    settings,
    sources,
    subscriptions,
    tokens,
)

# `replays` before `deliveries`: pages are matched in order, and it has /ui/deliveries/retry.
_MODULES = (
    overview,
    jobs,
    groups,
    replays,
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
