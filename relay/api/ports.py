"""What the API needs of the rooms that it does not know: protocols, and the values that pass through them.

`app.py` gives it the real ones; a test gives it its own.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from relay.clock import Clock
from relay.core.delivery import Attempt, Delivery, OutboundRequest, Outcome
from relay.core.events import Event, Origin
from relay.core.job import Job, Observation
from relay.core.netguard import GuardPolicy
from relay.core.records import Groups, Page, Registered, StoredAnswer, Tail
from relay.core.replay import Replay, ReplayRequest
from relay.core.subscription import SigningSecret, Subscription
from relay.core.tracking import Explanation, SourceReport, TrackRequest
from relay.errors import RequestError

if TYPE_CHECKING:
    from relay.proxy.types import DropIn


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that may call the API. `scopes`: admin, read, jobs:write."""

    name: str
    value: str = field(repr=False)
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What of the settings concerns the API. `accounts`: the account names of each source; `passed_paths`: what the
    paths begin with that are passed on to an upstream."""

    host: str
    port: int
    public_url: str | None
    tokens: tuple[Token, ...]
    accounts: Mapping[str, tuple[str, ...]]
    origins: Mapping[str, Origin]
    guard: GuardPolicy
    default_deadline_seconds: float
    default_timeout_seconds: float
    default_retry_schedule_seconds: tuple[float, ...]
    version: str
    node_id: str
    passed_paths: tuple[str, ...] = ()
    dev: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`problems` make a 503; `notes` do not. Each is a sentence with what to do."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What came of a test delivery."""

    attempt: Attempt
    outcome: Outcome


class Tracking(Protocol):
    """The tracked jobs: registration, refreshes, explanations."""

    def read_answer(self, source: str, body: Mapping[str, Any]) -> tuple[str, Observation | None] | None:
        """The id and state in an upstream's own answer to a create; None when `body` is not one."""

    async def register(self, requests: Sequence[TrackRequest]) -> list[Registered | RequestError]:
        """Tracks jobs; durable when it returns. One result for each request, in order."""

    async def refresh(self, job: Job) -> None:
        """Looks at an open job as soon as the budget allows."""

    async def untrack(self, job: Job) -> Job:
        """Stops looking at it."""

    async def purge(self, job: Job) -> Job:
        """Erases it."""

    def polls(self, job: Job) -> bool:
        """Whether this node polls the job's account: whatever is seen of the job is signalled here then."""

    def prioritize(self, job: Job) -> AbstractContextManager[None]:
        """While inside, a client waits for this job: it weighs more."""

    def explain(self, job: Job) -> Explanation:
        """Why it is looked at when it is."""

    def reports(self) -> list[SourceReport]:
        """One for each configured account."""


class Signals(Protocol):
    """Wake-ups: something may have changed; look into the store."""

    def watch_job(self, uid: str) -> "AbstractContextManager[Watch]":
        """Wakes when the job got an event or was closed."""

    def watch_events(self) -> "AbstractContextManager[Watch]":
        """Wakes when any event was recorded."""


class Watch(Protocol):
    """One client's view of the signals; none that comes while it works is lost."""

    async def wait(self, timeout_seconds: float) -> bool:
        """True on a signal since the last wait, False after the time."""


class Delivering(Protocol):
    """The dispatcher, as far as the API is concerned."""

    async def test(self, subscription: Subscription, event: Event) -> Tested:
        """Sends one event now; nothing is stored."""

    def request_of(self, subscription: Subscription, event: Event) -> OutboundRequest:
        """The request that would go out now, signed; nothing is sent."""

    def wake(self) -> None:
        """Something is due, or a subscription changed."""


class NodeState(Protocol):
    """The node itself."""

    async def readiness(self) -> Readiness:
        """Whether it can do its work."""

    def metrics(self) -> bytes:
        """Prometheus' text format."""

    async def callback_secret(self) -> str:
        """The secret (`whsec_…`) that signs what goes to callback URLs."""

    @property
    def stopping(self) -> bool:
        """Whether the node shuts down: streams end."""


