"""Sending accounts in words, from the API's answers: values in, values out.

A sending account is an item of `GET /v1/connect-accounts`, or of a group's `connect_accounts`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from relay.core.events.sentences import titled
from relay.core.turns import RELAY, turn_of

Sender = Mapping[str, Any]

BROKEN = ("needs_reconnect", "cannot_send")
"""States in which its jobs fail."""


def name_of(sender: Sender) -> str:
    """A sending account within a sentence, such as `LinkedIn account Sales EMEA`."""
    kind, name = f"{titled(sender['channel'] or '')} account".strip(), str(sender["name"] or sender["id"])
    return name if kind.lower() in name.lower() else f"{kind} {name}".strip()


def title_of(sender: Sender) -> str:
    """The same, as a title."""
    name = name_of(sender)
    return f"{name[:1].upper()}{name[1:]}"


def state_of(sender: Sender) -> str:
    """The key of its state in words: that of the upstream, `fails` if an incident shows more than the last listing, or
    `unlisted`."""
    if sender["trouble"] is not None and sender["state"] not in (*BROKEN, "removed"):
        return "fails"
    return sender["state"] or "unlisted"


def waiting_of(sender: Sender) -> int:
    """The number of open jobs that name it."""
    count: int = sender["waiting"] if "waiting" in sender else sender["open_jobs"]
    return count


def needs_someone(sender: Sender) -> bool:
    """True if it fails jobs, or would: a removed account only while jobs wait for it."""
    state = state_of(sender)
    return state in (*BROKEN, "fails") or (state == "removed" and waiting_of(sender) > 0)


def turn_of_sender(sender: Sender) -> str:
    """Whose turn it is."""
    return turn_of("account") if needs_someone(sender) else RELAY


def kind_of(sender: Sender) -> str:
    """The kind of its mark: good, bad, warn or quiet."""
    if needs_someone(sender):
        return "bad" if sender.get("failed_jobs") or waiting_of(sender) or sender["trouble"] is not None else "warn"
    return "good" if state_of(sender) == "ok" else "quiet"


def urgency(sender: Sender) -> tuple[bool, int, str]:
    """Sorts sending accounts: those that hold up most jobs come first."""
    return not needs_someone(sender), -waiting_of(sender), name_of(sender)


def anchor_of(sender: Sender) -> str:
    """The id of its row on the page of sending accounts."""
    return quote(f"account-{sender['id']}", safe="")


def counts_of(senders: Sequence[Sender]) -> dict[str, int]:
    """How many are in each state of the upstream; `all` of them."""
    counts = {"all": len(senders)}
    for one in senders:
        counts[one["state"]] = counts.get(one["state"], 0) + 1
    return counts


WORDS: Mapping[str, Callable[[Sender], object]] = {
    one.__name__: one for one in (title_of, state_of, needs_someone, turn_of_sender, kind_of, anchor_of)
}
"""Functions for templates."""
