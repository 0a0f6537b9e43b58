"""Models of the API's answers. They document; the tests validate every answer against them."""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from relay.core.job import Priority
from relay.core.replay import Only, ReplayState

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Item = TypeVar("Item")


class Shape(BaseModel):
    """Base of all answers: every field is present, and there are no others."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Mistake(Shape):
    """One error in a request."""

    pointer: str = Field(description="A JSON Pointer into the body, or the name of a parameter or header.")
    code: str
    detail: str


class Problem(Shape):
    """Why a request failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, in a sentence.")
    code: str = Field(description="For programs. Stable across versions.")
    errors: list[Mistake]
    request_id: str = Field(default="", description="Only if the relay's log has more about the error.")


class LastError(Shape):
    """Why the last poll failed."""

    code: str
    message: str
    request_id: str | None
    at: Time | None


class JobRequest(Shape):
    """The kept part of a create that was sent through the drop-in proxy."""

    metadata: dict[str, Any] = Field(description="The `metadata` of the create; empty if it had none.")
    truncated: bool = Field(default=False, description="True if the metadata was too large to keep.")


class Job(Shape):
    """A tracked job."""

    uid: str = Field(description="The relay's id of the job.")
    id: str = Field(description="The upstream's id of the job.")
    source: str
    account: str
    status: str | None = Field(description="The last upstream status; null before the first poll.")
    outcome: Literal["succeeded", "failed", "cancelled", "not_found", "untracked"] | None
    open: bool = Field(description="True while the relay polls the job.")
    sequence: int = Field(description="The number of events so far.")
    metadata: dict[str, Any]
    request: JobRequest
    connect_account_id: str | None = Field(description="The upstream's id of the sending account.")
    priority: Priority
    tracked_at: Time
    last_polled_at: Time | None
    next_poll_at: Time | None
    closed_at: Time | None
    poll_count: int
    last_error: LastError | None
    upstream: dict[str, Any] | None = Field(description="The upstream's item at the last poll.")


class Page(Shape, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="The value for `cursor`; null on the last page.")


class Rejected(Shape):
    """A job of a batch that is not tracked."""

    index: int
    code: str
    detail: str


class BatchResult(Shape):
    """The result of a batch."""

    created: int
    existing: int
    rejected: list[Rejected]


class ExplainedError(LastError):
    """The last error, and how to fix it."""

    meaning: str = Field(description="What the error means, in plain words.")
    fix: str = Field(description="What to do about the cause.")
    who: str = Field(description="Who can do it.")


class Explanation(Shape):
    """When the next poll is, and why not earlier."""

    uid: str
    id: str
    status: str | None
    open: bool
    reason: str
    sentence: str
    waiting_for: str | None
    next_poll_at: Time | None
    not_before: Time | None = Field(description="The earliest time at which the request budget allows that poll.")
    expected_delay_seconds: float | None = Field(
        description="The expected delay between the job's end and its detection, on average; null if unknown."
    )
    last_polled_at: Time | None
    last_request_id: str | None
    last_error: ExplainedError | None = Field(
        description="The error of the account or of the last poll, else the error the job failed with; null if there "
        "is none. `at` is null if unknown."
    )


class CloudEvent(BaseModel):
    """A CloudEvent in structured JSON, as sent to sinks."""

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
    """Settings of the requests to the sink; credentials are redacted."""

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
    secret: str = Field(default="", description="Only in the answer to the request that created it.")


class Subscription(Shape):
    """A subscription. Secret parts of its sink are redacted."""

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
    """How an attempt spent its time. A part that did not happen is null, for example on a reused connection. A part
    that failed counts until it failed."""

    dns_ms: float | None = Field(description="The lookup of the host name; null if it was cached.")
    connect_ms: float | None = Field(description="TCP, over all addresses tried.")
    tls_ms: float | None = Field(description="The TLS handshake.")
    first_byte_ms: float | None = Field(description="From sending the request to the response headers.")


class Attempt(Shape):
    """One attempt. Credentials in headers are redacted."""

    number: int
    started_at: Time
    duration_ms: float = Field(description="Total time, to the end of the response body.")
    status_code: int | None
    error: str | None
    timings: Timings
    decision: str | None = Field(description="The decision and its reason, in a sentence; null for a test.")
    next_attempt_at: Time | None = Field(description="When this attempt scheduled the next one; null if there is none.")
    request_headers: dict[str, str]
    response_headers: dict[str, str]
    response_excerpt: str | None = Field(description="The beginning of the response body; secrets are redacted.")
    response_excerpt_encoding: Literal["text", "hex"] | None = Field(description="`hex` if the body is not UTF-8.")
    remote_ip: str | None = Field(description="The address that was dialled, even if it did not answer.")


