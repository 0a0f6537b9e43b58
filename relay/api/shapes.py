"""What the API answers, as models: documentation, which the tests hold every answer against."""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from relay.core.job import Priority
from relay.core.replay import Only, ReplayState

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Item = TypeVar("Item")


class Shape(BaseModel):
    """What all answers share: every field is there, and no other."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Mistake(Shape):
    """One mistake in a request."""

    pointer: str = Field(description="A JSON Pointer into the body, or a parameter's name.")
    code: str
    detail: str


class Problem(Shape):
    """Why a request was not answered as asked (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="One sentence for a person.")
    code: str = Field(description="For programs; it never changes.")
    errors: list[Mistake]
    request_id: str = Field(default="", description="Only where the relay's log is needed to know more.")


class LastError(Shape):
    """What went wrong at the last look."""

    code: str
    message: str
    request_id: str | None
    at: Time | None


class JobRequest(Shape):
    """What is kept of a create that came through the drop-in proxy."""

    metadata: dict[str, Any] = Field(description="The create's own `metadata`; empty where it had none.")
    truncated: bool = Field(default=False, description="Whether it was too large to keep.")


class Job(Shape):
    """A tracked job."""

    uid: str = Field(description="The relay's own id.")
    id: str = Field(description="The upstream's id.")
    source: str
    account: str
    status: str | None = Field(description="The last upstream value; null before the first look.")
    outcome: Literal["succeeded", "failed", "cancelled", "not_found", "untracked"] | None
    open: bool = Field(description="Whether the relay still looks at it.")
    sequence: int = Field(description="How many events it has had.")
    metadata: dict[str, Any]
    request: JobRequest
    connect_account_id: str | None = Field(description="The upstream's id of the account that it is sent from.")
    priority: Priority
    tracked_at: Time
    last_polled_at: Time | None
    next_poll_at: Time | None
    closed_at: Time | None
    poll_count: int
    last_error: LastError | None
    upstream: dict[str, Any] | None = Field(description="The upstream's item as it was last seen.")


