"""Which columns of a table stay on a narrow terminal. A table that does not fit leaves its last ones out, one by one,
in this order; a wider terminal shows them again. JSON and what is piped have all of them."""

from collections.abc import Mapping, Sequence

ORDER: Mapping[str, tuple[str, ...]] = {
    "jobs list": ("id", "status", "error", "channel", "next", "tracked", "account"),
    "intents list": ("id", "sent_at", "reason", "path", "account", "idempotency_key"),
    "groups list": ("name", "state", "ended", "failed", "missing", "last job", "account", "round"),
    "accounts list": ("id", "state", "name", "channel", "since", "open jobs", "trouble", "account"),
    "incidents list": ("id", "state", "what", "who", "opened", "likely"),
    "incidents show": ("id", "error", "repeat", "failed"),
    "sources list": ("account", "state", "open", "delay", "ours/limit", "others", "double", "half"),
    "subscriptions list": ("id", "state", "sink", "why", "since", "types", "lag", "kind"),
    "events list": ("id", "type", "time", "subject", "sequence"),
    "deliveries list": ("id", "state", "reason", "type", "sink", "next", "about"),
    "replays list": ("id", "state", "left", "matched", "delivered", "dead", "started", "sends", "subscription"),
    "tokens list": ("id", "name", "scopes", "last_used_at", "expires_at", "account"),
    "audit list": ("at", "actor", "action", "target", "result", "address", "count"),
    "settings": ("key", "value", "place", "change"),
    "figures": ("figure", "sum/mean", "unit", "last", "peak", "course"),
}
"""The columns of a command's table, the most useful first. A table without an order keeps its first columns."""


def kept_in(columns: Sequence[str], order: Sequence[str]) -> list[str]:
    """The columns, the most useful first. Those that the order does not name come last."""
    return [*(name for name in order if name in columns), *(name for name in columns if name not in order)]
