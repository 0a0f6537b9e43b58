"""Replays: ranges of events that are sent again. Times are epoch seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ReplayState = Literal["running", "done", "stopped"]
Only = Literal["undelivered", "all", "pending", "dead", "cancelled", "uncertain", "delivered"]

SENDS: Mapping[Only, frozenset[str | None]] = {
    "undelivered": frozenset((None, "dead", "cancelled", "uncertain")),
    "all": frozenset((None, "dead", "cancelled", "uncertain", "delivered")),
    "pending": frozenset(),
    "dead": frozenset(("dead",)),
    "cancelled": frozenset(("cancelled",)),
    "uncertain": frozenset(("uncertain",)),
    "delivered": frozenset(("delivered",)),
}
"""States of deliveries that each option sends; None: events without a delivery to the subscription."""

JOINS: frozenset[Only] = frozenset(("undelivered", "all", "pending"))
"""Options that also make pending deliveries due now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """A request to resend the events recorded from `since` to before `until`.

    subscription_id  one subscription; None: existing deliveries of all
    types            only these event types; None: all that the subscription gets
    only             undelivered, all: include events without a delivery; a state: only deliveries in it
    reason           only deliveries that ended for this reason
    owner            the account (`owner_of`) whose bound token asks: only its events, to its own subscriptions
    """

    id: str
    subscription_id: str | None
    since: float
    until: float
    now: float
    types: tuple[str, ...] | None = None
    only: Only = "undelivered"
    reason: str | None = None
    owner: str | None = None

    @property
    def adds(self) -> bool:
        """True if it creates missing deliveries."""
        return None in SENDS[self.only]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCount:
    """The number of deliveries that a replay would send. `complete`: False if not all of the range was counted, so that
    there may be more."""

    matched: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Progress of a replay, in deliveries.

    matched  number to send, counted at creation; at least `queued`
    queued   number queued so far
    left     number that has not ended
    """

    id: str
    subscription_id: str | None
    state: ReplayState
    since: float
    until: float
    types: tuple[str, ...] | None
    only: Only
    reason: str | None
    matched: int
    queued: int
    delivered: int
    dead: int
    left: int
    created_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStep:
    """Result of one step of a replay. `more`: call the next step at once."""

    queued: int = 0
    more: bool = False
    ended: bool = False
