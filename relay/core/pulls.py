"""Pulls: a program asks for its deliveries, and gets them under a lease. Pure functions.

The lease of an answer outlives the node that gave it. Its token says of which subscription it is, when it ends and when
it began, so that those that have ended are found by one seek in the index of leases.
"""

from dataclasses import dataclass

MAX_PULLED = 1_000
"""Maximum deliveries in one answer, and ids in one acknowledgement."""
MAX_PULLED_BYTES = 8 << 20
"""Maximum bytes of the events in one answer. One that is larger is alone in it."""
MAX_WAIT_SECONDS = 30.0
MIN_LEASE_SECONDS = 1.0
MAX_LEASE_SECONDS = 3_600.0
MAX_DELAY_SECONDS = 86_400.0
LEASE_PREFIX = "pull/"
"""How the tokens of these leases begin, and no others do."""
LAG_COUNTED = 10_000
"""At most this many deliveries are counted for the lag of a subscription, which takes some 50 ms."""
LAG_COUNTED_IN_ANSWERS = 1_000
"""The same in each answer to a pull."""

ACKNOWLEDGED = "acknowledged"
"""The reason of a delivery that its program has acknowledged."""
NACKED = "nacked"
LEASE_ENDED = "lease_ended"
"""The reasons of attempts that failed: the program has said so, or said nothing in time."""


@dataclass(frozen=True, slots=True)
class Lag:
    """What a program has not acknowledged yet.

    count      open deliveries, those under a lease included; at most the number that was asked for
    oldest_at  when the oldest of them was made; None if there is none
    """

    count: int
    oldest_at: float | None

    def oldest_seconds(self, now: float) -> float | None:
        """The age of the oldest one, to a millisecond."""
        return None if self.oldest_at is None else round(max(now - self.oldest_at, 0.0), 3)


def lease_token(subscription_id: str, *, now: float, until: float, nonce: str) -> str:
    """The token of a lease that begins `now`, by the machine's clock, and ends at `until`. `nonce`: unique."""
    return f"{_ending(subscription_id, until)}{_milliseconds(now)}/{nonce}"


def ended_tokens(subscription_id: str, now: float) -> tuple[str, str]:
    """The tokens of a subscription's leases that have ended: the first, and the end of the range."""
    return f"{LEASE_PREFIX}{subscription_id}/", _ending(subscription_id, now + 0.001)


def pulled_at(token: str, now: float) -> float:
    """When the lease of a token began. `now` if it is no lease of a pull, or a clock was set back."""
    parts = token.split("/") if token.startswith(LEASE_PREFIX) else []
    return min(int(parts[-2]) / 1000, now) if len(parts) >= 4 and parts[-2].isdecimal() else now


def _ending(subscription_id: str, until: float) -> str:
    return f"{LEASE_PREFIX}{subscription_id}/{_milliseconds(until)}/"


def _milliseconds(at: float) -> str:
    """15 digits, so that texts compare as times do."""
    return f"{int(at * 1000):015d}"
