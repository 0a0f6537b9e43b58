"""Jobs, observations of them, and the transitions an observation proves.

`detect()` compares the recorded progress of a job with one observation and returns the transitions in between, in
order. It never invents one: each transition is proven by an item.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from relay.core.jsontext import dumps
from relay.core.values import value_class

WAITING = frozenset({"queued", "scheduled"})
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
KNOWN_STATUSES = WAITING | TERMINAL | {"running"}

Priority = Literal["low", "normal", "high"]
PRIORITY_WEIGHTS: Mapping[Priority, float] = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""Weight of a second of a job's detection delay."""
NORMAL_WEIGHT = PRIORITY_WEIGHTS["normal"]

JOB_EVENTS = (
    *("queued", "scheduled", "running", "succeeded", "failed", "cancelled"),
    *("retrying", "overdue", "not_found", "status_unknown", "progress"),
)
"""Kinds of transitions: the last segment of the event type."""
OTHER_WORDS: Mapping[str, str] = {"completed": "succeeded"}
"""Other words that event types may end with, and their members of JOB_EVENTS."""


def kind_of_type(type: str) -> str:
    """The last segment of an event type. Of a job's event it is the member of JOB_EVENTS."""
    word = type.rpartition(".")[2]
    return OTHER_WORDS.get(word, word)


def short_type(type: str) -> str:
    """`failed` for `ai.revor.job.failed`; any other type than a job's as it is."""
    kind = type.rpartition(".job.")[2]
    return kind if kind in JOB_EVENTS else type


DEFAULT_SOURCE = "revor"
"""The source that is meant where none is named. It needs no settings."""

POLL = "poll"
"""Stands in for a member of JOB_EVENTS when a hint is needed for a failed poll."""

NO_CODE = "unknown"
"""Stands in for the error code of a failed job without one."""

MAX_COUNTED_RETRIES = 100
"""Bounds the events of one poll: an item with a larger attempt count proves no further retries."""
_SAME_TIME_SECONDS = 0.001
PROGRESS_SECONDS = 60.0
"""Shortest time between two events about the progress of one job in one stage."""


@value_class(frozen=True, slots=True, kw_only=True)
class Problem:
    """The error of a failed job, as reported by the upstream."""

    code: str
    message: str
    retryable: bool | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Advance:
    """How far an open job is, as the upstream says; None where it does not.

    percent      0 to 100
    done, total  units of work
    stage        one word of the upstream
    position     place in its queue; 0 or 1 is the next
    is_told      True if its changes are events
    """

    percent: float | None = None
    done: float | None = None
    total: float | None = None
    stage: str | None = None
    position: int | None = None
    is_told: bool = False

    def left(self, status: str) -> float | None:
        """Percent of a run that are left, or the places before a waiting job; None if that is not said."""
        if status == "running":
            return None if self.percent is None else 100.0 - self.percent
        return None if self.position is None or status not in WAITING else float(self.position)


class Told(NamedTuple):
    """The progress that the last event about it had. `at`: when it was observed."""

    at: float
    percent: float | None
    done: float | None
    total: float | None
    stage: str | None

    def is_due(self, before: "Told | None") -> bool:
        """True if this is told after `before`: a new stage at once, any other change after PROGRESS_SECONDS."""
        if before is None:
            return self[1:] != (None,) * 4
        if self.stage not in (None, before.stage):
            return True
        return self[1:] != before[1:] and not 0 <= self.at - before.at < PROGRESS_SECONDS


@value_class(frozen=True, slots=True, kw_only=True)
class Observation:
    """A job's state as one poll found it, in the relay's field names. Times are epoch seconds.

    resource            of the job, as in Job
    status              one of KNOWN_STATUSES, or the upstream's own status if unknown
    result_status       how a job succeeded: a lower-case token such as `accepted` or `skipped`
    connect_account_id  the upstream's id of the sending account
    advance             None if the source's jobs have none, or the item does not say it
    result              JSON of the result that the item of a succeeded job names the address of; None: none is read
    result_problem      why that result could not be read
    upstream            the item exactly as received
    read_fields         places in the item that the relay reads: names of objects, from the outermost
    """

    resource: str = ""
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
    advance: Advance | None = None
    result: Any = None
    result_problem: Problem | None = None
    upstream: Mapping[str, Any] = field(default_factory=dict)
    read_fields: tuple[tuple[str, ...], ...] = ()
    request_id: str | None = None

    @property
    def terminal(self) -> bool:
        """True if the job has ended."""
        return self.status in TERMINAL

    @property
    def known(self) -> bool:
        """True if the source definition maps the status."""
        return self.status in KNOWN_STATUSES

    @property
    def error_code(self) -> str | None:
        """The error code of a failed job, NO_CODE without one; None if it has not failed."""
        if self.status != "failed":
            return None
        return NO_CODE if self.problem is None else self.problem.code

    def item(self) -> dict[str, Any]:
        """The fields the planner reads. Times are epoch seconds."""
        found = _item(self.status, self, finished_at=self.finished_at)
        if self.advance is not None:
            found["left"] = self.advance.left(self.status)
        return found


