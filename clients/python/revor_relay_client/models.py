"""What the relay answers. Made from its OpenAPI document by tests/support/client_models.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class AckResult(BaseModel):
    """
    `acked`; `already`: it had ended before; `unknown`: it is no delivery of this subscription, or was erased.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    result: Literal["acked", "already", "unknown"] | str


class Acks(BaseModel):
    """
    The result for each id, in the given order.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    results: list[AckResult]


class CloudEvent(BaseModel):
    """
    A CloudEvent in structured JSON, as sent to sinks. A published one has what its program gave it.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = ""
    time: str | None = ""
    datacontenttype: str | None = ""
    dataschema: str | None = ""
    data: Any | None = None


class Delivery(BaseModel):
    """
    One event for one subscription.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    event_id: str
    event_type: str
    subject: str | None
    """
    The event's subject: of job events the job's id upstream.
    """
    subscription_id: str
    sink: str | None
    """
    The sink, redacted; null if the subscription was removed.
    """
    job_uid: str | None
    state: Literal["pending", "delivered", "dead", "cancelled", "uncertain"] | str
    attempt_count: int
    next_attempt_at: AwareDatetime | None
    waiting_for: str | None
    """
    The delivery of an earlier event of the same job, which must end first.
    """
    reason: str | None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None


class DeliveryPage(BaseModel):
    """
    One page of deliveries.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    items: list[Delivery]
    next_cursor: str | None
    """
    The value for `cursor`; null on the last page.
    """


class EventPage(BaseModel):
    """
    One page of events.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    items: list[CloudEvent]
    ids: list[str]
    """
    The relay's ids of `items`. A published event has in it the id of its program.
    """
    next_cursor: str | None
    """
    The value for `cursor`; null on the last page.
    """


class JobProblem(BaseModel):
    """
    The error that a job failed with, and its fix.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    code: str
    message: str
    meaning: str
    """
    What the error means, in plain words.
    """
    fix: str
    """
    What to do about the cause.
    """
    who: str
    """
    Who can do it.
    """
    repeat: Literal["safe", "useless", "may_send_twice"] | str
    """
    The effect of sending its create again.
    """


class JobRequest(BaseModel):
    """
    The kept part of a create that was sent through the drop-in proxy.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    metadata: dict[str, Any]
    """
    The `metadata` of the create; empty if it had none.
    """
    truncated: bool | None = False
    """
    True if the metadata was too large to keep.
    """


class Lag(BaseModel):
    """
    The backlog of a pull subscription, deliveries under a lease included.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    count: int
    """
    At most 10,000 are counted, 1,000 when they are pulled.
    """
    oldest_seconds: float | None
    """
    Age of the oldest one; null if there is none.
    """


class LastError(BaseModel):
    """
    The failure of the last poll.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    code: str
    message: str
    request_id: str | None
    at: AwareDatetime | None


class Mistake(BaseModel):
    """
    One error in a request.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    pointer: str
    """
    A JSON Pointer into the body, or the name of a parameter or header.
    """
    code: str
    detail: str


class Problem(BaseModel):
    """
    The reason why a request failed (RFC 9457).
    """

    model_config = ConfigDict(
        extra="allow",
    )
    type: str
    title: str
    status: int
    detail: str
    """
    What is wrong, in a sentence.
    """
    code: str
    """
    For programs. Stable across versions.
    """
    errors: list[Mistake]
    request_id: str | None = ""
    """
    Only if the relay's log has more about the error.
    """


class PublishedEvent(BaseModel):
    """
    An event that was taken.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    index: int
    id: str
    known: bool


class PulledDelivery(BaseModel):
    """
    An event, and the id to acknowledge it with.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    delivery_id: str
    event_id: str
    """
    The relay's id of the event. One that was published has another.
    """
    event: CloudEvent
    attempt: int
    """
    1, or more if it was handed out before.
    """


class RefusedEvent(BaseModel):
    """
    An event that was not taken.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    index: int
    code: str
    detail: str
    pointer: str | None = ""


class RegisteredJob(BaseModel):
    """
    A job as its registration answers.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    uid: str
    """
    The relay's id of the job.
    """
    id: str
    """
    The upstream's id of the job.
    """
    source: str
    account: str
    resource: str | None
    """
    The kind of job, by its name in the source's definition; null if the settings no longer have the source.
    """
    status: str | None
    """
    The last upstream status; null before the first poll.
    """
    outcome: (
        Literal["succeeded", "failed", "cancelled", "not_found", "untracked"]
        | str
        | None
    )
    open: bool
    """
    True while the relay polls the job.
    """
    sequence: int
    """
    The number of events so far.
    """
    metadata: dict[str, Any]
    request: JobRequest
    connect_account_id: str | None
    """
    The upstream's id of the sending account.
    """
    connect_account_name: str | None = None
    """
    The name of the sending account, if it is known, in lists and where one job is read.
    """
    group: str | None
    """
    The name of its group.
    """
    priority: Literal["low", "normal", "high"] | str
    tracked_at: AwareDatetime
    last_polled_at: AwareDatetime | None
    next_poll_at: AwareDatetime | None
    closed_at: AwareDatetime | None
    poll_count: int
    last_error: LastError | None
    action: str | None
    """
    What it does, as the upstream names it.
    """
    channel: str | None
    """
    The channel, as the upstream names it.
    """
    scheduled_at: AwareDatetime | None
    """
    The earliest time of its start.
    """
    started_at: AwareDatetime | None
    """
    When its last attempt started.
    """
    next_attempt_at: AwareDatetime | None
    """
    When a retrying job is tried again.
    """
    result_status: str | None
    """
    How it succeeded, such as `accepted` or `skipped`; null if that is unknown.
    """
    attempt_count: int
    """
    The number of attempts, as the upstream counts them.
    """
    deadline_at: AwareDatetime | None
    """
    After this time an open job is `overdue`.
    """
    problem: JobProblem | None
    """
    What it failed with, if its last change was a failure, a cancellation or a failed attempt.
    """
    upstream: dict[str, Any] | None
    """
    The upstream's item at the last poll.
    """
    warnings: list[str] | None = []
    """
    What is likely to be wrong, such as a callback whose host does not resolve.
    """


