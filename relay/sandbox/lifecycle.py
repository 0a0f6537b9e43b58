"""A job's lifecycle: its fate as timed steps, and each step as an item in Revor's documented shape. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from relay.clock import optional_rfc3339
from relay.sandbox.requests import Body

Final = Literal["succeeded", "failed", "cancelled"]
Waiting = Literal["queued", "scheduled"]

RETRYABLE_BY_CODE: Mapping[str, bool] = {
    "connect_account_reconnect_required": False,
    "insufficient_credits": False,
    "external_api_worker_unavailable": True,
    "external_api_retry_enqueue_failed": True,
    "external_api_billing_retryable": True,
}
"""Revor's error codes of a job: code -> `retryable`."""

TRANSIENT_CODES = ("external_api_worker_unavailable", "external_api_billing_retryable")
"""Error codes of attempts that are retried."""

FINAL_CODES = (*RETRYABLE_BY_CODE,)
_FINAL_CODE_WEIGHTS = (50, 20, 10, 10, 10)

MAX_RUN_SECONDS = 86_400.0
"""Upper limit of a drawn run or start delay."""
RETRY_PAUSES_SECONDS = (30.0, 120.0, 600.0)
"""The pause after each failed attempt, multiplied by U(1, 1.2). Their number limits the retries."""
LANE_GAP_SECONDS = 0.2
"""From the end of a job to the earliest start of the next one in its lane."""
_START_DELAY = (1.0, 0.5)
_RUN = (7.0, 0.6)
"""Lognormal distributions: median in seconds at speed 1, and sigma."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The share of each fate. Shares are weights, at least 0: they need not add up to 1."""

    succeeded: float = 0.75
    """Succeeds at the first attempt."""
    retried: float = 0.15
    """One to three attempts fail, then one succeeds."""
    failed: float = 0.07
    """Ends as `failed`: at the first attempt, after a retry, or after every attempt failed."""
    cancelled: float = 0.03
    """Ends as `cancelled` before its first attempt."""
    skipped: float = 0.15
    """Fraction of the successful post-likes that found no matching post, 0 to 1."""


_Seconds = Annotated[float, Field(ge=0, le=MAX_RUN_SECONDS)]