JobKey = tuple[str, str, str, str]
"""A job as its upstream knows it: its id there, source, account and resource."""

OBSERVED = (
    *("action", "channel", "scheduled_at", "started_at", "next_attempt_at", "attempt_count"),
    *("result_status", "error_code"),
)
"""Fields of a job that its latest observation gives, besides the item itself."""


@value_class(frozen=True, slots=True, kw_only=True)
class Progress:
    """A job's recorded progress: all the state `detect()` needs.

    status              the last upstream status; None before the first observation
    phase               kind of the last transition, except `overdue` and `progress`; None before the first
    sequence            number of transitions so far
    retry_count         failed attempts proven so far
    running_sent        True if a `running` was emitted since the last `retrying`
    running_started_at  `started_at` of the last `running` emitted
    overdue             True if `overdue` was emitted
    told                what the last `progress` said; None: there was none
    """

    status: str | None = None
    phase: str | None = None
    sequence: int = 0
    retry_count: int = 0
    running_sent: bool = False
    running_started_at: float | None = None
    overdue: bool = False
    told: Told | None = None

    @property
    def shown_status(self) -> str | None:
        """`previous_status` of the next event."""
        return self.status if self.phase == "status_unknown" else self.phase


NOT_SEEN = Progress()
"""The progress of a job before its first observation."""


