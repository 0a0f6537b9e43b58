"""Values shared by the API, the proxy and polling: track requests, source reports, and explanations in sentences of a
job's next poll."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from relay.clock import in_words, short_time
from relay.core.events.event import Event
from relay.core.jobs.job import (
    KNOWN_STATUSES,
    NORMAL_WEIGHT,
    OBSERVED,
    PRIORITY_WEIGHTS,
    Job,
    JobKey,
    Observation,
    Priority,
    Progress,
    Recipient,
    deadline_of,
)
from relay.core.planner.outlook import Outlook, PollExplanation
from relay.core.records import Intent
from relay.core.values import value_class

PARTS: Mapping[str, tuple[str, ...]] = {
    "callback": ("callback_url", "callback_types"),
    "group": ("group", "group_size"),
    "metadata": ("metadata",),
    "recipient": ("recipient",),
    "details": ("request", "connect_account_id", "spacing_seconds", "seen", "trace"),
}
"""The parts of a registration that can be left out if the database refuses them, with their fields. Polls find the
details again."""

ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackLimits:
    """Maximum callbacks of a job, and maximum hosts of one caller's callbacks."""

    per_job: int = 8
    hosts_per_caller: int = 20


class TrackRequest(NamedTuple):
    """A validated request to track a job. A NamedTuple because a batch creates thousands.

    resource         as in `relay.core.jobs.job.Job`
    priority         None: a tracked job keeps its own
    seen             observation from the upstream's response, if that was the request body
    spacing_seconds  from a forwarded create: minimum time to its predecessor in the lane
    intent           the forwarded create that made the job
    request, connect_account_id  from a forwarded create: see `relay.core.jobs.job.Job`
    group, group_size  the group that it joins, and from a create: how many jobs that has when no more come
    resolves         the create of unknown fate that a user found to have made the job
    caller           whose limit the callback's host counts for; None: it has none
    recipient        of the create that made the job, as far as it is captured
    status_url       the address at which it is read; None: by its id
    trace            of the request that tracks it: see `relay.core.jobs.job.Job`. A tracked job keeps its own
    """

    external_id: str
    source: str
    account: str
    resource: str = ""
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
    status_url: str | None = None
    trace: str | None = None

    @property
    def key(self) -> JobKey:
        """The job as its upstream knows it."""
        return self.external_id, self.source, self.account, self.resource

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
            resource=self.resource,
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
            trace=self.trace,
            **observed,
        )

    @classmethod
    def of_create(cls, create: Intent, external_id: str, **fields: Any) -> "TrackRequest":
        """A request to track the job that a create made, with its callback, group and metadata."""
        return cls(
            external_id=external_id,
            source=create.source,
            account=create.account,
            resource=create.resource,
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
    def key(self) -> JobKey:
        """The job as its upstream knows it."""
        return self.request.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The reason for the time of a job's next poll: a code for programs, a sentence for people. Times are epoch
    seconds."""

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
    """The costs that the next poll was weighed against; None if no price decides it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsReading:
    """What is known of an account's credits. Times are epoch seconds.

    threshold           below it they are low
    available, read_at  the last reading by this node; None: there was none
    low_since           the first reading below the threshold; None: they are not low
    problem             why the latest reading failed; None: it did not
    """

    threshold: int
    available: float | None = None
    read_at: float | None = None
    low_since: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """State of polling of one account. Rates are requests per second; None if unknown. `accounts_listed_at`: when its
    connect accounts were last listed. `credits`: None: they are not watched, or another node polls."""

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
    credits: CreditsReading | None


NEARLY_SECONDS = 1.0
OTHERS_NEED_THEM = "polling earlier would take requests from jobs that need them more"


def sentence(job: Job, plan: PollExplanation, now: float, meaning: str | None = None) -> str:
    """The planner's explanation of an open job, for people. `meaning`: meaning of its last error."""
    sentences = [_waiting(job, plan, now, meaning)]
    planned, possible = plan.next_poll_at, plan.not_before
    if planned is not None and possible is not None and now < planned < possible - NEARLY_SECONDS:
        until = short_time(possible, now)
        sentences.append(f"Nothing is sent before {until}, though: the budget is spent, or the upstream wants a pause.")
    delay = plan.expected_delay_seconds
    if delay is not None and math.isfinite(delay):
        sentences.append(f"Its end is known about {in_words(delay)} after it happens.")
    return " ".join(sentences)


def _waiting(job: Job, plan: PollExplanation, now: float, meaning: str | None) -> str:
    when = _when(plan.next_poll_at, now)
    match plan.reason:
        case "in_flight":
            return "A request for it is under way: the answer decides when the next poll comes."
        case "due":
            return "Its poll is due and goes out now."
        case "budget":
            if plan.not_before is None or plan.not_before <= now:
                return "Its poll is due, and goes out as soon as those are out that were due before it."
            earliest = _when(plan.not_before, now)
            return f"Its poll is due, but the request budget is spent for the moment: it goes out {earliest}, or later."
        case "paused_until":
            earliest = _when(plan.not_before, now)
            return f"Its poll is due, but the upstream asked us to send nothing for a while: it goes out {earliest}."
        case "lane_parked":
            return _parked(job, plan, when)
        case "before_anchor":
            return _anchored(plan, when, now)
        case "backing_off":
            polls = "The last poll of it" if plan.failures <= 1 else f"The last {plan.failures} polls of it"
            because = "" if meaning is None else f" ({meaning})"
            return f"{polls} failed{because}; the next one comes {when}: an earlier one would likely fail too."
    return f"{_last_poll(job, now)}; the next poll comes {when}: {OTHERS_NEED_THEM}."


def _parked(job: Job, plan: PollExplanation, when: str) -> str:
    ahead = plan.waiting_for_job_id
    lane = "its lane" if job.channel is None else f"the lane {job.channel}"
    before = f"the job ahead of it in {lane}" if ahead is None else f"{ahead}, the job ahead of it in {lane},"
    return f"It cannot start before {before} has; the next poll comes {when}, in case it was moved or cancelled."


def _anchored(plan: PollExplanation, when: str, now: float) -> str:
    anchor, next_at = plan.anchor_at, plan.next_poll_at
    if anchor is None or next_at is None:
        return f"Nothing can happen to it yet; the next poll comes {when}."
    nothing = f"Nothing can happen to it before {short_time(anchor, now)}"
    if next_at < anchor - NEARLY_SECONDS:
        return f"{nothing}, unless it is moved or cancelled; the next poll comes {when}, in case it was."
    if next_at > anchor + NEARLY_SECONDS:
        return f"{nothing}; the next poll comes {when}, when it is likely to have ended: {OTHERS_NEED_THEM}."
    return f"{nothing}; the next poll comes {when}: an earlier one would find nothing."


def _last_poll(job: Job, now: float) -> str:
    known = job.progress.status
    if job.last_polled_at is None:
        return "It has not been polled yet"
    at = short_time(job.last_polled_at, now)
    if job.last_error is not None or known is None:
        return f"The poll at {at} failed"
    return f"At {at} it was {known if known in KNOWN_STATUSES else 'in a status that the relay does not know'}"


def _when(at: float | None, now: float) -> str:
    return "now" if at is None or at <= now else f"in {in_words(at - now)}, at {short_time(at, now)}"
