"""What the rooms hand to the store and get back from it. All values; times are epoch seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from relay.core.delivery import Attempt, Claimed, DeliveryGroup
from relay.core.events import Event
from relay.core.job import Job, Observation, Progress
from relay.core.values import value_class

Value = TypeVar("Value")


@value_class(frozen=True, slots=True, kw_only=True)
class Lease:
    """Deliveries to these subscriptions are held by `token` until `until`, from the moment they are written.

    taken_at  now by the clock that `until` is of, where that is not the clock of what is due (SQLite)
    """

    token: str
    until: float
    taken_at: float | None = None
    subscription_ids: frozenset[str] = frozenset()


Resolution = Literal["sent", "not_sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A create that a caller sends through the relay. `created_at` is just before it goes out, epoch seconds.

    body_digest      SHA-256 of the body, in hex
    idempotency_key  the caller's own; None where the request has none
    reason           why nobody knows what came of it: no_answer, server_error, unreadable, cut_off;
                     None while it is in flight
    status_code      of the answer that did not tell, where there was one
    channel, connect_account_id, request  what the create itself says, as a job keeps it, for a person to recognise it
    metadata, callback_url, callback_types  what its own headers attach to the job that it makes
    fate, job_id     what a person found out: whether it was sent, and the job that it made, where that is known
    """

    id: str
    source: str
    account: str
    path: str
    body_digest: str
    idempotency_key: str | None = None
    created_at: float
    reason: str | None = None
    status_code: int | None = None
    channel: str | None = None
    connect_account_id: str | None = None
    request: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = field(default=None, repr=False)
    callback_types: tuple[str, ...] | None = None
    fate: Resolution | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A job to be tracked. `events` are what its own registration body proves (with `seen` and `progress`).

    Where `weight` is None, a new job has the normal one, and one that is known keeps its own. `intent` is the create
    that made the job: its fate is known in the same transaction, and that of earlier ones with its Idempotency-Key.
    `callback_types`: which of its events the callback gets (None: all, or as it was registered before).
    `spacing_seconds`: the least time to its predecessor in the lane, None where nobody said. `request` and
    `connect_account_id` are `Job`'s; None changes nothing of a job that is known. `resolves`: the create of unknown
    fate that a person found to have made the job.
    """

    uid: str
    external_id: str
    source: str
    account: str
    tracked_at: float
    deadline_seconds: float
    metadata: Mapping[str, Any] | None = None
    callback_subscription_id: str | None = None
    callback_types: tuple[str, ...] | None = None
    seen: Observation | None = None
    progress: Progress = field(default_factory=Progress)
    events: tuple[Event, ...] = ()
    lease: Lease | None = None
    deadline_given: bool = False
    weight: float | None = None
    spacing_seconds: float | None = None
    intent: Intent | None = None
    request: Mapping[str, Any] | None = None
    connect_account_id: str | None = None
    resolves: Intent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of a Registration: `created`, or the job that was there (`resumed`: it is tracked again)."""

    job: Job
    created: bool
    resumed: bool = False
    claimed: tuple[Claimed, ...] = ()


@value_class(frozen=True, slots=True, kw_only=True)
class PollRecord:
    """What a look changes: the job's new state, its events and their deliveries, all in one transaction.

    Written only while the job is open and its sequence is `expected_sequence`; else StaleSequence.
    `seen` is None when no Observation came of it (overdue, not found).
    `expected_poll_count` is the job's `poll_count` when the request was sent, None for what is no poll's result. With
    any other count in the row a later poll may have been recorded already: StaleSequence too.
    """

    job_uid: str
    expected_sequence: int
    expected_poll_count: int | None = None
    progress: Progress
    events: tuple[Event, ...]
    now: float
    seen: Observation | None = None
    outcome: str | None = None
    lease: Lease | None = None
    last_error: Mapping[str, Any] | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Of events that were written: the deliveries that their lease took, and whether others of theirs are due."""

    claimed: tuple[Claimed, ...] = ()
    due: bool = False


@value_class(frozen=True, slots=True, kw_only=True)
class PollNote:
    """What a look that changed nothing leaves behind, and the plan for the next one: its time and back-off step.

    Not written where the job has another `poll_count` than `expected_poll_count` (None: any).
    """

    job_uid: str
    expected_poll_count: int | None = None
    next_poll_at: float | None
    poll_step: int = 0
    polled_at: float | None = None
    failure_count: int = 0
    missing_count: int = 0
    missing_since: float | None = None
    last_error: Mapping[str, Any] | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The end of one attempt: written only while the lease is still ours.

    state       delivered, dead or pending (again at `due_at`)
    disable     the reason to disable the subscription, with `events` that say so
    probe_at    when a subscription that is disabled by this, or still, is tried again; None: only `resume` helps.
                A probe that is delivered enables it, with `events` that say so
    next_lease  go on with other deliveries of the subscription, if there are any: the next of this job, then what is
                due; held under this lease or that of another mark in the same transaction. No other has its token.
    next_count  with how many
    next_late   also with retries and what was asked for by hand, not only with first attempts
    """

    claimed: Claimed
    state: str
    now: float
    attempt: Attempt
    due_at: float | None = None
    reason: str | None = None
    disable: str | None = None
    probe_at: float | None = None
    events: tuple[Event, ...] = ()
    next_lease: Lease | None = None
    next_count: int = 1
    next_backlogged: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether it turns no subscription and has no events."""
        return self.disable is None and not self.events and not self.claimed.probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What has not been delivered yet: how much, how much of it is held up by what (failing, paused, disabled), and
    when the oldest of what is not paused or disabled was recorded."""

    count: int
    held: Mapping[str, int]
    oldest_at: float | None


@value_class(frozen=True, slots=True, kw_only=True)
class AttemptRecorded:
    """`kept` is False when the lease was lost: somebody else decides now. `next`: the deliveries taken, if asked."""

    kept: bool
    next: tuple[Claimed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What became of the wish to try a disabled subscription: the delivery to try, unless it was somebody else's turn
    or none is free; and when the next turn is (None: it is not to be tried any more)."""

    claimed: Claimed | None
    next_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Value]):
    """One page of a list, with the cursor of the next one."""

    items: tuple[Value, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The largest groups of the newest deliveries, of which `scanned` were gone through. `truncated`: there are older
    ones that were not; `more`: there are smaller groups that are not shown."""

    items: tuple[DeliveryGroup, ...]
    scanned: int
    truncated: bool
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """How the polling of an upstream account goes: ok, unauthorized or down, since when and why."""

    source: str
    name: str
    state: str = "ok"
    since: float | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStatistics:
    """What was learned of one class of a source's jobs, from `event_count` events; `values` is JSON text."""

    source: str
    name: str
    event_count: float
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The events after a position, each with its own. `hidden`: later ones are committed, and come when a transaction
    that began before them has ended; nothing announces that."""

    events: Sequence[tuple[int, Event]]
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer kept for an Idempotency-Key; `status_code` is None while the first request is in flight."""

    body_digest: str
    status_code: int | None = None
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