@value_class(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of a job. `kind` is a member of JOB_EVENTS; `sequence` counts from 1 within the job."""

    kind: str
    status: str | None
    previous_status: str | None
    sequence: int
    occurred_at: float
    detected_at: float
    inferred: bool = False


class PlannedJob(NamedTuple):
    """The fields of an open job that a planner reads: up to a million are loaded at start-up."""

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
    resource: str

    @property
    def open(self) -> bool:
        """Always True: only open jobs are loaded."""
        return True

    @property
    def seen_at(self) -> float:
        """Always 0: the time is not loaded and counts as long ago."""
        return 0.0

    def item(self) -> dict[str, Any] | None:
        """The fields that the planner reads; None before the first observation."""
        return None if self.status is None else _item(self.status, self)


@value_class(frozen=True, slots=True, kw_only=True)
class Job:
    """A tracked job. Times are epoch seconds.

    resource                 its kind: a resource of the source's definition, by name; empty for the first one
    next_poll_at, poll_step  the planner's, so that a restart continues with them
    spacing_seconds          minimum time between its predecessor's start in the lane and its own, if the create set one
    request                  kept data of a create forwarded by the relay: its `metadata`, and `truncated` if that was
                             too large to keep
    group                    name of the group it belongs to
    group_round              round of the group that counts it
    result_status            how it succeeded, as in Observation
    error_code               of a failed job
    trace                    the trace context of its create, as `TraceContext.kept` writes it
    """

    uid: str
    external_id: str
    source: str
    account: str
    resource: str = ""
    progress: Progress = NOT_SEEN
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
    group: str | None = None
    group_round: int | None = None
    result_status: str | None = None
    error_code: str | None = None
    trace: str | None = None

    @property
    def key(self) -> JobKey:
        """The job as its upstream knows it."""
        return self.external_id, self.source, self.account, self.resource

    @property
    def open(self) -> bool:
        """True while the relay polls it."""
        return self.closed_at is None

    @property
    def priority(self) -> Priority:
        """Its weight as a priority."""
        if self.weight == NORMAL_WEIGHT:
            return "normal"
        return "high" if self.weight > NORMAL_WEIGHT else "low"

    def item(self) -> dict[str, Any] | None:
        """The fields that the planner reads; None before the first observation."""
        return None if self.progress.status is None else _item(self.progress.status, self)

    @property
    def seen_at(self) -> float:
        """The time at which its state was last known."""
        return self.tracked_at if self.last_polled_at is None else self.last_polled_at


def class_action(resource: str, action: str | None) -> str | None:
    """The action in the name of the job's class, whose times the planner learns. Each resource has its own classes."""
    return f"{resource}:{action or ''}" if resource else action


def _item(status: str, job: PlannedJob | Job | Observation, finished_at: float | None = None) -> dict[str, Any]:
    return {
        "status": status,
        "action": class_action(job.resource, job.action),
        "channel": job.channel,
        "scheduled_at": job.scheduled_at,
        "started_at": job.started_at,
        "finished_at": finished_at,
        "next_attempt_at": job.next_attempt_at,
        "attempt_count": job.attempt_count,
    }


def proven_failed_attempts(observation: Observation) -> int:
    """Number of attempts that have certainly failed: all of them while a retry is announced, else all but the last.
    Holds whether the upstream counts an attempt at its start or at its end."""
    retry_announced = (
        not observation.terminal and observation.status != "running" and observation.next_attempt_at is not None
    )
    proven = observation.attempt_count if retry_announced else observation.attempt_count - 1
    return min(max(proven, 0), MAX_COUNTED_RETRIES)


def detect(known: Progress, seen: Observation) -> tuple[tuple[Transition, ...], Progress]:
    """The transitions that `seen` proves beyond `known`, in order, and the new progress.

    Each newly proven failed attempt is a `retrying`. A run that no poll saw but a later item proves is a `running` with
    `inferred`. Then follows the status seen, unless it is the wait that a retry implies, and last the progress of an
    open job. Idempotent: the same observation again yields no transition.
    """
    now = seen.observed_at
    found: list[Transition] = []
    progress = known

    def emit(kind: str, *, occurred_at: float | None = None, inferred: bool = False) -> None:
        nonlocal progress
        status = seen.status if kind == "status_unknown" else kind
        found.append(_transition(progress, kind, status, now, occurred_at=occurred_at, inferred=inferred))
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
        emit("retrying", inferred=not (waiting and nth == failed_attempts))
    if failed_attempts > known.retry_count:
        progress = replace(progress, retry_count=failed_attempts)

    if _proves_unreported_run(progress, seen):
        emit("running", occurred_at=seen.started_at, inferred=True)

    if seen.terminal:
        if progress.phase != seen.status:
            emit(seen.status, occurred_at=seen.finished_at)
    elif seen.status == "running":
        if progress.phase != "running":
            emit("running", occurred_at=seen.started_at)
    elif waiting:
        if progress.phase not in ("retrying", seen.status):
            emit(seen.status)
    elif (progress.phase, progress.status) != ("status_unknown", seen.status):
        emit("status_unknown")

    if progress.status != seen.status:
        progress = replace(progress, status=seen.status)
    advance = seen.advance
    if advance is not None and advance.is_told and not seen.terminal:
        told = Told(now, advance.percent, advance.done, advance.total, advance.stage)
        if told.is_due(progress.told):
            found.append(_transition(progress, "progress", progress.shown_status, now))
            progress = replace(progress, sequence=progress.sequence + 1, told=told)
    return tuple(found), progress


def _proves_unreported_run(progress: Progress, seen: Observation) -> bool:
    """True if the item shows a run not yet emitted: it started, has left `running`, and the start is new."""
    past_running = seen.terminal or (not seen.known and seen.next_attempt_at is None)
    if not past_running or seen.started_at is None or progress.running_sent:
        return False
    runs_again = seen.attempt_count > progress.retry_count
    return runs_again or seen.started_at != progress.running_started_at


def deadline_of(tracked_at: float, scheduled_at: float | None, seconds: float) -> float:
    """Deadline of a job: `seconds` after its scheduled time or its tracking, whichever is later."""
    return (tracked_at if scheduled_at is None else max(tracked_at, scheduled_at)) + seconds


def deadline_after(
    *, deadline_at: float, seconds: float, tracked_at: float, before: float | None, scheduled_at: float | None
) -> float:
    """A job's deadline after a poll showed its `scheduled_at`. `before`: the scheduled time known until then.

    A deadline not counted from `before` was counted from the last tracking of the job.
    """
    if scheduled_at is None or scheduled_at == before:
        return deadline_at
    counted_from = deadline_at - seconds
    by_schedule = before is not None and abs(counted_from - before) < _SAME_TIME_SECONDS
    return deadline_of(tracked_at if by_schedule else counted_from, scheduled_at, seconds)


def mark_overdue(known: Progress, now: float) -> tuple[tuple[Transition, ...], Progress]:
    """The transition of a job past its deadline, emitted once. The job stays open and keeps its status."""
    if known.overdue:
        return (), known
    transition = _transition(known, "overdue", known.shown_status, now)
    return (transition,), replace(known, sequence=transition.sequence, overdue=True)


def mark_not_found(known: Progress, now: float) -> tuple[tuple[Transition, ...], Progress]:
    """The last transition of a job that enough polls found unknown to the upstream."""
    transition = _transition(known, "not_found", "not_found", now)
    return (transition,), replace(known, sequence=transition.sequence, phase="not_found")


def _transition(
    known: Progress,
    kind: str,
    status: str | None,
    now: float,
    *,
    occurred_at: float | None = None,
    inferred: bool = False,
) -> Transition:
    return Transition(
        kind=kind,
        status=status,
        previous_status=known.shown_status,
        sequence=known.sequence + 1,
        occurred_at=now if occurred_at is None else occurred_at,
        detected_at=now,
        inferred=inferred,
    )


PARTS = ("address", "profile_url", "phone")
"""The parts of a recipient that can be captured."""
MAX_CHARACTERS = 320
"""Maximum characters of a part. An e-mail address has at most 320 (RFC 3696, erratum 1690)."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The parts of a create's recipient that `proxy.capture` keeps; None: not given, or not captured.

    Never logged or stored in clear. Shown by `POST /v1/intents/{id}/recipient` alone.
    """

    address: str | None = field(default=None, repr=False)
    profile_url: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Recipient | None":
        """The recipient with the parts that can be kept; None if none can."""
        kept = {name: part for name in PARTS if (part := part_of(values.get(name))) is not None}
        return cls(**kept) if kept else None

    def document(self) -> dict[str, str]:
        """The parts that are present, as input for `of`."""
        parts = ((name, getattr(self, name)) for name in PARTS)
        return {name: part for name, part in parts if part is not None}

    def shown(self) -> "Recipient":
        """The recipient with a placeholder, such as `{recipient.address}`, in place of each part: for display."""
        return Recipient(**{name: f"{{recipient.{name}}}" for name in self.document()})


ANYBODY = Recipient(**dict.fromkeys(PARTS, "-")).shown()
"""Placeholders for every part."""


def part_of(value: object) -> str | None:
    """A part as it is kept: a line of printable text. None for any other value, for repaired text, and for text that
    looks like a placeholder: these name no person."""
    if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
        return None
    text = value.strip()
    names = text.isprintable() and _REPLACEMENT not in text and not text.startswith("{")
    return text if text and names else None


# --- search by metadata, of the job's own and of its create's
#
# A value is found by the beginning of its text, in lower case, and by a digest of the whole: an index of these serves
# its beginning and its exact text, and a row is small whatever the value.

MAX_VALUE_CHARACTERS = 1_000
INDEXED_BYTES = 32
DIGEST_BYTES = 8


def indexed(text: str) -> bytes:
    """The bytes that a value is found by. Two values may share them: compare the texts."""
    digest = sha256(text.encode(errors="surrogatepass")).digest()
    return beginning_of(text) + b"\0" + digest[:DIGEST_BYTES]


def beginning_of(text: str) -> bytes:
    """The bytes that `indexed` of every value with this beginning has at its own, whatever the case of its letters."""
    return text.casefold().encode(errors="surrogatepass")[:INDEXED_BYTES]


def text_of(value: Any) -> str | None:
    """The text of a value: a string as it is, a number or a boolean as in JSON. None for a value that cannot be
    searched for: null, a list, an object, and a text of more than MAX_VALUE_CHARACTERS."""
    if isinstance(value, bool | int | float):
        value = dumps(value).decode()
    return value if isinstance(value, str) and len(value) <= MAX_VALUE_CHARACTERS else None


def texts_of(job: Job, key: str) -> Iterator[str]:
    """The texts that a job can be found by with this key."""
    created = None if job.request is None else job.request.get("metadata")
    for metadata in (job.metadata, created):
        text = text_of(metadata.get(key)) if isinstance(metadata, Mapping) else None
        if text is not None:
            yield text


def searchable(job: Job, keys: Sequence[str]) -> set[tuple[str, bytes]]:
    """The keys, and the indexed bytes of their values, that a job can be found by."""
    if not job.metadata and job.request is None:
        return set()
    return {(key, indexed(text)) for key in keys for text in texts_of(job, key)}
