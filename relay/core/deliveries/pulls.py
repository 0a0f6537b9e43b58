"""Pulls: a program requests its deliveries, and gets them under a lease. Pure functions.

The lease of an answer outlives the node that granted it. Its token contains its subscription, its end and its start, so
that one seek in the index of leases finds those that have ended.
"""

from dataclasses import dataclass

MAX_PULLED = 1_000
"""Maximum deliveries in one answer, and ids in one acknowledgement."""
MAX_PULLED_BYTES = 8 << 20
"""Maximum bytes of the events in one answer. A larger event is alone in its answer."""
MAX_WAIT_SECONDS = 30.0
MIN_LEASE_SECONDS = 1.0
MAX_LEASE_SECONDS = 3_600.0
MAX_DELAY_SECONDS = 86_400.0
LEASE_PREFIX = "pull/"
"""Prefix of these leases' tokens only."""
LAG_COUNTED = 10_000
"""Maximum deliveries counted for the lag of a subscription. Counting as many takes about 50 ms."""
LAG_COUNTED_IN_ANSWERS = 1_000
"""The same limit in each answer to a pull."""

ACKNOWLEDGED = "acknowledged"
"""The reason of a delivery that its program has acknowledged."""
NACKED = "nacked"
LEASE_ENDED = "lease_ended"
"""The reasons of failed attempts: the program reported the failure, or the lease ended without an answer."""


@dataclass(frozen=True, slots=True)
class Lag:
    """A program's unacknowledged deliveries.

    count      open deliveries, those under a lease included; at most the requested limit
    oldest_at  creation time of the oldest; None if there is none
    """

    count: int
    oldest_at: float | None

    def oldest_seconds(self, now: float) -> float | None:
        """Age of the oldest delivery, to a millisecond."""
        return None if self.oldest_at is None else round(max(now - self.oldest_at, 0.0), 3)


def lease_token(subscription_id: str, *, now: float, until: float, nonce: str) -> str:
    """The token of a lease that begins at `now`, by the machine's clock, and ends at `until`. `nonce`: unique."""
    return f"{_ending(subscription_id, until)}{_milliseconds(now)}/{nonce}"


def ended_tokens(subscription_id: str, now: float) -> tuple[str, str]:
    """The range of tokens of a subscription's leases that have ended: its start and its end."""
    return f"{LEASE_PREFIX}{subscription_id}/", _ending(subscription_id, now + 0.001)


def pulled_at(token: str, now: float) -> float:
    """Start of a token's lease. `now` if it is no lease of a pull, or a clock was set back."""
    parts = token.split("/") if token.startswith(LEASE_PREFIX) else []
    return min(int(parts[-2]) / 1000, now) if len(parts) >= 4 and parts[-2].isdecimal() else now


def _ending(subscription_id: str, until: float) -> str:
    return f"{LEASE_PREFIX}{subscription_id}/{_milliseconds(until)}/"


def _milliseconds(at: float) -> str:
    """15 digits, so that texts compare as times do."""
    return f"{int(at * 1000):015d}"
