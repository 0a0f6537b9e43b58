"""Values passed to the store and returned by it. Times are epoch seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from relay.core.deliveries.credentials import SinkCredential
from relay.core.deliveries.delivery import Attempt, Claimed, DeliveryGroup, judges_sink
from relay.core.deliveries.dialogue import Memory
from relay.core.events.event import Event, Hint
from relay.core.jobs.connect_accounts import OK, ConnectAccount, Known
from relay.core.jobs.job import Job, JobKey, Observation, Progress, Recipient
from relay.core.values import value_class

Value = TypeVar("Value")


@value_class(frozen=True, slots=True, kw_only=True)
class Lease:
    """Claims the deliveries to these subscriptions as they are written, for `token` until `until`.

    taken_at  now by the clock of `until`, if due times use another clock (SQLite)
    """

    token: str
    until: float
    taken_at: float | None = None
    subscription_ids: frozenset[str] = frozenset()


Resolution = Literal["sent", "not_sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A create forwarded by the relay. `created_at`: just before it is sent, in epoch seconds.

    body_digest      SHA-256 of the body, in hex
    idempotency_key  the caller's; None if the request has none
    reason           why the outcome is unknown: no_answer, server_error, unreadable, cut_off; None while in flight
    status_code      of a response that left the outcome open
    resource         of the job that it makes, as in `relay.core.jobs.job.Job`
    channel, connect_account_id, request    fields of the create, as kept for a job, so that users recognise it
    metadata, callback_url, callback_types, group, group_size  from its headers, for the job it makes
    recipient        the captured recipient, for the job it makes. Like the callback, it is stored encrypted
                     and read by the intent's id only
    fate, job_id     resolution by a user: whether it was sent, and the job it made, if known
    """

    id: str
    source: str
    account: str
    resource: str = ""
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
    group: str | None = None
    group_size: int | None = None
    recipient: Recipient | None = field(default=None, repr=False)
    fate: Resolution | None = None
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackRoom:
    """The job that a new callback is for, and how many callbacks it may have had until now."""

    job: JobKey
    fewer_than: int


class WantedCallback(NamedTuple):
    """A callback URL and the id of its subscription, if one must be created. `room`: its limit; None: it has room."""

    sink: str
    subscription_id: str
    room: CallbackRoom | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionRoom:
    """The token that makes a subscription, and how many others it may have made until now."""

    creator: str
    fewer_than: int


@value_class(frozen=True, slots=True, kw_only=True)
class Registered:
    """Result of a Registration. `created`: the job is new; `resumed`: a closed job is tracked again.

    not_attached  parts of its create that are not attached, such as `callback`, each with the reason
    """

    job: Job
    created: bool
    resumed: bool = False
    not_attached: tuple[tuple[str, str], ...] = ()


@value_class(frozen=True, slots=True, kw_only=True)
class PollRecord:
    """Changes proven by a poll: the job's new state, its events and their deliveries, in one transaction.

    Raises StaleSequence unless the job is open, its sequence is `expected_sequence` and its poll count is
    `expected_poll_count`: with any other count a later poll may already be recorded.

    expected_poll_count  the job's `poll_count` when the request was sent; None for changes without a poll
    seen                 None without an observation (overdue, not found)
    hint                 the meaning of a failure
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
    hint: Hint | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Result of writing events: deliveries claimed under their lease, and whether others of them are due."""

    claimed: tuple[Claimed, ...] = ()
    due: bool = False


@value_class(frozen=True, slots=True, kw_only=True)
class PollNote:
    """A poll that changed nothing, and the plan of the next one: its time and back-off step.

    Not written if the job's `poll_count` differs from `expected_poll_count` (None: any).
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
class MemoryTurn:
    """The turn of one delivery with a memory of its subscription under a key: no other delivery has it meanwhile.

    token   names the turn
    memory  the memory at its beginning
    shared  the delivery's turns with memories of all subscriptions to the portal. They end with this one
    """

    subscription_id: str
    key: str
    token: str
    memory: Memory
    shared: "tuple[MemoryTurn, ...]" = ()

    @property
    def known(self) -> tuple[Memory, ...]:
        """The memories of the portal's subscriptions, one for each shared key."""
        return tuple(one.memory for one in self.shared)


