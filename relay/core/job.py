"""Jobs, looks at them, and the transitions that a look proves.

`detect()` is the relay's judgement: from what was known of a job and one Observation of it, which transitions have
happened since, in which order. It never invents one: what no item proves is not said.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal, NamedTuple

from relay.core.values import value_class

Status = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]
WAITING = frozenset({"queued", "scheduled"})
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
KNOWN_STATUSES = WAITING | TERMINAL | {"running"}

Priority = Literal["low", "normal", "high"]
PRIORITY_WEIGHTS: Mapping[Priority, float] = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""How much a second of a job's delay counts."""
NORMAL_WEIGHT = PRIORITY_WEIGHTS["normal"]

JOB_EVENTS = (
    *("queued", "scheduled", "running", "succeeded", "failed", "cancelled"),
    *("retrying", "overdue", "not_found", "status_unknown"),
)
"""What can happen to a job, as the last word of its event type."""

POLL = "poll"
"""Asked for a hint instead of a member of JOB_EVENTS: the problem is that of a poll that failed."""

MAX_COUNTED_RETRIES = 100
"""An item that claims more failed attempts than this proves no further ones: a limit on what one look can emit."""
_SAME_TIME_SECONDS = 0.001


@value_class(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a job ended badly, as the upstream says it."""

    code: str
    message: str
    retryable: bool | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at a job, in the relay's own words. Times are epoch seconds.

    `status` is one of KNOWN_STATUSES, or the upstream's own word where it is none of them. `result_status` is how a job
    ended well, a lower-case token such as `accepted` or `skipped`. `connect_account_id` is the upstream's id of the
    account that it was sent from.
    `upstream` is the item exactly as it came, `read_fields` the names of its fields that the relay reads (`a.b`: the
    field b of the object a).
    """

    status: str
    observed_at: float
    action: str | None = None
    channel: str | None = None
    scheduled_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    next_attempt_at: float | None = None
    attempt_count: int = 0
    problem: Problem | None = None
    result_status: str | None = None
    connect_account_id: str | None = None
    upstream: Mapping[str, Any] = field(default_factory=dict)
    read_fields: tuple[str, ...] = ()
    request_id: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL

    @property
    def known(self) -> bool:
        """Whether the status is one that the source definition names."""
        return self.status in KNOWN_STATUSES

    def item(self) -> dict[str, Any]:
        """What the planner reads, in the relay's own field names; times in epoch seconds."""
        return {
            "status": self.status,
            "action": self.action,
            "channel": self.channel,
            "scheduled_at": self.scheduled_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "next_attempt_at": self.next_attempt_at,
            "attempt_count": self.attempt_count,
        }


@value_class(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a job's life: all that `detect()` needs to remember between two looks.

    status      the last upstream value; None before the first observation
    phase       the last thing said to subscribers (a member of JOB_EVENTS but for `overdue`); None before the first
    sequence    number of transitions so far
    retry_count failed attempts proven so far
    running_sent        a `running` was said since the last `retrying`
    running_started_at  the `started_at` of the last `running` that was said
    overdue     `overdue` was said
    """

    status: str | None = None
    phase: str | None = None
    sequence: int = 0
    retry_count: int = 0
    running_sent: bool = False
    running_started_at: float | None = None
    overdue: bool = False

    @property
    def shown_status(self) -> str | None:
        """What the next event calls the previous status."""
        return self.status if self.phase == "status_unknown" else self.phase


@value_class(frozen=True, slots=True, kw_only=True)
class Transition:
    """One thing that happened to a job. `kind` is a member of JOB_EVENTS; `sequence` counts from 1 within the job."""

    kind: str
    status: str | None
    previous_status: str | None
    sequence: int
    occurred_at: float
    detected_at: float
    inferred: bool = False


class PlannedJob(NamedTuple):
    """Of an open job no more than a planner reads: a million of them are loaded when a node starts."""

    source: str
    account: str
    uid: str
    status: str | None
    action: str | None
    channel: str | None
    scheduled_at: float | None
    started_at: float | None
    next_attempt_at: float | None
    attempt_count: int
    next_poll_at: float | None
    poll_step: int
    weight: float
    spacing_seconds: float | None

    @property
    def open(self) -> bool:
        """It is."""
        return True

    @property
    def seen_at(self) -> float:
        """When its item was seen is not read: long ago."""
        return 0.0

    def item(self) -> dict[str, Any] | None:
        """What the planner reads; None before the first observation."""
        return None if self.status is None else _item(self.status, self)


@value_class(frozen=True, slots=True, kw_only=True)
class Job:
    """A tracked job as the rooms pass it on. Times are epoch seconds.

    `next_poll_at` and `poll_step` are the planner's, kept so that a restart goes on with them. `spacing_seconds` is the
    least time from its predecessor's start in the lane to its own, where the create said one. `request` is what is kept
    of a create that came through the relay: its own `metadata`, and `truncated` where that was too large to keep.
    """

    uid: str
    external_id: str
    source: str
    account: str
    progress: Progress = Progress()
    outcome: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    action: str | None = None
    channel: str | None = None
    scheduled_at: float | None = None
    started_at: float | None = None
    next_attempt_at: float | None = None
    attempt_count: int = 0
    tracked_at: float = 0.0
    last_polled_at: float | None = None
    next_poll_at: float | None = None
    poll_step: int = 0
    closed_at: float | None = None
    deadline_at: float | None = None
    deadline_seconds: float | None = None
    poll_count: int = 0
    failure_count: int = 0
    missing_count: int = 0
    missing_since: float | None = None
    weight: float = NORMAL_WEIGHT
    spacing_seconds: float | None = None
    last_error: Mapping[str, Any] | None = None
    upstream: Mapping[str, Any] | None = None
    request: Mapping[str, Any] | None = None
    connect_account_id: str | None = None

    @property
    def open(self) -> bool:
        """Whether the relay still looks at it."""
        return self.closed_at is None

    @property
    def priority(self) -> Priority:
        """Its weight in words."""
        if self.weight == NORMAL_WEIGHT:
            return "normal"
        return "high" if self.weight > NORMAL_WEIGHT else "low"

    def item(self) -> dict[str, Any] | None:
        """What the planner reads; None before the first observation."""
        return None if self.progress.status is None else _item(self.progress.status, self)

    @property
    def seen_at(self) -> float:
        """When its item was seen last."""
        return self.tracked_at if self.last_polled_at is None else self.last_polled_at


def _item(status: str, job: PlannedJob | Job) -> dict[str, Any]:
    return {
        "status": status,
        "action": job.action,
        "channel": job.channel,
        "scheduled_at": job.scheduled_at,
        "started_at": job.started_at,
        "finished_at": None,
        "next_attempt_at": job.next_attempt_at,
        "attempt_count": job.attempt_count,
    }


def proven_failed_attempts(observation: Observation) -> int:
    """How many attempts of this job have failed for certain, whether the upstream counts an attempt when it starts or
    when it ends: all of them while the next one is announced, else all but the last."""
    waits_for_the_next = (
        not observation.terminal and observation.status != "running" and observation.next_attempt_at is not None
    )
    proven = observation.attempt_count if waits_for_the_next else observation.attempt_count - 1
    return min(max(proven, 0), MAX_COUNTED_RETRIES)


def detect(known: Progress, seen: Observation) -> tuple[tuple[Transition, ...], Progress]:
    """The transitions that `seen` proves beyond `known`, in order, and what is known now.

    Each newly proven failed attempt is a `retrying`; a run that was never looked at but that a later item proves is a
    `running` with `inferred`; then the status seen, unless it is the waiting that a retry brings. Nothing happens
    twice: with the same Observation again, no transition comes out.
    """
    now = seen.observed_at
    found: list[Transition] = []
    progress = known

    def say(kind: str, *, occurred_at: float | None = None, inferred: bool = False) -> None:
        nonlocal progress
        status = seen.status if kind == "status_unknown" else kind
        found.append(
            Transition(
                kind=kind,
                status=status,
                previous_status=progress.shown_status,
                sequence=progress.sequence + 1,
                occurred_at=now if occurred_at is None else occurred_at,
                detected_at=now,
                inferred=inferred,
            )
        )
        progress = replace(
            progress,
            phase=kind,
            status=status,
            sequence=progress.sequence + 1,
            running_sent=kind == "running" or (progress.running_sent and kind != "retrying"),
            running_started_at=seen.started_at if kind == "running" else progress.running_started_at,
        )

    waiting = seen.status in WAITING
    failed_attempts = max(known.retry_count, proven_failed_attempts(seen))
    for nth in range(known.retry_count + 1, failed_attempts + 1):
        say("retrying", inferred=not (waiting and nth == failed_attempts))
    progress = replace(progress, retry_count=failed_attempts)

    if _proves_a_run_not_said(progress, seen):
        say("running", occurred_at=seen.started_at, inferred=True)

    if seen.terminal:
        if progress.phase != seen.status:
            say(seen.status, occurred_at=seen.finished_at)
    elif seen.status == "running":
        if progress.phase != "running":
            say("running", occurred_at=seen.started_at)
    elif waiting:
        if progress.phase not in ("retrying", seen.status):
            say(seen.status)
    elif (progress.phase, progress.status) != ("status_unknown", seen.status):
        say("status_unknown")

    return tuple(found), replace(progress, status=seen.status)


def _proves_a_run_not_said(progress: Progress, seen: Observation) -> bool:
    """Whether the item shows a run that no look has seen: it started, is past running, and that start is a new one."""
    past_running = seen.terminal or (not seen.known and seen.next_attempt_at is None)
    if not past_running or seen.started_at is None or progress.running_sent:
        return False
    runs_again = seen.attempt_count > progress.retry_count
    return runs_again or seen.started_at != progress.running_started_at


def deadline_of(tracked_at: float, scheduled_at: float | None, seconds: float) -> float:
    """When a job is overdue: so long after it is scheduled, where that is known and later than it was tracked."""
    return (tracked_at if scheduled_at is None else max(tracked_at, scheduled_at)) + seconds


def deadline_after(
    *, deadline_at: float, seconds: float, tracked_at: float, before: float | None, scheduled_at: float | None
) -> float:
    """A job's deadline once a poll has shown its `scheduled_at`; `before` is the one that was known until then.

    Where no deadline was counted from `before`, it was counted from when the job was tracked last.
    """
    if scheduled_at is None or scheduled_at == before:
        return deadline_at
    counted_from = deadline_at - seconds
    by_schedule = before is not None and abs(counted_from - before) < _SAME_TIME_SECONDS
    return deadline_of(tracked_at if by_schedule else counted_from, scheduled_at, seconds)


def mark_overdue(known: Progress, now: float) -> tuple[tuple[Transition, ...], Progress]:
    """The deadline has passed without an end: said once, the job stays open and its status what it was."""
    if known.overdue:
        return (), known
    transition = Transition(
        kind="overdue",
        status=known.shown_status,
        previous_status=known.shown_status,
        sequence=known.sequence + 1,
        occurred_at=now,
        detected_at=now,
    )
    return (transition,), replace(known, sequence=known.sequence + 1, overdue=True)


def mark_not_found(known: Progress, now: float) -> tuple[tuple[Transition, ...], Progress]:
    """The upstream does not know this job, at enough looks to believe it: its last transition."""
    transition = Transition(
        kind="not_found",
        status="not_found",
        previous_status=known.shown_status,
        sequence=known.sequence + 1,
        occurred_at=now,
        detected_at=now,
    )
    return (transition,), replace(known, sequence=known.sequence + 1, phase="not_found")
