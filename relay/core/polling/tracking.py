"""Values shared by the API, the proxy and polling: track requests, explanations, source reports."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from relay.core.events.event import Event
from relay.core.jobs.job import (
    NORMAL_WEIGHT,
    OBSERVED,
    PRIORITY_WEIGHTS,
    Job,
    Observation,
    Priority,
    Progress,
    Recipient,
    deadline_of,
)
from relay.core.planner.outlook import Outlook
from relay.core.records import Intent
from relay.core.values import value_class

PARTS: Mapping[str, tuple[str, ...]] = {
    "callback": ("callback_url", "callback_types"),
    "group": ("group", "group_size"),
    "metadata": ("metadata",),
    "recipient": ("recipient",),
    "details": ("request", "connect_account_id", "spacing_seconds", "seen"),
}
"""The parts of a registration that can be left out if the database refuses them, with their fields. Polls find the
details again."""

ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackLimits:
    """How many callbacks a job may have, and to how many hosts those of one caller may go."""

    per_job: int = 8
    hosts_per_caller: int = 20


class TrackRequest(NamedTuple):
    """A validated request to track a job. A NamedTuple because a batch creates thousands.

    priority         None: a tracked job keeps its own
    seen             observation from the upstream's response, if that was the request body
    spacing_seconds  from a forwarded create: minimum time to its predecessor in the lane
    intent           the forwarded create that made the job
    request, connect_account_id  from a forwarded create: see `relay.core.jobs.job.Job`
    group, group_size  the group that it joins, and from a create: how many jobs that has when no more come
    resolves         the create of unknown fate that a user found to have made the job
    caller           whose limit the callback's host counts for; None: it has none
    recipient        of the create that made the job, as far as it is captured
    """

    external_id: str
    source: str
    account: str
    callback_url: str | None = None
    callback_types: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] | None = None
    deadline_seconds: float | None = None
    priority: Priority | None = None
    seen: Observation | None = None
    spacing_seconds: float | None = None
    intent: Intent | None = None
    request: Mapping[str, Any] | None = None
    connect_account_id: str | None = None
    resolves: Intent | None = None
    caller: str | None = None
    group: str | None = None
    group_size: int | None = None
    recipient: Recipient | None = None

    def reductions(self) -> Iterator[tuple[str, ...]]:
        """The parts to leave out, to find the one that the database refuses: each alone, then all of them."""
        present = tuple(part for part, names in PARTS.items() if any(getattr(self, name) is not None for name in names))
        yield from ((part,) for part in present)
        if len(present) > 1:
            yield present

    def without(self, parts: Collection[str]) -> "TrackRequest":
        """The request with these parts left out."""
        nothing: dict[str, Any] = {name: None for part in parts for name in PARTS[part]}
        return self._replace(**nothing)

    @property
    def follows_create(self) -> bool:
        """True if a create has been carried out, so that its job is tracked even without its callback."""
        return self.intent is not None or self.resolves is not None

    def job(self, uid: str, tracked_at: float, deadline_seconds: float, progress: Progress) -> Job:
        """The job that it creates, if it is not tracked yet. `deadline_seconds`: used unless it has its own."""
        seen, seconds = self.seen, self.deadline_seconds or deadline_seconds
        observed = {} if seen is None else {name: getattr(seen, name) for name in (*OBSERVED, "upstream")}
        return Job(
            uid=uid,
            external_id=self.external_id,
            source=self.source,
            account=self.account,
            progress=progress,
            metadata=self.metadata or {},
            tracked_at=tracked_at,
            deadline_at=deadline_of(tracked_at, seen.scheduled_at if seen else None, seconds),
            deadline_seconds=seconds,
            weight=NORMAL_WEIGHT if self.priority is None else PRIORITY_WEIGHTS[self.priority],
            spacing_seconds=self.spacing_seconds,
            request=self.request,
            connect_account_id=(seen.connect_account_id if seen else None) or self.connect_account_id,
            group=self.group,
            group_round=None if self.group is None else 1,
            **observed,
        )

    @classmethod
    def of_create(cls, create: Intent, external_id: str, **fields: Any) -> "TrackRequest":
        """A request to track the job that a create made, with what the create attached."""
        return cls(
            external_id=external_id,
            source=create.source,
            account=create.account,
            callback_url=create.callback_url,
            callback_types=create.callback_types,
            metadata=create.metadata,
            request=create.request,
            connect_account_id=create.connect_account_id,
            group=create.group,
            group_size=create.group_size,
            recipient=create.recipient,
            **fields,
        )


@value_class(frozen=True, slots=True, kw_only=True)
class Registration:
    """A job to track.

    job            as it begins, if it is not tracked yet
    request        what a tracked job gets of it. None, or no priority, changes nothing there. A create, or one of
                   unknown fate, is settled in the same transaction, with earlier ones of its Idempotency-Key
    events         what the registration body proves
    callback_subscription_id  of the request's callback
    max_callbacks  callbacks that the job may have
    """

    job: Job
    request: TrackRequest
    events: tuple[Event, ...] = ()
    callback_subscription_id: str | None = None
    max_callbacks: int = ANY_NUMBER

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the job upstream."""
        return self.request.external_id, self.request.source, self.request.account


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job is polled when it is: a code for programs, a sentence for people. Times are epoch seconds."""

    reason: str
    sentence: str
    next_poll_at: float | None
    not_before: float | None
    expected_delay_seconds: float | None
    waiting_for: str | None
    last_polled_at: float | None
    last_request_id: str | None
    last_error: Mapping[str, Any] | None = None
    """A job's `last_error` with the `meaning`, `fix` and `who` of its hint."""
    outlook: Outlook | None = None
    """What the next poll was weighed against; None if no price decides it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """State of polling of one account. Rates are requests per second; None if unknown. `accounts_listed_at`: when its
    connect accounts were last listed."""

    source: str
    account: str
    state: str
    since: float | None
    problem: Mapping[str, Any] | None
    open_jobs: int
    due_jobs: int
    limit: int | None
    remaining: int | None
    window_seconds: float | None
    own_requests_per_second: float | None
    others_requests_per_second: float | None
    price_seconds: float | None
    expected_detection_delay_seconds: float | None
    expected_detection_delay_at_double_budget_seconds: float | None
    expected_detection_delay_at_half_budget_seconds: float | None
    paused_until: float | None
    last_completed_at: float | None
    accounts_listed_at: float | None
