"""Values about tracked jobs that the API, the proxy and polling exchange: a registration, an explanation, a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from relay.core.job import Observation, Priority
from relay.core.records import Intent


class TrackRequest(NamedTuple):
    """A job to be tracked, checked. `seen`: what the upstream's own answer, given as the body, says of it.

    Without a `priority` a job that is tracked already keeps its own. `spacing_seconds` and `intent` come from a
    create that went through the relay: the least time to its predecessor in the lane, and what its fate settles. So do
    `request` and `connect_account_id`: see `relay.core.job.Job`. `resolves`: the create of unknown fate that a person
    found to have made the job.

    A NamedTuple because a batch creates thousands: a frozen dataclass takes three times as long to make.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job is looked at when it is: a code for programs, a sentence for people. Times are epoch seconds."""

    reason: str
    sentence: str
    next_poll_at: float | None
    not_before: float | None
    expected_delay_seconds: float | None
    waiting_for: str | None
    last_polled_at: float | None
    last_request_id: str | None
    last_error: Mapping[str, Any] | None = None
    """What went wrong last, as in a job's `last_error`, with the hint's `meaning`, `fix` and `who`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """How the polling of one account goes; rates are requests per second, None where nothing is known yet."""

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