class Page(Shape, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


class Rejected(Shape):
    """A job of a batch that was not tracked."""

    index: int
    code: str
    detail: str


class BatchResult(Shape):
    """What became of a batch."""

    created: int
    existing: int
    rejected: list[Rejected]


class ExplainedError(LastError):
    """What went wrong last, and what to do about it."""

    meaning: str = Field(description="What it means, for a person.")
    fix: str = Field(description="What removes the cause.")
    who: str = Field(description="Who can do that.")


class Explanation(Shape):
    """What is waited for, when the next look is, and why not earlier."""

    uid: str
    id: str
    status: str | None
    open: bool
    reason: str
    sentence: str
    waiting_for: str | None
    next_poll_at: Time | None
    not_before: Time | None = Field(description="The earliest moment at which the budget lets that look go out.")
    expected_delay_seconds: float | None = Field(
        description="How long after its end the end is known, on average; null where that can not be said."
    )
    last_polled_at: Time | None
    last_request_id: str | None
    last_error: ExplainedError | None = Field(
        description="Why the account or the last poll of the job is in trouble, else why the job failed; null where "
        "nothing is wrong. `at` is null where it is not known."
    )


class CloudEvent(BaseModel):
    """A CloudEvent in structured JSON, exactly as it is sent to sinks."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str = ""
    time: Time
    datacontenttype: str
    dataschema: str
    data: dict[str, Any]


class ShownProtocolSettings(Shape):
    """How the sink gets its requests; credentials are redacted."""

    headers: dict[str, str]
    method: Literal["POST", "PUT", "PATCH"]


class ShownConfig(Shape):
    """How events are rendered, ordered and retried."""

    kind: str
    content_mode: Literal["structured"]
    ordering: Literal["job", "none"]
    start: str
    timeout_seconds: float
    retry_schedule: list[float]
    rate_per_second: float | None
    concurrency: int | None
    metadata_keys: list[str] | None
    secret: str = Field(default="", description="Only in the answer to the request that made it.")


class Subscription(Shape):
    """A subscription; its sink as it may be shown."""

    id: str
    sink: str
    types: list[str] | None
    source: str | None
    protocol: Literal["HTTP"]
    protocolsettings: ShownProtocolSettings
    config: ShownConfig
    description: str | None
    state: Literal["enabled", "paused", "disabled", "pending"]
    disabled_reason: str | None
    state_since: Time
    state_reason: str | None
    failing_since: Time | None
    failing_reason: str | None
    paused_until: Time | None
    next_probe_at: Time | None
    created_at: Time


class Timings(Shape):
    """Where the time of an attempt went. null: there was no such part, as on a connection that was open already; a part
    that broke off counts until then."""

    dns_ms: float | None = Field(description="The look-up of the host name; null also where it had just been made.")
    connect_ms: float | None = Field(description="TCP, over all addresses that were dialled.")
    tls_ms: float | None = Field(description="The TLS handshake.")
    first_byte_ms: float | None = Field(description="From the request to the head of the answer.")


class Attempt(Shape):
    """One attempt; headers are redacted."""

    number: int
    started_at: Time
    duration_ms: float = Field(description="In all, to the end of the answer's body.")
    status_code: int | None
    error: str | None
    timings: Timings
    decision: str | None = Field(description="What followed and why, in a sentence; null for a test.")
    next_attempt_at: Time | None = Field(description="When the next attempt was planned then; null where none was.")
    request_headers: dict[str, str]
    response_headers: dict[str, str]
    response_excerpt: str | None = Field(description="How the answer's body begins; secrets are redacted.")
    response_excerpt_encoding: Literal["text", "hex"] | None = Field(description="hex: the body is no UTF-8.")
    remote_ip: str | None = Field(description="The address that was dialled, also where it did not answer.")


class SignedRequest(Shape):
    """A request to a sink, signed now; other credentials are redacted."""

    method: str
    url: str = Field(description="The sink as it may be shown.")
    headers: dict[str, str]
    body: str = Field(description="The very text that is signed.")


class TestResult(Shape):
    """What came of a test; nothing of it is stored."""

    __test__: ClassVar[bool] = False  # pytest would collect it

    delivered: bool
    verdict: Literal["delivered", "retry", "dead", "disable"]
    reason: str
    event: CloudEvent
    attempt: Attempt


class Secret(Shape):
    """A signing secret."""

    secret: str


class RotatedSecret(Secret):
    """The new signing secret, and until when the old one signs too."""

    old_secret_expires_at: Time


class Delivery(Shape):
    """An event on its way to a subscription."""

    id: str
    event_id: str
    event_type: str
    subject: str | None = Field(description="The event's subject: of job events the job's id upstream.")
    subscription_id: str
    sink: str | None = Field(description="The sink as it may be shown; null where the subscription is gone.")
    job_uid: str | None
    state: Literal["pending", "delivered", "dead", "cancelled"]
    attempt_count: int
    next_attempt_at: Time | None
    waiting_for: str | None = Field(description="The delivery of an earlier event of the job that must end first.")
    reason: str | None
    created_at: Time
    ended_at: Time | None


class DeliveryWithAttempts(Delivery):
    """A delivery with all its attempts."""

    attempts: list[Attempt]


class ReplayStarted(Shape):
    """Events are being sent again."""

    replay_id: str
    matched: int = Field(description="How many there are to send.")


class Replay(Shape):
    """How far a replay is."""

    id: str
    subscription_id: str | None = Field(description="null: of all subscriptions.")
    state: ReplayState
    matched: int = Field(description="How many there were to send when it began.")
    queued: int = Field(description="How many of them are on their way, or were.")
    delivered: int
    dead: int
    left: int = Field(description="How many have not ended.")
    since: Time
    until: Time
    types: list[str] | None
    only: Only = Field(description="undelivered, all, or how the deliveries had ended.")
    reason: str | None = Field(description="Only deliveries that had ended for this reason.")
    created_at: Time
    ended_at: Time | None


class Intent(Shape):
    """A create that came through the relay and whose fate is unknown."""

    id: str
    source: str
    account: str
    path: str
    body_digest: str = Field(description="`sha256:` and the digest of the body that was sent, in hex.")
    idempotency_key: str | None = Field(description="The caller's own; repeating the request with it is safe.")
    sent_at: Time
    reason: Literal["no_answer", "server_error", "unreadable", "cut_off"] = Field(
        description="no_answer: none came; server_error: one that proves nothing; unreadable: a success that names no "
        "job; cut_off: the relay ended before one came."
    )
    status_code: int | None = Field(description="Of the answer, where one came.")
    channel: str | None = Field(description="The create's own.")
    connect_account_id: str | None = Field(description="The account that the create names.")
    metadata: dict[str, Any] = Field(description="What `Relay-Metadata` attached.")
    request: JobRequest
    fate: Literal["sent", "not_sent"] | None = Field(description="What a person found out; null on the list.")
    job_id: str | None = Field(description="The job that it made, where a person named it.")


class Source(Shape):
    """How the polling of one account goes."""

    source: str
    account: str
    state: str = Field(description="ok, down, unauthorized, no_key, or elsewhere: another node polls it.")
    since: Time | None
    problem: LastError | None
    open_jobs: int
    due_jobs: int
    limit: int | None
    remaining: int | None
    window_seconds: float | None
    own_requests_per_second: float | None
    others_requests_per_second: float | None
    price_seconds: float | None = Field(
        description="How many seconds of delay a request has to save to be sent; null where another node polls."
    )
    expected_detection_delay_seconds: float | None = Field(
        description="From a job's end to the look that sees it, on average; null while there is nothing to judge by."
    )
    expected_detection_delay_at_double_budget_seconds: float | None = Field(
        description="The same, had the request budget been double."
    )
    expected_detection_delay_at_half_budget_seconds: float | None = Field(
        description="The same, had the request budget been half."
    )
    paused_until: Time | None
    last_completed_at: Time | None


class Alive(Shape):
    """The process answers."""

    status: Literal["ok"]


class Ready(Shape):
    """Whether the node can do its work."""

    status: Literal["ok", "unavailable"]
    problems: list[str]
    notes: list[str]
    checks: dict[str, str]


class JobPage(Page[Job]):
    """One page of jobs."""


class SubscriptionPage(Page[Subscription]):
    """One page of subscriptions."""


class EventPage(Page[CloudEvent]):
    """One page of events."""


class DeliveryPage(Page[Delivery]):
    """One page of deliveries."""


class DeliveryGroup(Shape):
    """Deliveries that have something in common: null where they need not. Times are those of their making."""

    reason: str | None
    subscription_id: str | None
    sink: str | None = Field(description="As it may be shown; null where its subscription is gone, too.")
    day: str | None = Field(description="A day of UTC, such as 2026-05-20.")
    count: int
    oldest_at: Time
    newest_at: Time
    example_id: str = Field(description="The newest one of them.")


class DeliveryGroups(Page[DeliveryGroup]):
    """The largest groups of the newest deliveries."""

    group_by: list[Literal["reason", "sink", "day"]]
    scanned: int = Field(description="How many deliveries were gone through: the newest.")
    truncated: bool = Field(description="Whether there are older ones that were not, or more groups than these.")


class DeliveryListing(RootModel[DeliveryPage | DeliveryGroups]):
    """Deliveries, or their groups."""


class SourcePage(Page[Source]):
    """One page of accounts."""


class IntentPage(Page[Intent]):
    """One page of creates whose fate is unknown."""
