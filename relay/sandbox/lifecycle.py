"""A job's lifecycle: its fate as timed steps, and each step as an item in Revor's documented shape. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from relay.clock import optional_rfc3339, to_rfc3339
from relay.sandbox.fate import RETRYABLE_BY_CODE, Fate

CountAttempts = Literal["start", "end"]
"""Whether `attempt_count` rises when a run starts or when it ends. Revor does not document it."""

StartedAtWhileWaiting = Literal["clear", "keep"]
"""Whether `started_at` between two attempts is null or that of the failed attempt. Revor does not document it."""

RECONNECT_REQUIRED = "connect_account_reconnect_required"
"""Error code of a job whose connect account could not send when an attempt started."""

SOON_SECONDS = 1.0
"""A job that starts within this time stays `queued`. A later one becomes `scheduled`."""
PLACING_SECONDS = 0.05
"""How long a later job stays `queued`, the status in the answer to its create."""


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
class Behaviour:
    """Behaviour that Revor leaves undocumented, and the speed that divides every duration."""

    speed: float = 1.0
    count_attempts: CountAttempts = "start"
    started_at_while_waiting: StartedAtWhileWaiting = "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxJob:
    """One job and its complete lifecycle. `created_at` and `scheduled_at` are epoch seconds. `planned` are its steps if
    its connect account can always send, `steps` those that it takes. `body_digest` is the hex SHA-256 of the body that
    created it, or None if it was created under /_sandbox."""

    index: int
    id: str
    account: str
    connect_account_id: str
    channel: str
    action: str
    created_at: float
    scheduled_at: float | None
    fate: Fate
    planned: tuple[Step, ...]
    steps: tuple[Step, ...]
    body_digest: str | None = None

    @property
    def ended_at(self) -> float:
        """When the job reaches its final status, in epoch seconds."""
        return self.steps[-1].at

    @property
    def first_started_at(self) -> float | None:
        """When its first attempt starts. None if it is cancelled before that."""
        return next((step.at for step in self.steps if step.status == "running"), None)

    def step_index_at(self, now: float) -> int:
        """The index of the current step at `now`."""
        for index in range(len(self.steps) - 1, 0, -1):
            if self.steps[index].at <= now:
                return index
        return 0


def milliseconds(epoch_seconds: float) -> float:
    """Rounds to whole milliseconds, so that items and true times show the same number."""
    return round(epoch_seconds, 3)


def schedule_steps(
    fate: Fate, behaviour: Behaviour, *, created_at: float, scheduled_at: float, start_at: float
) -> tuple[Step, ...]:
    """The steps of a job that was accepted at `created_at` and whose first attempt starts at `start_at`."""
    return tuple(_steps(fate, behaviour, created_at, scheduled_at, start_at))


def _steps(fate: Fate, behaviour: Behaviour, created_at: float, scheduled_at: float, start_at: float) -> Iterator[Step]:
    speed = behaviour.speed
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
        running_count = attempt if behaviour.count_attempts == "start" else attempt - 1
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
            started_at=started_at if behaviour.started_at_while_waiting == "keep" else None,
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


def truth(job: SandboxJob, now: float) -> dict[str, Any]:
    """The whole life of a job, what lies ahead included: what a poller can be measured against."""
    return {
        "id": job.id,
        "index": job.index,
        "account": job.account,
        "channel": job.channel,
        "action": job.action,
        "created_at": to_rfc3339(job.created_at),
        "created_at_epoch_seconds": job.created_at,
        "body_digest": None if job.body_digest is None else f"sha256:{job.body_digest}",
        "finished": job.ended_at <= now,
        "failed_attempts": sum(step.failed_attempt is not None for step in job.steps),
        "final_item": step_item(job, job.steps[-1]),
        "transitions": [
            {
                "status": step.status,
                "at": to_rfc3339(step.at),
                "at_epoch_seconds": step.at,
                "failed_attempt": step.failed_attempt,
            }
            for step in job.steps
        ],
    }


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