class Jobs(Protocol):
    """The store's jobs."""

    async def find(self, external_id: str, source: str | None = None, account: str | None = None) -> list[Job]: ...
    async def get(self, uid: str) -> Job | None: ...
    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        status: str | None = None,
        open: bool | None = None,
        source: str | None = None,
        account: str | None = None,
    ) -> Page[Job]: ...


class Events(Protocol):
    """The store's events."""

    async def get(self, event_id: str) -> Event | None: ...
    async def position_of(self, event_id: str) -> int | None: ...
    async def newest_position(self) -> int: ...
    async def tail(self, position: int, count: int = 500) -> Tail: ...
    async def of_job(self, job_uid: str, *, after_sequence: int = 0, count: int = 500) -> list[Event]: ...
    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        type: str | None = None,
        subject: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Page[Event]: ...


class Deliveries(Protocol):
    """The store's deliveries."""

    async def get(self, delivery_id: str) -> Delivery | None: ...
    async def retry(self, delivery_id: str, now: float) -> Delivery: ...
    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        subscription_id: str | None = None,
        event_id: str | None = None,
    ) -> Page[Delivery]: ...
    async def groups(
        self,
        columns: Sequence[str],
        *,
        limit: int,
        state: str | None = None,
        subscription_id: str | None = None,
        event_id: str | None = None,
    ) -> Groups: ...


class Subscriptions(Protocol):
    """The store's subscriptions."""

    async def all(self) -> list[Subscription]:
        """Every one but those of callback URLs."""

    async def create(self, subscription: Subscription) -> Subscription: ...
    async def replace(self, subscription: Subscription, now: float) -> None: ...
    async def set_state(self, subscription_id: str, state: str, now: float, reason: str | None = None) -> None: ...
    async def add_secret(self, owner: str, value: str, now: float, *, old_expire_at: float | None = None) -> None: ...
    async def remove(self, subscription_id: str, now: float) -> None: ...
    async def get(self, subscription_id: str) -> Subscription | None: ...
    async def secrets(self, owner: str) -> tuple[SigningSecret, ...]: ...
    async def page(self, *, limit: int, cursor: str | None = None, callbacks: bool = False) -> Page[Subscription]: ...


class Replays(Protocol):
    """The store's replays."""

    async def create(self, request: ReplayRequest) -> Replay: ...
    async def get(self, replay_id: str) -> Replay | None: ...
    async def stop(self, replay_id: str, now: float) -> Replay: ...


class Idempotency(Protocol):
    """The store's kept answers."""

    async def begin(
        self, id: str, body_digest: str, holder: str, now: float, oldest: float
    ) -> StoredAnswer | float: ...
    async def renew(self, id: str, holder: str, now: float) -> None: ...
    async def end(self, id: str, holder: str, status_code: int, body: bytes, headers: Mapping[str, str]) -> None: ...
    async def forget(self, id: str, holder: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """The kinds of subscription there are, as functions: `api` does not import them.

    names             every kind's name
    infer             the kind that a sink's host implies
    check             raises InvalidRequest where a subscription is not one that its kind can serve
    default_types     by kind name: the types that it gets where the user names none (None: all job events)
    redacted_url      by kind name and URL: a sink as it may be shown
    """

    names: tuple[str, ...]
    infer: Callable[[str], str]
    check: Callable[[Subscription], None]
    default_types: Callable[[str], tuple[str, ...] | None]
    redacted_url: Callable[[str, str], str]


def _count_nothing(_method: str, _status_code: int) -> None:
    """For who keeps no metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that the API is given. `count_request` is called after each answer, with its method and status."""

    settings: ApiSettings
    clock: Clock
    jobs: Jobs
    events: Events
    deliveries: Deliveries
    subscriptions: Subscriptions
    replays: Replays
    idempotency: Idempotency
    tracking: Tracking
    signals: Signals
    delivering: Delivering
    node: NodeState
    kinds: Kinds
    dropin: "DropIn"
    count_request: Callable[[str, int], None] = _count_nothing
