"""This node's state of one sink: whether, when and how fast it may be sent to.

The dispatcher and the worker write it. It is kept in memory; `HealthChange` is the
part that is stored for restarts and other nodes. Slots are counted in `slots.py`.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from relay.core.deliveries import retry
from relay.core.deliveries.concurrency import Concurrency
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.subscriptions.subscription import Subscription

FAILED = 10
"""Failures in a row after which a sink whose window has shrunk to one slot (timeouts) counts as down."""
FAILED_OFTEN = 100
"""Failures in a row after which a sink is only tried at FAILING_PER_SECOND."""
FAILING_PER_SECOND = 20.0
"""Attempt rate for a sink that keeps failing. Sending it more would only take capacity from healthy sinks."""
RESTORED_SECONDS = 1.0
"""A pause is stored again only if it ends more than this time after the stored one: responses to concurrent requests
ask for almost the same pause."""
OUTAGE_SECONDS = 60.0
"""Minimum outage, in seconds of failures only, after which a success expedites the waiting retries. Without a minimum,
an event that a busy sink always rejects would be sent again after each success of another event."""


class HealthChange(NamedTuple):
    """The health to store, the values before, and whether a success has ended an outage."""

    failing_since: float | None
    paused_until: float
    before: tuple[float | None, float | None, float]
    ends_outage: bool


@dataclass(slots=True, eq=False)
class Turns:
    """Spaces attempts.

    next_at        earliest time of the next attempt
    pause_seconds  its distance when it was set; a greater one means that the clock was set back
    """

    next_at: float = 0.0
    pause_seconds: float = 0.0

    def opens_at(self, now: float) -> float:
        """Earliest time of the next attempt; 0 for now."""
        return self.next_at if self.next_at - now <= self.pause_seconds else 0.0

    def pause(self, now: float, seconds: float) -> None:
        """Starts a pause of `seconds`."""
        self.next_at = now + seconds
        self.pause_seconds = self.next_at - now  # as `opens_at` computes it: floats are rounded

    def take(self, now: float, per_second: float) -> bool:
        """Takes the next turn of a rate. Returns False if it is not due yet."""
        if self.opens_at(now) > now:
            return False
        self.pause(now, 1.0 / per_second)
        return True


@dataclass(slots=True, eq=False)
class SinkState:
    """The state of one sink. Times are epoch seconds.

    concurrency    the adaptive number of its slots
    rate           maximum sends per second, one at a time; None: as many as it has slots
    enabled        the subscription is enabled
    drain_since    start of the drain of its backlog after a disabled subscription was enabled
    failures       failed attempts in a row
    recovered      first success after being down, until the backlog is demoted by a claim, or gone
    failing_since  start of its own failures, plus the time in which the egress proxy failed and the sink's state was
                   unknown; None after a success
    down_since     first failure of either since the last success
    unreached_since  first failure of the egress proxy since the sink was last reached
    back_since     last success after an outage; 0 if there was none
    paused_until   end of a pause that the sink asked for
    held_until     end of a hold on attempts while the subscription is being disabled
    turns          spaces the attempts of a rate limit
    probe_at       next probe while disabled; None: no more probes
    """

    concurrency: Concurrency
    rate: float | None = None
    enabled: bool = False
    drain_since: float | None = None
    failures: int = 0
    recovered: bool = False
    failing_since: float | None = None
    down_since: float | None = None
    unreached_since: float | None = None
    back_since: float = 0.0
    paused_until: float = 0.0
    held_until: float = 0.0
    turns: Turns = field(default_factory=Turns)
    probe_at: float | None = None
    _stored_since: float | None = None
    _stored_pause: float = 0.0
    _expedited: float | None = None

    def opens_at(self, now: float) -> float:
        """Earliest time of the next attempt."""
        return max(self.paused_until, self.held_until, self.turns.opens_at(now))

    def may_send(self, now: float) -> bool:
        """True if the sink may be sent to now, slots aside."""
        return self.enabled and self.opens_at(now) <= now

    @property
    def fails(self) -> bool:
        """True if there was no success since the last failure of the sink or the egress proxy."""
        return self.failing_since is not None or self.down_since is not None

    @property
    def fails_often(self) -> bool:
        """True if the sink keeps failing and is only tried at FAILING_PER_SECOND."""
        return self.failures >= FAILED_OFTEN

    @property
    def down(self) -> bool:
        """True if the backlog was caused by the sink. Such deliveries rank behind new events once it recovers."""
        return self.fails_often or (self.failures >= FAILED and self.concurrency.limit == 1)

    def per_second(self, now: float) -> float | None:
        """Rate limit while draining or failing; None if it does neither, or has a rate of its own."""
        if self.rate is not None:
            return None
        drain = None if self.drain_since is None else retry.drain_per_second(now - self.drain_since)
        return min(drain or FAILING_PER_SECOND, FAILING_PER_SECOND) if self.fails_often else drain

    # --- written by Slots: the subscription

    def adopt(
        self, subscription: Subscription, before: Subscription | None, *, ceiling: int, rate: float | None
    ) -> None:
        """Applies a subscription's new state. `before`: its previous state; None for a new one."""
        if (
            before is None
            or subscription.enabled_since != before.enabled_since
            or subscription.reached_by != before.reached_by
        ):
            self.failures = 0
            self._take_over(subscription.failing_since)
            self.paused_until = self._stored_pause = subscription.paused_until or 0.0
        elif subscription.paused_until is not None:  # learned by another node
            self.paused_until = max(self.paused_until, subscription.paused_until)
        if before is not None and subscription.state_since != before.state_since:
            self.held_until = 0.0
        if subscription.state == "disabled":  # possibly by another node
            self._take_over(subscription.failing_since)
        self.enabled = subscription.state == "enabled"
        self.drain_since, self.probe_at = subscription.drain_since, subscription.probe_at
        self.concurrency.ceiling, self.rate = ceiling, rate

    # --- written by the dispatcher: claims, and health from other nodes

    def paced(self, count: int, now: float) -> None:
        """Records that `count` deliveries are sent now. Delays the next ones while draining or failing."""
        rate = self.per_second(now)
        if rate is not None and count:
            self.turns.pause(now, max(self.turns.opens_at(now) - now, count / rate))

    def sync_failing(self, since: float | None) -> None:
        """Applies the stored start of failures seen by all nodes; None: not all nodes see only failures."""
        if (since is None) is not (self.failing_since is None):
            self._take_over(since)

    def _take_over(self, since: float | None) -> None:
        self.failing_since = self.down_since = self._stored_since = since
        self.unreached_since = None

    def start_expediting(self, resumed_at: float) -> float | None:
        """Time of the last resumption, drain start or recovery; None if its waiting retries were already expedited."""
        since = max(resumed_at, self.back_since)
        if not since or since == self._expedited:
            return None
        self._expedited = since
        return since

    def expediting_failed(self) -> None:
        """Makes the next scan expedite again, after an error."""
        self._expedited = None

    # --- written by the worker: attempts

    def take_turn(self, now: float) -> bool:
        """Takes the next turn of its own rate. Returns False if it is not due yet."""
        return self.rate is None or self.turns.take(now, self.rate)

    def answered(self, response: Response, outcome: Outcome, *, in_flight: int, full: bool) -> None:
        """Applies an outcome. `in_flight` and `full`: as in `Concurrency.succeeded`."""
        if not outcome.judges_sink:
            return
        delivered = outcome.verdict == "delivered"
        self.recovered |= delivered and self.down
        if delivered and self.fails_often and self.rate is None:
            self.turns.next_at = 0.0  # lift the pause of a failing sink
        self.failures = 0 if delivered else self.failures + 1
        if response.late:
            self.concurrency.timed_out()
        elif delivered:
            self.concurrency.succeeded(response.duration_ms / 1000, in_flight=in_flight, full=full)

    def reached(self, now: float, *, by_proxy: bool) -> None:
        """Records that an attempt ended at the sink, or at a failed egress proxy (`by_proxy`)."""
        if by_proxy:
            if self.unreached_since is None:
                self.unreached_since = now
        elif self.unreached_since is not None:
            if self.failing_since is not None:
                self.failing_since += max(now - self.unreached_since, 0.0)
            self.unreached_since = None

    def pause(self, until: float) -> None:
        """Pauses until a time that the sink asked for."""
        self.paused_until = max(self.paused_until, until)

    def pause_to_store(self, now: float) -> bool:
        """True if its pause must be stored for restarts and other nodes."""
        return self.paused_until > max(now, self._stored_pause + RESTORED_SECONDS)

    def pause_stored(self, until: float) -> None:
        """Records the stored end of its portal's pause; 0 if storing failed."""
        self._stored_pause = until

    def health_change(self, outcome: Outcome, now: float, *, by_proxy: bool = False) -> HealthChange | None:
        """The health to store after an attempt; None if unchanged."""
        pause = self.paused_until if self.paused_until > now else 0.0
        before = (self.failing_since, self._stored_since, self._stored_pause)
        ends_outage = False
        if not outcome.judges_sink:
            pass  # it may have asked for a pause
        elif outcome.verdict == "delivered":
            ends_outage = self.down_since is not None and now - self.down_since >= OUTAGE_SECONDS
            if ends_outage:
                self.back_since = now
            self.failing_since = self.down_since = None
        else:
            self.down_since = now if self.down_since is None else self.down_since
            if self.failing_since is None and not by_proxy:
                self.failing_since = now
        if self.failing_since == self._stored_since and not ends_outage and pause in (0.0, self._stored_pause):
            return None
        self._stored_since, self._stored_pause = self.failing_since, pause
        return HealthChange(self.failing_since, pause, before, ends_outage)

    def health_not_stored(self, change: HealthChange) -> None:
        """Reverts a change that could not be stored, so that the next attempt stores it."""
        self.failing_since, self._stored_since, self._stored_pause = change.before
