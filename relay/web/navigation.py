"""The navigation that every page shows."""

from typing import NamedTuple


class Place(NamedTuple):
    """A page of the navigation. `key`: the key pressed after `g` to open it."""

    name: str
    path: str
    key: str


ADMINISTRATION = "administration"
"""The section whose pages need the scope `admin`."""
SECTIONS = (
    ("watch", (Place("overview", "/ui", "o"), Place("incidents", "/ui/incidents", "i"))),
    ("work", (Place("jobs", "/ui/jobs", "j"), Place("groups", "/ui/groups", "g"))),
    (
        "delivery",
        (
            Place("events", "/ui/events", "e"),
            Place("deliveries", "/ui/deliveries", "d"),
            Place("subscriptions", "/ui/subscriptions", "s"),
        ),
    ),
    ("upstream", (Place("sources", "/ui/sources", "u"), Place("intents", "/ui/intents", "n"))),
    (
        ADMINISTRATION,
        (Place("tokens", "/ui/tokens", "t"), Place("audit", "/ui/audit", "a"), Place("settings", "/ui/settings", "c")),
    ),
)
"""The navigation: sections by name (the text `base.section_NAME`), each with its pages."""

NAVIGATION = tuple(place for _, places in SECTIONS for place in places)
"""Every page of the navigation, in order."""