class Script(Body):
    """Fixes parts of a fate instead of drawing them. None: drawn. Seconds are at speed 1, the same for each attempt.

    attempt_failures   number of failed attempts that are retried
    error_code         of the final failure
    waiting_status     between two attempts
    in_lane            False: the job is outside its lane. It neither waits for other jobs nor delays them
    show_scheduled_at  False: `scheduled_at` is null, as with an upstream that gives no hint
    """

    final: Final | None = None
    attempt_failures: int | None = Field(None, ge=0, le=10)
    error_code: str | None = None
    run_seconds: _Seconds | None = None
    start_delay_seconds: _Seconds | None = None
    retry_pause_seconds: _Seconds | None = None
    waiting_status: Waiting | None = None
    skipped: bool | None = None
    in_lane: bool = True
    show_scheduled_at: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.final == "cancelled" and self.attempt_failures:
            raise ValueError("a cancelled job has no attempts: leave out attempt_failures")
        if self.error_code not in (None, *RETRYABLE_BY_CODE):
            raise ValueError(f"error_code must be one of {', '.join(RETRYABLE_BY_CODE)}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One job's fate, in seconds at speed 1.

    Attempt i starts `start_delays_seconds[i]` after it may start and runs for `runs_seconds[i]`. Every attempt but the
    last then fails with `failures[i]` and is retried after `pauses_seconds[i]`.
    """

    final: Final
    failures: tuple[str, ...]
    start_delays_seconds: tuple[float, ...]
    runs_seconds: tuple[float, ...]
    pauses_seconds: tuple[float, ...]
    error_code: str | None
    waiting_status: Waiting
    skipped: bool
    cancelled_at_share: float
    """End of a cancelled job, as a fraction of the time from its creation to its planned start, 0 to 1."""
    message_id: str


def draw_fate(rng: Random, mix: Mix, script: Script) -> Fate:
    """Draws a fate from `rng`. Values in `script` replace the drawn ones, and never shift later draws."""
    final, failure_count, error_code = _outcome(rng, mix)
    waiting: Waiting = "queued" if rng.random() < 0.7 else "scheduled"
    skipped = rng.random() < mix.skipped
    cancelled_at_share = rng.uniform(0.1, 0.9)
    message_id = f"message_{rng.getrandbits(96):024x}"
    if script.final is not None:
        final = script.final
        failure_count = failure_count if final != "cancelled" else 0
    if script.attempt_failures is not None:
        failure_count = script.attempt_failures
    if final == "failed":
        error_code = script.error_code or error_code or FINAL_CODES[0]
    attempts = range(failure_count + 1)
    return Fate(
        final=final,
        failures=tuple(rng.choice(TRANSIENT_CODES) for _ in range(failure_count)),
        start_delays_seconds=tuple(_duration(rng, *_START_DELAY, script.start_delay_seconds) for _ in attempts),
        runs_seconds=tuple(_duration(rng, *_RUN, script.run_seconds) for _ in attempts),
        pauses_seconds=tuple(_pause(rng, script, index) for index in range(failure_count)),
        error_code=error_code if final == "failed" else None,
        waiting_status=script.waiting_status or waiting,
        skipped=skipped if script.skipped is None else script.skipped,
        cancelled_at_share=cancelled_at_share,
        message_id=message_id,
    )


def _outcome(rng: Random, mix: Mix) -> tuple[Final, int, str | None]:
    """The final status, the number of retried attempts, and the final error code."""
    most = len(RETRY_PAUSES_SECONDS)
    kind = rng.choices(range(4), weights=(mix.succeeded, mix.retried, mix.failed, mix.cancelled))[0]
    retries = min(most, rng.choices((1, 2, 3), weights=(70, 22, 8))[0])
    code = rng.choices(FINAL_CODES, weights=_FINAL_CODE_WEIGHTS)[0]
    after_a_retry = rng.random() < 0.2
    if kind == 0:
        return "succeeded", 0, None
    if kind == 1:
        return "succeeded", retries, None
    if kind == 3:
        return "cancelled", 0, None
    if code in TRANSIENT_CODES:  # such an error is final only after the last retry
        return "failed", most, code
    if code == "external_api_retry_enqueue_failed":  # the attempt failed, and queueing its retry failed too
        return "failed", 0, code
    return "failed", 1 if after_a_retry else 0, code


def _duration(rng: Random, median_seconds: float, sigma: float, fixed_seconds: float | None) -> float:
    """The fixed duration, else the lognormal draw."""
    drawn = rng.lognormvariate(math.log(median_seconds), sigma)
    return min(drawn if fixed_seconds is None else fixed_seconds, MAX_RUN_SECONDS)


def _pause(rng: Random, script: Script, index: int) -> float:
    drawn = RETRY_PAUSES_SECONDS[min(index, len(RETRY_PAUSES_SECONDS) - 1)] * rng.uniform(1.0, 1.2)
    return drawn if script.retry_pause_seconds is None else script.retry_pause_seconds


CountAttempts = Literal["start", "end"]
"""The moment of a run at which `attempt_count` rises: its start or its end. Revor does not document it."""

RECONNECT_REQUIRED = "connect_account_reconnect_required"
"""Error code of a job whose connect account could not send when an attempt started."""

SOON_SECONDS = 1.0
"""A job that starts within this time stays `queued`. A later one becomes `scheduled`."""
PLACING_SECONDS = 0.05
"""Time that a later job stays `queued`, the status in the answer to its create."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The job's state from `at` until the next step. Times are epoch seconds in whole milliseconds."""

    at: float
    status: str
    attempt_count: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    next_attempt_at: float | None = None
    error_code: str | None = None
    failed_attempt: int | None = None
    """Number (from 1) of the attempt whose retried failure began this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxJob:
    """One job and its complete lifecycle. `created_at` and `scheduled_at` are epoch seconds. `planned` are its steps if
    its connect account can always send, `steps` those that it takes. `body_digest` is the hex SHA-256 of the body that
    created it, or None if it was created under /_sandbox. Only outreach has a channel."""

    index: int
    id: str
    kind: "Kind"
    account: str
    connect_account_id: str = ""
    channel: str | None = None
    action: str
    created_at: float
    scheduled_at: float | None = None
    fate: Fate
    planned: tuple[Step, ...]
    steps: tuple[Step, ...]
    body_digest: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended_at(self) -> float:
        """The time at which the job reaches its final status, in epoch seconds."""
        return self.steps[-1].at

    @property
    def first_started_at(self) -> float | None:
        """The start of its first attempt. None if it is cancelled before that."""
        return next((step.at for step in self.steps if step.status == "running"), None)

    def step_index_at(self, now: float) -> int:
        """The index of the current step at `now`."""
        for index in range(len(self.steps) - 1, 0, -1):
            if self.steps[index].at <= now:
                return index
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of job. `reads`: the path before its id; `item`: what a read shows during a step, at a time; `cost`: the
    credits that a success costs."""

    resource: str
    reads: str
    not_found: str
    item: Callable[[SandboxJob, Step, float], dict[str, Any]]
    cost: Callable[[SandboxJob], int] = lambda job: 0


def milliseconds(epoch_seconds: float) -> float:
    """Rounds to whole milliseconds, so that items and true times show the same number."""
    return round(epoch_seconds, 3)


def schedule_steps(
    fate: Fate, speed: float, count_attempts: CountAttempts, created_at: float, scheduled_at: float, start_at: float
) -> Iterator[Step]:
    """The steps of a job that was accepted at `created_at` and whose first attempt starts at `start_at`."""
    cancelled_at = None
    if fate.final == "cancelled":
        cancelled_at = milliseconds(created_at + fate.cancelled_at_share * (start_at - created_at))
    yield Step(at=created_at, status="queued")
    placed_at = milliseconds(created_at + PLACING_SECONDS / speed)
    is_later = scheduled_at - created_at > SOON_SECONDS / speed
    if is_later and placed_at < (start_at if cancelled_at is None else cancelled_at):
        yield Step(at=placed_at, status="scheduled")
    if cancelled_at is not None:
        yield Step(at=cancelled_at, status="cancelled", finished_at=cancelled_at)
        return
    started_at = milliseconds(start_at)
    for attempt, run_seconds in enumerate(fate.runs_seconds, start=1):
        running_count = attempt if count_attempts == "start" else attempt - 1
        yield Step(at=started_at, status="running", attempt_count=running_count, started_at=started_at)
        ended_at = milliseconds(started_at + run_seconds / speed)
        if attempt > len(fate.failures):
            yield Step(
                at=ended_at,
                status=fate.final,
                attempt_count=attempt,
                started_at=started_at,
                finished_at=ended_at,
                error_code=fate.error_code,
            )
            return
        next_attempt_at = milliseconds(ended_at + fate.pauses_seconds[attempt - 1] / speed)
        yield Step(
            at=ended_at,
            status=fate.waiting_status,
            attempt_count=attempt,
            next_attempt_at=next_attempt_at,
            error_code=fate.failures[attempt - 1],
            failed_attempt=attempt,
        )
        started_at = milliseconds(next_attempt_at + fate.start_delays_seconds[attempt] / speed)


def steps_with_outages(planned: Sequence[Step], outages: Sequence[tuple[float, float]]) -> tuple[Step, ...]:
    """The steps of a job whose connect account cannot send during `outages`: the first attempt that starts in one of
    them is the last, and fails at its end."""
    for index, step in enumerate(planned):
        if step.status == "running" and any(begin <= step.at < end for begin, end in outages):
            end = planned[index + 1]
            failed = Step(
                at=end.at,
                status="failed",
                attempt_count=end.attempt_count,
                started_at=step.started_at,
                finished_at=end.at,
                error_code=RECONNECT_REQUIRED,
            )
            return (*planned[: index + 1], failed)
    return tuple(planned)


def stepped(planned: Sequence[Step], place: int, now: float) -> tuple[Step, ...]:
    """The steps of a job whose step number `place` comes now, and later ones as much earlier."""
    moves_at, now = planned[place].at, math.floor(now * 1000) / 1000

    def moved(step: Step) -> Step:
        times = {name: getattr(step, name) for name in ("at", "started_at", "finished_at", "next_attempt_at")}
        later = {name: at for name, at in times.items() if at is not None and at >= moves_at}
        changed: dict[str, Any] = {name: milliseconds(at + now - moves_at) for name, at in later.items()}
        return replace(step, **changed)

    return (*planned[:place], *map(moved, planned[place:]))


def accepted_item(job: SandboxJob) -> dict[str, Any]:
    """The item in the answer to a create. As documented, it is always `queued`."""
    return {
        "id": job.id,
        "status": "queued",
        "action": job.action,
        "channel": job.channel,
        "scheduled_at": optional_rfc3339(job.scheduled_at),
    }


def step_item(job: SandboxJob, step: Step) -> dict[str, Any]:
    """The item of `GET /api/v1/outreach/jobs/{id}` during `step`, with fields in the documented order."""
    return {
        "id": job.id,
        "status": step.status,
        "action": job.action,
        "channel": job.channel,
        "scheduled_at": optional_rfc3339(job.scheduled_at),
        "started_at": optional_rfc3339(step.started_at),
        "finished_at": optional_rfc3339(step.finished_at),
        "attempt_count": step.attempt_count,
        "next_attempt_at": optional_rfc3339(step.next_attempt_at),
        "result": _result(job) if step.status == "succeeded" else None,
        "error": None if step.error_code is None else _error(step.error_code),
    }


OUTREACH = Kind(
    resource="jobs",
    reads="/api/v1/outreach/jobs/",
    not_found="external_api_job_not_found",
    item=lambda job, step, now: step_item(job, step),
)


def _result(job: SandboxJob) -> dict[str, Any]:
    is_dispatch = job.action == "outreach.dispatch"
    resolved = ("direct_message" if job.channel == "linkedin" else "message") if is_dispatch else "post_like"
    return {
        "account_id": job.connect_account_id,
        "channel": job.channel,
        "action": "outreach" if is_dispatch else "post_like",
        "resolved_action": resolved,
        "message_id": job.fate.message_id if is_dispatch else None,
        "status": "skipped" if job.fate.skipped and not is_dispatch else "accepted",
    }


def _error(code: str) -> dict[str, Any]:
    return {"code": code, "message": code, "retryable": RETRYABLE_BY_CODE.get(code, False)}
