"""Values of delivery: a claimed delivery, one attempt's request, response and outcome. Times are epoch seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from relay.core.events.event import Event
from relay.core.values import value_class

DeliveryState = Literal["pending", "delivered", "dead", "cancelled", "uncertain"]
AT_ONCE_SECONDS = 1e10
"""Work that is due at once is given a due time this long before it became due. That time has passed by every clock,
even after one is set back, and the oldest work is still first."""
SKIPPED_REASONS = ("unmatched", "ambiguous")
"""Reasons of a skipped delivery: its event matches no contact of the sink, or more than one."""
DRY_RUN = "dry_run"
"""The option that shows deliveries instead of sending them, and the reason of such a delivery."""
ALREADY_WRITTEN = "already_written"
"""The reason of a delivery whose record was written by an earlier attempt."""
SETTLING = "settling"
"""The reason of an attempt that waits until the sink can be asked for the result of a write."""
_NOTHING_SENT = (DRY_RUN, ALREADY_WRITTEN, SETTLING)


def at_once(since: float) -> float:
    """The due time of work that became due at `since` and is due at once by any clock."""
    return since - AT_ONCE_SECONDS


def due_since(due_at: float) -> float:
    """The time at which work became or becomes due."""
    return due_at + AT_ONCE_SECONDS if due_at < 0 else due_at


@value_class(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """One HTTP request to a sink, ready to send. `max_answer_bytes`: read of the answer; None: an excerpt."""

    url: str = field(repr=False)
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    max_answer_bytes: int | None = None


class Timings(NamedTuple):
    """Phases of a request, in milliseconds. None: no such phase (a pooled connection has none of the first three). A
    failed phase counts up to its failure.

    dns_ms         host name look-up, unless the answer was shared
    connect_ms     TCP, over all addresses dialled
    tls_ms         TLS handshake
    first_byte_ms  from the request's first byte to the head of the response
    """

    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None


NO_TIMINGS = Timings()

PROXY_ERROR = "proxy"
"""The `error` if the egress proxy made no connection. It says nothing about the sink, so it never
disables a subscription."""
CREDENTIAL_ERROR = "credential"
"""The `error` if there is no token or valid credential."""
RENDER_ERROR = "render"
"""The `error` if the kind of sink cannot render the event."""
EXTRA_ERROR = "extra_missing"
"""The `error` if the node lacks the extra for its broker or template."""
UNSENT_ERROR = "unsent"
"""The `error` if no time was left to send the request."""


@value_class(frozen=True, slots=True, kw_only=True)
class Response:
    """The result of a request: a status code, or `error` if there is none.

    error    None, or one word: timeout, dns, connect, tls, refused (by the egress guard), proxy (the egress proxy made
             no connection), credential (no token or valid credential), unsent (no time was left), protocol, read,
             cancelled
    detail   one line without secrets about `error`, or about the fault in the response behind its status
    excerpt  the first bytes of the body, at most 64 KiB
    late     the timeout passed before the end of the response
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
        """The first header of this name (case-insensitive)."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@value_class(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The meaning of a response for its kind of sink.

    verdict              delivered; retry: try again as scheduled; dead: the sink will never accept this event;
                         disable: the sink accepts no more events, or the subscription cannot be read (this event is
                         held); skip: nothing there concerns this event, so nothing was sent; uncertain: it may or
                         may not have been accepted, and only a person can find out
    retry_after_seconds  pause that the sink asked for: a floor for the next attempt, and a pause of the subscription
    wait_seconds         a floor for the next attempt at this event, up to 24 hours, which pauses nothing else
    in_doubt             the sink may have accepted the event: without another attempt it is uncertain, not dead
    """

    verdict: Literal["delivered", "retry", "dead", "disable", "skip", "uncertain"]
    reason: str
    retry_after_seconds: float | None = None
    wait_seconds: float = 0.0
    in_doubt: bool = False

    @property
    def judges_sink(self) -> bool:
        """True if it says something about the sink's health: the sink was asked to accept the event."""
        return judges_sink(self.verdict, self.reason)


def judges_sink(verdict: str, reason: str | None) -> bool:
    """True if an outcome says something about the sink's health. False if nothing was sent to it, or only questions."""
    return verdict != "skip" and reason not in _NOTHING_SENT


@value_class(frozen=True, slots=True, kw_only=True)
class Shown:
    """A request that was rendered but not sent, without secrets and shortened."""

    method: str
    url: str
    body: str


@value_class(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt, as it is recorded and shown.

    response_excerpt  text, or hex if the body is not UTF-8 (`excerpt_is_hex`)
    remote_ip         the address dialled, whether or not it answered
    decision          the consequence and its reason, in a sentence
    next_attempt_at   the planned time of the next attempt, if any
    requests          the requests that a dry run did not send; None: not a dry run
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
    requests: tuple[Shown, ...] | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery leased by this node, with everything needed to send it.

    attempt_count  attempts made so far in the current schedule (a manual retry starts a new one)
    made_count     attempts made in all
    priority       0: first attempt; 1: retry, or backlog of a sink that failed; 2: manual retry or replay
    round          number of times it was sent again by a replay or by hand
    probe          sent although its subscription is disabled, to find out whether the sink has recovered
    """

    id: str
    event: Event
    subscription_id: str
    lease_token: str
    lease_until: float
    attempt_count: int = 0
    made_count: int = 0
    priority: int = 0
    round: int = 0
    created_at: float = 0.0
    probe: bool = False

    @property
    def order_key(self) -> str | None:
        """The job or stream that keeps the order of its event; None: nothing does."""
        return self.event.order_key

    @property
    def round_id(self) -> str:
        """Identifies a round, equal for all its attempts: the delivery's id, followed by the round from the second
        on."""
        return f"{self.id}.{self.round}" if self.round else self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryGroup:
    """Deliveries counted by reason, subscription and day; None for what they are not grouped by.

    day         start (UTC) of the day on which they were created
    oldest_at   creation time of the oldest one; `newest_at` of the newest
    example_id  id of the newest one
    """

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
