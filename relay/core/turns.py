"""Whose turn it is: who can end a trouble. Exactly one of five, for pages, messages and commands. Pure.

`turn_of_failure` is for a failed job or an incident of jobs, `turn_of_sink` for a subscription whose deliveries fail,
`turn_of` for everything else.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

OWNER = "the owner of the sending account"
ADMINISTRATOR = "an administrator"
RECEIVER = "whoever runs the receiver"
RELAY = "none: the relay goes on by itself"
"""The fifth is the title of the source, such as `Revor`."""

Turn: TypeAlias = str
"""One of the five."""
Kind = Literal["account", "creates", "uncertain", "given_up", "key", "credits", "node", "down", "late"]
"""Troubles with one kind of owner each.

account    a sending account needs reconnecting, or cannot send
creates    it is unknown whether the upstream carried out a create
uncertain  it is unknown whether a delivery was written
given_up   deliveries were given up, and the receiver works again
key        the upstream refuses the API key, or there is none
credits    the upstream account has too few credits
node       the relay is not ready
down       the upstream does not answer
late       something waits for a little longer than usual
"""
_ADMINISTRATORS = frozenset({"creates", "uncertain", "given_up", "key", "credits", "node"})

_OF_THE_SUBSCRIPTION = frozenset(
    {"credential", "denied", "refused", "proxy", "render", "extra_missing", "cancelled", "too_large", "unmatched"}
)
"""Reasons for failed deliveries that settings of the relay, or of its subscription, correct."""
_STATUSES_OF_THE_SUBSCRIPTION = frozenset({"401", "403", "404", "405"})
UNREADABLE = "this version cannot read "
"""Prefix of the reason of an attempt that disables its subscription because its stored form cannot be read."""


def turn_of(kind: Kind, title: str = "the upstream") -> Turn:
    """Whose turn a trouble of this kind is. `title`: of its source, for `down`."""
    if kind == "account":
        return OWNER
    if kind == "down":
        return title
    return ADMINISTRATOR if kind in _ADMINISTRATORS else RELAY


def turn_of_failure(who: str) -> Turn:
    """Whose turn a job's error is. `who`: of its hint, as `problem.who` of a job and `who` of an incident have it: a
    role, or the title of the source if it passes by itself."""
    if who == "account owner":
        return OWNER
    return ADMINISTRATOR if who in ("administrator", "developer") else who


def turn_of_sink(reason: str | None) -> Turn:
    """Whose turn a failing or disabled subscription is. `reason`: why, such as `http_503`, `connect` or `410 Gone`."""
    if is_unreadable(reason):
        return ADMINISTRATOR
    word = (reason or "").partition(":")[0].removeprefix("http_").partition(" ")[0]
    if word in _OF_THE_SUBSCRIPTION or word in _STATUSES_OF_THE_SUBSCRIPTION or word[:1] == "3":
        return ADMINISTRATOR
    return RECEIVER


def is_unreadable(reason: str | None) -> bool:
    """True if a subscription was disabled for this reason because its stored form cannot be read."""
    return (reason or "").startswith(UNREADABLE)


def turn_of_incident(incident: Mapping[str, Any]) -> Turn:
    """Whose turn an incident is, as `GET /v1/incidents` shows it."""
    if incident["kind"] == "jobs":
        return turn_of_failure(incident["who"])
    return turn_of("creates") if incident["kind"] == "creates" else turn_of_sink(incident["code"])
