"""The pages that every page leads to."""

from typing import NamedTuple


class Place(NamedTuple):
    """A page of the navigation. `key`: what is pressed after `g` to go there."""

    name: str
    path: str
    key: str


NAVIGATION = (
    Place("overview", "/ui", "o"),
    Place("jobs", "/ui/jobs", "j"),
    Place("groups", "/ui/groups", "g"),
    Place("deliveries", "/ui/deliveries", "d"),
    Place("subscriptions", "/ui/subscriptions", "s"),
    Place("events", "/ui/events", "e"),
    Place("incidents", "/ui/incidents", "i"),
    Place("intents", "/ui/intents", "n"),
    Place("sources", "/ui/sources", "u"),
    Place("tokens", "/ui/tokens", "t"),
    Place("audit", "/ui/audit", "a"),
    Place("settings", "/ui/settings", "c"),
)
