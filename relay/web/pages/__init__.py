"""Every page, by module."""

from relay.web import page
from relay.web.pages import (  # noqa: F401 (each adds its own to `page.PAGES`)
    accounts,
    administration,
    deliveries,
    events,
    groups,
    incidents,
    intents,
    jobs,
    overview,
    replays,
    subscriptions,
    upstream,
)

PAGES = tuple(sorted(page.PAGES, key=lambda one: "{" in one.path))
"""Those with a parameter last: pages are matched in order, and /ui/deliveries/retry is no id."""