@value_class(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """Result of one attempt. Written only while the lease is ours.

    state            delivered, dead, uncertain, cancelled (skipped), or pending (again at `due_at`)
    disable          reason to disable the subscription; `events` report it
    probe_at         when a subscription that is disabled, now or still, is probed; None: only `resume` enables it.
                     A delivered probe enables it; `events` report it
    sink             where its subscription's sink is, without its path, if there are `events`
    next_lease       follow-on claims: claims further deliveries of the subscription under this lease, the next of this
                     job first, then due ones. No other lease has its token; results in one transaction may share it
    next_count       maximum number of follow-on claims
    next_backlogged  follow-on claims include retries and manual retries, not only first attempts
    turn             ended with it. The new memory is `remember`, in its shared turns `share`, if not None
    alone            it was in a bundle, and is sent by itself from now on; this attempt uses up nothing of its schedule
    behind           an earlier event of its order failed in the same bundle; it uses up nothing of its schedule either
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
    sink: str | None = None
    next_lease: Lease | None = None
    next_count: int = 1
    next_backlogged: bool = True
    turn: MemoryTurn | None = None
    remember: Memory | None = None
    share: Memory | None = None
    alone: bool = False
    behind: bool = False

    @property
    def is_plain(self) -> bool:
        """True if it changes no subscription, has no events and ends no turn."""
        return self.disable is None and not self.events and not self.claimed.probe and self.turn is None

    @property
    def recovers(self) -> bool:
        """True if it was a probe that its sink has accepted: the subscription is enabled again."""
        return self.claimed.probe and self.state == "delivered" and judges_sink(self.state, self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The backlog.

    count      pending deliveries
    held       pending deliveries by cause of the delay: failing, paused, disabled, pending, pulled
    oldest_at  when the oldest whose subscription is enabled was recorded, without those that programs pull
    """

    count: int
    held: Mapping[str, int]
    oldest_at: float | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Deliveries that were skipped, since their events name no contact of the sink. `since`: when the oldest was
    made."""

    count: int
    since: float | None


@value_class(frozen=True, slots=True, kw_only=True)
class AttemptRecorded:
    """Result of writing an AttemptResult. `kept`: False if the lease was lost. `next`: the follow-on claims."""

    kept: bool
    next: tuple[Claimed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The deliveries claimed for a subscription.

    requests  the deliveries of each request
    next_at   when a bundle that waits is to be sent, or the next probe; None if there is none
    """

    requests: tuple[tuple[Claimed, ...], ...] = ()
    next_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTurn:
    """The turn to trade a refresh token, which only one node at a time may do.

    credential  as it is stored now; None if it was replaced or removed
    until       end of this node's turn or, if `mine` is False, of another node's turn or pause
    """

    credential: SinkCredential | None
    mine: bool = False
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Value]):
    """One page of a list, with the cursor of the next one."""

    items: tuple[Value, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The largest groups among the newest deliveries.

    scanned    number of deliveries read
    truncated  older deliveries were not read
    more       smaller groups are not shown
    """

    items: tuple[DeliveryGroup, ...]
    scanned: int
    truncated: bool
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """Health of an upstream account: ok, unauthorized or down, since when and why."""

    source: str
    name: str
    state: str = "ok"
    since: float | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRecord:
    """The changes from a listing of connect accounts: see `relay.core.jobs.connect_accounts.Comparison`.

    known  the accounts that it was compared with. Nothing is written if another listing was recorded since
    now    when it was received
    news   the accounts that changed, each with an event about it
    """

    known: Known
    now: float
    changed: tuple[ConnectAccount, ...] = ()
    forgotten: tuple[str, ...] = ()
    news: tuple[tuple[ConnectAccount, Event], ...] = ()

    @property
    def recovered(self) -> tuple[str, ...]:
        """The accounts that are connected and can send again, with or without an event about it."""
        before = self.known.accounts
        return tuple(one.id for one in self.changed if one.state == OK and before.get(one.id, one).state != OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectAccountReport:
    """A connect account to show, with the number of open jobs that name it.

    listed_at    the latest listing
    trouble      the newest open incident that shows that it cannot send, whatever the latest listing says
    failed_jobs  of all such incidents
    """

    account: ConnectAccount
    open_jobs: int
    listed_at: float | None
    trouble: str | None = None
    failed_jobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStatistics:
    """Stored statistics of one job class of a source, from `event_count` events. `values` is JSON text."""

    source: str
    name: str
    event_count: float
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Events after a position, each with its own position.

    last    where the next page begins: behind all events that were read, those of other accounts included
    hidden  later events are committed but not visible yet. They become visible, without notification, when a
            transaction that began before them ends
    more    the page is full, so later events may be there already
    """

    events: Sequence[tuple[int, Event]]
    last: int
    hidden: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """A response kept for an Idempotency-Key; `status_code` is None while the first request is in flight."""

    body_digest: str
    status_code: int | None = None
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