class SignedRequest(Shape):
    """A request to a sink with a current signature; other credentials are redacted."""

    method: str
    url: str = Field(description="The sink, redacted.")
    headers: dict[str, str]
    body: str = Field(description="The exact text that is signed.")


class TestResult(Shape):
    """The result of a test. It is not stored."""

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
    """The new signing secret, and when the old one expires."""

    old_secret_expires_at: Time


class Delivery(Shape):
    """One event for one subscription."""

    id: str
    event_id: str
    event_type: str
    subject: str | None = Field(description="The event's subject: of job events the job's id upstream.")
    subscription_id: str
    sink: str | None = Field(description="The sink, redacted; null if the subscription was removed.")
    job_uid: str | None
    state: Literal["pending", "delivered", "dead", "cancelled"]
    attempt_count: int
    next_attempt_at: Time | None
    waiting_for: str | None = Field(
        description="The delivery of an earlier event of the same job, which must end first."
    )
    reason: str | None
    created_at: Time
    ended_at: Time | None


class DeliveryWithAttempts(Delivery):
    """A delivery with all its attempts."""

    attempts: list[Attempt]


class ReplayStarted(Shape):
    """A replay that has started."""

    replay_id: str
    matched: int = Field(description="The number of events to send.")


class Replay(Shape):
    """The progress of a replay."""

    id: str
    subscription_id: str | None = Field(description="null: all subscriptions.")
    state: ReplayState
    matched: int = Field(description="The number of events to send, counted at the start.")
    queued: int = Field(description="How many of them have been queued for delivery.")
    delivered: int
    dead: int
    left: int = Field(description="How many have not ended yet.")
    since: Time
    until: Time
    types: list[str] | None
    only: Only = Field(description="undelivered, all, or the previous state of the deliveries.")
    reason: str | None = Field(description="Only deliveries that ended with this reason.")
    created_at: Time
    ended_at: Time | None


class Intent(Shape):
    """A create that was sent through the relay and whose fate is unknown."""

    id: str
    source: str
    account: str
    path: str
    body_digest: str = Field(description="`sha256:` and the digest of the request body, in hex.")
    idempotency_key: str | None = Field(description="The caller's key. Repeating the request with it is safe.")
    sent_at: Time
    reason: Literal["no_answer", "server_error", "unreadable", "cut_off"] = Field(
        description="no_answer: no response arrived; server_error: a 5xx, which proves nothing; unreadable: a success "
        "without a job id; cut_off: the relay stopped before a response arrived."
    )
    status_code: int | None = Field(description="The status of the response; null if there was none.")
    channel: str | None = Field(description="The channel of the create.")
    connect_account_id: str | None = Field(description="The sending account named in the create.")
    metadata: dict[str, Any] = Field(description="The value of `Relay-Metadata`.")
    request: JobRequest
    fate: Literal["sent", "not_sent"] | None = Field(description="The outcome as recorded by a user; null on the list.")
    job_id: str | None = Field(description="The job it created, if the user named it.")


class Source(Shape):
    """The polling state of one account."""

    source: str
    account: str
    state: str = Field(description="ok, down, unauthorized, no_key, or elsewhere (another node polls it).")
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
        description="The delay, in seconds, that a poll must save to be worth a request; null if another node polls."
    )
    expected_detection_delay_seconds: float | None = Field(
        description="Average delay between a job's end and the poll that detects it; null without enough data."
    )
    expected_detection_delay_at_double_budget_seconds: float | None = Field(
        description="The same with twice the request budget."
    )
    expected_detection_delay_at_half_budget_seconds: float | None = Field(
        description="The same with half the request budget."
    )
    paused_until: Time | None
    last_completed_at: Time | None


class Alive(Shape):
    """The process is running."""

    status: Literal["ok"]


class Ready(Shape):
    """Whether the node is ready."""

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
    """Deliveries with equal values in the `group_by` fields; the other fields are null. Times are creation times."""

    reason: str | None
    subscription_id: str | None
    sink: str | None = Field(description="The sink, redacted; also null if its subscription was removed.")
    day: str | None = Field(description="A UTC day, such as 2026-05-20.")
    count: int
    oldest_at: Time
    newest_at: Time
    example_id: str = Field(description="The newest delivery of the group.")


class DeliveryGroups(Page[DeliveryGroup]):
    """The largest groups of the newest deliveries."""

    group_by: list[Literal["reason", "sink", "day"]]
    scanned: int = Field(description="The number of deliveries counted, newest first.")
    truncated: bool = Field(description="True if older deliveries were not counted, or groups were left out.")


class DeliveryListing(RootModel[DeliveryPage | DeliveryGroups]):
    """A page of deliveries, or their groups."""


class SourcePage(Page[Source]):
    """One page of accounts."""


class IntentPage(Page[Intent]):
    """One page of creates whose fate is unknown."""
