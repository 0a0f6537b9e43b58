"""Deliveries, their attempts, and what goes over the wire in one. All values; times are epoch seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from relay.core.events import Event
from relay.core.values import value_class

DeliveryState = Literal["pending", "delivered", "dead", "cancelled"]


@value_class(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """One HTTP request to a sink, ready to send."""

    url: str = field(repr=False)
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)


class Timings(NamedTuple):
    """Where the time of a request went, in milliseconds. None: there was no such part; a connection that was open
    already has none of the first three. A part that broke off counts until then.

    dns_ms         the look-up of the host name, where it was not known from a moment before
    connect_ms     TCP, over all addresses that were dialled
    tls_ms         the handshake, until the request was on its way
    first_byte_ms  from there to the head of the answer
    """

    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None


NO_TIMINGS = Timings()


@value_class(frozen=True, slots=True, kw_only=True)
class Response:
    """What came of a request: a status code, or `error` when none came.

    error    None, or one word: timeout, dns, connect, tls, refused (by the egress guard), protocol, read, cancelled
    detail   one line for a person about `error`, or about what was wrong with an answer whose status counts all the
             same; without secrets
    excerpt  the first bytes of the body, at most 64 KiB
    late     time ran out before the end of the answer
    """

    started_at: float
    duration_ms: float
    status_code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    excerpt: bytes = b""
    error: str | None = None
    detail: str | None = None
    remote_ip: str | None = None
    timings: Timings = NO_TIMINGS
    late: bool = False

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@value_class(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict of a subscription's kind on a response.

    verdict              delivered: done; retry: try again as scheduled; dead: this event never will;
                         disable: the sink wants no more (the event is held)
    retry_after_seconds  the sink asked for this pause: a floor for the next attempt, and a pause of the subscription
    """

    verdict: Literal["delivered", "retry", "dead", "disable"]
    reason: str
    retry_after_seconds: float | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try, as it is recorded and shown.

    response_excerpt  text, or hex where the body is no UTF-8 (`excerpt_is_hex`)
    remote_ip         the address that was dialled, also where it did not answer
    decision          what followed and why, in a sentence
    next_attempt_at   when the next try was planned, None where none was
    """

    number: int
    started_at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None
    request_headers: tuple[tuple[str, str], ...] = ()
    response_headers: tuple[tuple[str, str], ...] = ()
    response_excerpt: str | None = None
    excerpt_is_hex: bool = False
    remote_ip: str | None = None
    timings: Timings = NO_TIMINGS
    decision: str | None = None
    next_attempt_at: float | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery that this node holds by lease, with all that it takes to send it.

    attempt_count  attempts made so far in the present schedule (a manual retry starts a fresh one)
    made_count     attempts made in all
    priority       0 a first attempt, 1 a retry or one that waited for a sink that failed, 2 asked for by hand
    probe          tried although its subscription is disabled, to see whether the sink is there again
    """

    id: str
    event: Event
    subscription_id: str
    job_uid: str | None
    lease_token: str
    lease_until: float
    attempt_count: int = 0
    made_count: int = 0
    priority: int = 0
    created_at: float = 0.0
    probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryGroup:
    """Deliveries that have something in common: None where they need not. `day` begins at this time (UTC), and is that
    of their making, as `oldest_at` and `newest_at` are; `example_id` is the newest one's."""

    reason: str | None
    subscription_id: str | None
    day: float | None
    count: int
    oldest_at: float
    newest_at: float
    example_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery as the API shows it."""

    id: str
    event_id: str
    event_type: str
    subject: str | None
    subscription_id: str
    job_uid: str | None
    state: DeliveryState
    attempt_count: int
    next_attempt_at: float | None
    created_at: float
    ended_at: float | None = None
    reason: str | None = None
    waiting_for: str | None = None
    attempts: tuple[Attempt, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
