"""Bundles: several deliveries of one subscription in one request. Pure functions.

A bundle takes due heads of one priority and, behind each, its followers in the order of their job. Nothing waits in
memory: a delivery's row has the start of its wait, so a crash or another node changes nothing. No event is given up
because of another: if a bundle is refused, or a member has no attempt left, the members are sent again one by one,
marked as `alone` in their rows. Claimed in `relay/store/deliveries/bundles.py`, sent in `relay/delivery/worker.py`.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

from relay.core.deliveries.delivery import RENDER_ERROR, Claimed, Outcome, Response

FREE_SECONDS = 60.0
"""The window in which `free_per_minute` requests are free."""
REFUSED = frozenset({400, 413, 422})
"""Status codes that refuse the content of a request. In a bundle, the cause may be one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Rules by which the deliveries of a subscription share requests.

    max_events       maximum events in one request
    wait_seconds     maximum wait of a delivery for others, from its creation
    max_bytes        maximum bytes of the events' stored bodies, with one byte between two of them
    free_per_minute  None: always bundled. Else up to this many requests a minute are single events without a wait; when
                     more is due, all of it is one request
    free_types       None: any event may be such a single one. Else only first attempts of these types, which are about
                     no job, and all others are always bundled
    own_outcomes     each event has an outcome of its own, as a broker acknowledges each message. So all due events go
                     together, and a failing sink is tried with one event
    """

    max_events: int
    wait_seconds: float
    max_bytes: int
    free_per_minute: int | None = None
    free_types: frozenset[str] | None = None
    own_outcomes: bool = False

    def of_failing_sink(self) -> "Bundle":
        """The bundle used to retry a failing sink."""
        return replace(self, max_events=1) if self.own_outcomes else self

    @property
    def always(self) -> bool:
        """True if events of jobs are always bundled."""
        return self.free_per_minute is None or self.free_types is not None


class Candidate(NamedTuple):
    """An open delivery that a bundle may take.

    sequence    its place in its job; None without a job
    size_bytes  of the event's stored body
    since       start of its wait
    type        of its event, of heads
    free        it is not `alone`, and no other transaction has it
    """

    id: str
    order_key: str | None
    sequence: int | None
    size_bytes: int
    since: float
    type: str = ""
    free: bool = True


class Taken(NamedTuple):
    """The members of a bundle, and whether it is full."""

    ids: tuple[str, ...]
    full: bool


def take(heads: Sequence[Candidate], open_by_job: Mapping[str, Sequence[Candidate]], bundle: Bundle) -> Taken:
    """The members of a bundle that takes these heads, oldest first, until it is full.

    `open_by_job`: the open deliveries of each job in their order, heads included. A follower is taken only behind
    everything that it waits for, and a job's deliveries up to the first that does not fit.
    """
    is_head = {head.id for head in heads}
    ids: dict[str, None] = {}
    left_bytes = bundle.max_bytes + 1
    for head in heads:
        for one in _in_line(head, open_by_job, is_head):
            if one.id in ids:
                continue
            left_bytes -= one.size_bytes + 1
            if ids and (len(ids) >= bundle.max_events or left_bytes < 0):
                return Taken(tuple(ids), full=True)
            ids[one.id] = None
    return Taken(tuple(ids), full=len(ids) >= bundle.max_events)


def _in_line(head: Candidate, open_by_job: Mapping[str, Sequence[Candidate]], is_head: set[str]) -> Iterable[Candidate]:
    """The heads of a head's job and the followers behind them, in order."""
    of_job = open_by_job.get(head.order_key or "")
    if not of_job:
        return (head,)
    found, unbroken = [], True
    for one in of_job:
        if one.id in is_head or (unbroken and one.free):
            found.append(one)
        else:
            unbroken = False
    return found if any(one.id == head.id for one in found) else [*found, head]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The number of single events that may be sent now; if it is 0, `next_at` is the time of the next."""

    count: int = 0
    next_at: float = math.inf


@dataclass(slots=True)
class FreeRequests:
    """The times of a sink's latest requests, of which `per_minute` a minute are free."""

    sent: deque[float] = field(default_factory=deque)

    def room(self, per_minute: int, now: float) -> Room:
        """The number of requests that are free now."""
        while self.sent and not 0 <= now - self.sent[0] < FREE_SECONDS:  # negative if the clock was set back
            self.sent.popleft()
        if len(self.sent) < per_minute:
            return Room(count=per_minute - len(self.sent))
        if not per_minute:
            return Room()
        return Room(next_at=self.sent[-per_minute] + FREE_SECONDS)

    def count(self, now: float) -> None:
        """Counts a sent request."""
        self.sent.append(now)


def singles(heads: Sequence[Candidate], taken: int, bundle: Bundle, room: Room, *, fresh: bool) -> Sequence[Candidate]:
    """The heads to send as single events within `room`. `taken`: members of the bundle that would be sent instead;
    `fresh`: as in `ready_at`."""
    if bundle.own_outcomes:
        return ()
    if bundle.free_types is None:
        return heads if taken <= room.count else ()
    free = [head for head in heads if head.type in bundle.free_types] if fresh else ()
    return free if len(free) <= room.count else ()


def ready_at(bundle: Bundle, room: Room, oldest_at: float, now: float, *, fresh: bool, full: bool) -> float:
    """The time to send a bundle whose first delivery began to wait at `oldest_at`; 0 for at once. If it is further
    ahead of `now` than the wait is long, the clock was set back, and nothing waits.

    fresh  first attempts. Retries and replays have waited, so they wait again only for room
    full   the bundle has no room for more
    """
    ends_at = oldest_at + bundle.wait_seconds if oldest_at - now <= bundle.wait_seconds else 0.0
    if bundle.always:
        return ends_at if fresh and not full else 0.0
    return 0.0 if full or room.count else min(ends_at, room.next_at)


def in_order(members: Sequence[Claimed]) -> tuple[Claimed, ...]:
    """The oldest first, and those of one job in their order, even if a clock was set back."""
    by_age = sorted(members, key=lambda one: (one.event.recorded_at, one.id))
    of_job: dict[str, deque[Claimed]] = {}
    for one in sorted(members, key=lambda one: one.event.sequence or 0):
        of_job.setdefault(one.order_key or one.id, deque()).append(one)
    return tuple(of_job[one.order_key or one.id].popleft() for one in by_age)


def message_id(event_ids: Sequence[str]) -> str:
    """The `webhook-id` of a request: the event's id or, of several events, `bundle_` and a digest of their ids. A
    retry of the same events has the same id."""
    if len(event_ids) == 1:
        return event_ids[0]
    return f"bundle_{sha256(' '.join(event_ids).encode()).hexdigest()[:40]}"


def outcome_of_bundle(outcome: Outcome, response: Response) -> Outcome:
    """The outcome of a request with several events: `dead` also if one of them may be what the sink refuses, or cannot
    be rendered."""
    refused = response.status_code in REFUSED or response.error == RENDER_ERROR
    return replace(outcome, verdict="dead") if refused and outcome.verdict == "retry" else outcome
