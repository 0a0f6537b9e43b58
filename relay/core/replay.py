"""Replays: a range of events that is sent again. All values; times are epoch seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ReplayState = Literal["running", "done", "stopped"]
Only = Literal["undelivered", "all", "pending", "dead", "cancelled", "delivered"]

SENDS: Mapping[Only, frozenset[str | None]] = {
    "undelivered": frozenset((None, "dead", "cancelled")),
    "all": frozenset((None, "dead", "cancelled", "delivered")),
    "pending": frozenset(),
    "dead": frozenset(("dead",)),
    "cancelled": frozenset(("cancelled",)),
    "delivered": frozenset(("delivered",)),
}
"""What each sends, by how a delivery has ended; None: there is none of this event to this subscription."""

JOINS: frozenset[Only] = frozenset(("undelivered", "all", "pending"))
"""Those that have what is pending tried now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What is to be sent again: the events recorded from `since` until before `until`.

    subscription_id  of one subscription; None: of all, deliveries that are there already
    types            only events of these types; None: of any that the subscription gets
    only             undelivered, all: also events that it never had a delivery of; the states: deliveries that stand so
    reason           only deliveries that ended for this reason
    """

    id: str
    subscription_id: str | None
    since: float
    until: float
    now: float
    types: tuple[str, ...] | None = None
    only: Only = "undelivered"
    reason: str | None = None

    @property
    def adds(self) -> bool:
        """Whether it makes the deliveries that are not there."""
        return None in SENDS[self.only]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a replay goes.

    matched  what there was to send when it was made
    queued   what of it is on its way or was
    left     what of it has not ended
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
    """What one step of a replay did. `more`: there is something for the next one to do at once."""

    queued: int = 0
    more: bool = False
    ended: bool = False
