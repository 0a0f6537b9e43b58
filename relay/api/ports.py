"""What the API needs from the rest of the relay, and the values it exchanges with it.

`relay/node/node.py` passes the real objects; tests pass stand-ins (`tests/support/api_world.py`).
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
    """The settings of the API. `accounts`: the account names of each source; `passed_paths`: the path prefixes that
    are forwarded to an upstream."""

    host: str
    port: int
    public_url: str | None
    tokens: tuple[Token, ...]
    accounts: Mapping[str, tuple[str, ...]]
    origins: Mapping[str, Origin]
    guard: GuardPolicy
    default_timeout_seconds: float
    default_retry_schedule_seconds: tuple[float, ...]
    version: str
    node_id: str
    passed_paths: tuple[str, ...] = ()
    dev: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`problems` make `/readyz` answer 503; `notes` do not. Each is a sentence that says what to do."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The result of a test delivery."""

    attempt: Attempt
    outcome: Outcome


class Tracking(Protocol):
    """Tracked jobs: registration, refreshes, explanations."""

    def read_answer(self, source: str, body: Mapping[str, Any]) -> tuple[str, Observation | None] | None:
        """The id and state in an upstream's answer to a create; None if `body` is not one."""

    async def register(self, requests: Sequence[TrackRequest]) -> list[Registered | RequestError]:
        """Tracks jobs, durably. Returns one result per request, in order."""

    async def refresh(self, job: Job) -> None:
        """Polls an open job as soon as the budget allows."""

    async def untrack(self, job: Job) -> Job:
        """Stops polling the job."""

    async def purge(self, job: Job) -> Job:
        """Erases the job."""

    def polls(self, job: Job) -> bool:
        """Whether this node polls the job's account, so that changes are signalled in this process."""

    def prioritize(self, job: Job) -> AbstractContextManager[None]:
        """Raises the job's weight while inside, because a client waits for it."""

    def explain(self, job: Job) -> Explanation:
        """When the job is polled next, and why."""

    def reports(self) -> list[SourceReport]:
        """One report per configured account."""


class Signals(Protocol):
    """Wake-ups: something may have changed, so read the store again."""

    def watch_job(self, uid: str) -> "AbstractContextManager[Watch]":
        """Wakes when the job gets an event or is closed."""

    def watch_events(self) -> "AbstractContextManager[Watch]":
        """Wakes when any event is recorded."""


class Watch(Protocol):
    """One client's view of the signals. A signal that arrives between two waits is kept."""

    async def wait(self, timeout_seconds: float) -> bool:
        """True on a signal since the last wait, False after the timeout."""


class Delivering(Protocol):
    """The dispatcher's methods for the API."""

    async def test(self, subscription: Subscription, event: Event) -> Tested:
        """Sends one event now. Nothing is stored."""

    def request_of(self, subscription: Subscription, event: Event) -> OutboundRequest:
        """The signed request for this event. Nothing is sent."""

    def wake(self) -> None:
        """Looks for due deliveries and changed subscriptions now."""


class NodeState(Protocol):
    """The node itself."""

    async def readiness(self) -> Readiness:
        """Whether the node is ready."""

    def metrics(self) -> bytes:
        """Prometheus' text format."""

    async def callback_secret(self) -> str:
        """The secret (`whsec_…`) that signs requests to callback URLs."""

    @property
    def stopping(self) -> bool:
        """Whether the node is shutting down, which ends streams."""


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
        """All subscriptions except those of callback URLs."""

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
    """The store's idempotency keys."""

    async def begin(
        self, id: str, body_digest: str, holder: str, now: float, oldest: float
    ) -> StoredAnswer | float: ...
    async def renew(self, id: str, holder: str, now: float) -> None: ...
    async def end(self, id: str, holder: str, status_code: int, body: bytes, headers: Mapping[str, str]) -> None: ...
    async def forget(self, id: str, holder: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """The kinds of subscription, as functions, because `api` does not import `subscribers`.

    names             the names of all kinds
    infer             the kind for a sink's host
    check             raises InvalidRequest if the kind cannot serve a subscription
    default_types     kind name to the types it gets by default (None: all job events)
    redacted_url      kind name and URL to the redacted sink
    """

    names: tuple[str, ...]
    infer: Callable[[str], str]
    check: Callable[[Subscription], None]
    default_types: Callable[[str], tuple[str, ...] | None]
    redacted_url: Callable[[str, str], str]


def _count_nothing(_method: str, _status_code: int) -> None:
    """The default for tests without metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything the API needs. `count_request` is called after each response with the method and status."""

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