class SignedRequest(BaseModel):
    """
    A request to a sink with a current signature; other credentials are redacted.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    method: str
    url: str
    """
    The sink, redacted.
    """
    headers: dict[str, str]
    body: str
    """
    The exact text that is signed.
    """


class ValueChange(BaseModel):
    """
    A value before and after.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    from_: Any = Field(..., alias="from")
    to: Any


class Job(BaseModel):
    """
    A tracked job.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    uid: str
    """
    The relay's id of the job.
    """
    id: str
    """
    The upstream's id of the job.
    """
    source: str
    account: str
    resource: str | None
    """
    The kind of job, by its name in the source's definition; null if the settings no longer have the source.
    """
    status: str | None
    """
    The last upstream status; null before the first poll.
    """
    outcome: (
        Literal["succeeded", "failed", "cancelled", "not_found", "untracked"]
        | str
        | None
    )
    open: bool
    """
    True while the relay polls the job.
    """
    sequence: int
    """
    The number of events so far.
    """
    metadata: dict[str, Any]
    request: JobRequest
    connect_account_id: str | None
    """
    The upstream's id of the sending account.
    """
    connect_account_name: str | None = None
    """
    The name of the sending account, if it is known, in lists and where one job is read.
    """
    group: str | None
    """
    The name of its group.
    """
    priority: Literal["low", "normal", "high"] | str
    tracked_at: AwareDatetime
    last_polled_at: AwareDatetime | None
    next_poll_at: AwareDatetime | None
    closed_at: AwareDatetime | None
    poll_count: int
    last_error: LastError | None
    action: str | None
    """
    What it does, as the upstream names it.
    """
    channel: str | None
    """
    The channel, as the upstream names it.
    """
    scheduled_at: AwareDatetime | None
    """
    The earliest time of its start.
    """
    started_at: AwareDatetime | None
    """
    When its last attempt started.
    """
    next_attempt_at: AwareDatetime | None
    """
    When a retrying job is tried again.
    """
    result_status: str | None
    """
    How it succeeded, such as `accepted` or `skipped`; null if that is unknown.
    """
    attempt_count: int
    """
    The number of attempts, as the upstream counts them.
    """
    deadline_at: AwareDatetime | None
    """
    After this time an open job is `overdue`.
    """
    problem: JobProblem | None
    """
    What it failed with, if its last change was a failure, a cancellation or a failed attempt.
    """
    upstream: dict[str, Any] | None
    """
    The upstream's item at the last poll.
    """


class Publishing(BaseModel):
    """
    Results of the events, by their index in the request.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    accepted: int
    known: int
    items: list[PublishedEvent]
    rejected: list[RefusedEvent]


class Pulled(BaseModel):
    """
    Deliveries under a lease. Those of one job, or partition key, are in their order.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    items: list[PulledDelivery]
    lease_ends_at: AwareDatetime | None
    """
    null without items.
    """
    lag: Lag
    reason: Literal["paused", "disabled", "pending"] | str | None
    """
    Why nothing is handed out at present; null if it may be.
    """


class SubscriptionChange(BaseModel):
    """
    The change of one subscription.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    id: str
    action: Literal["add", "change", "remove", "unchanged"] | str
    sink: str | None
    """
    null: protocol PULL.
    """
    fields: list[str]
    """
    The names of the settings that change.
    """
    values: dict[str, ValueChange]
    """
    Of these, the values that are short and cannot be secret.
    """
    note: str | None
    """
    What to know about it.
    """
    pending: int
    """
    The number of pending deliveries that a removal cancels, counted up to 10,000.
    """


class SubscriptionsApplied(BaseModel):
    """
    The changes that were made or, with `dry_run`, would be.
    """

    model_config = ConfigDict(
        extra="allow",
    )
    changes: list[SubscriptionChange]
    dry_run: bool
    added: int
    changed: int
    removed: int
    unchanged: int
