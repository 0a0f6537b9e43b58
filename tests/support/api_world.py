"""The API's surroundings in tests: a real store on SQLite, and stand-ins for the rest of the relay."""

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from relay.api.access.callers import Access
from relay.api.http.dependencies import ApiDependencies, ApiSettings, Readiness, Token
from relay.api.jobs.group_finish import GroupForecasts
from relay.config.settings import Settings, effective_settings
from relay.core.access.client_address import Network
from relay.core.access.forwarding import Header, api_key_of
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Message, Published
from relay.core.deliveries.delivery import Attempt, OutboundRequest, Outcome, Timings
from relay.core.deliveries.dialogue import Step, Steps, previewed
from relay.core.erasure import ErasureRequest, ErasureStep
from relay.core.events.event import Event, Hint, Origin, Repeat, from_transition, owner_of
from relay.core.jobs.job import Job, JobKey, Observation, Problem, Progress, Recipient, detect
from relay.core.planner.outlook import Outlook
from relay.core.polling.tracking import CreditsReading, Explanation, Registration, SourceReport, TrackRequest
from relay.core.records import PollRecord, Registered
from relay.core.subscriptions.signing import new_secret, signature_headers
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.core.values import EffectiveSetting
from relay.delivery.pulls import Pulls
from relay.errors import RelayError, RequestError
from relay.ids import new_id
from relay.node.audit import AuditLog
from relay.node.encryption_keys import Rotation
from relay.proxy.asgi import Proxy
from relay.proxy.spool import Spool
from relay.proxy.types import Caller, ForwardedRequest, ProxyResponse
from relay.signals import Signals
from relay.store.store import Store
from subscribers.base import Dialogue, RenderContext
from subscribers.registry import kind_named
from tests.support.delivery_kit import shared
from tests.support.store_kit import callback_for

NOW = 1_800_000_000.0
ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs",
    type_prefix="ai.revor.job",
    dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
    account_source="https://revor.ai/api/v1/connect/accounts",
    title="Revor",
    website="https://revor.ai",
)
SETTINGS = ApiSettings(
    host="127.0.0.1",
    port=8080,
    public_url=None,
    tokens=(),
    accounts={"revor": ("default", "emea")},
    origins={("revor", ""): ORIGIN},
    resources={"revor": ("jobs",)},
    guard=GuardPolicy(),
    default_timeout_seconds=15.0,
    default_retry_schedule_seconds=(5.0, 300.0),
    version="0.1.0",
    node_id="node-1",
    dev=True,
)
TOKENS = (
    Token(name="ops", value="rl_admin", scopes=frozenset({"admin"})),
    Token(name="viewer", value="rl_read", scopes=frozenset({"read"})),
    Token(name="crm", value="rl_jobs", scopes=frozenset({"jobs:write"})),
    Token(name="team", value="rl_subs", scopes=frozenset({"subscriptions:write"})),
    Token(name="shop", value="rl_events", scopes=frozenset({"events:write"})),
    Token(name="dropin", value="rl_proxy", scopes=frozenset({"proxy"})),
    Token(name="scraper", value="rl_metrics", scopes=frozenset({"metrics"})),
)
HOOK = "https://receiver.example/hooks"
SLACK = "https://hooks.slack.com/services/T000/B000/secretsecret"


class FakeWatch:
    """Ends every wait at once: with a signal if the next step gives one, else as a timeout."""

    def __init__(self, signals: "FakeSignals") -> None:
        self._signals = signals

    async def wait(self, timeout_seconds: float) -> bool:
        self._signals.waits.append(timeout_seconds)
        if self._signals.steps:
            step = self._signals.steps.pop(0)
            return bool(await step())
        self._signals.world.node.stop()
        return False


class FakeSignals:
    """Runs one of `steps` in each wait: coroutine functions that return whether there was a signal.

    After the last step the node stops, so that no test can hang.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.steps: list[Any] = []
        self.waits: list[float] = []
        self.watched: list[str] = []
        self.woken = 0
        self.open_watches = 0

    @contextmanager
    def watch(self, topic: str) -> Iterator[FakeWatch]:
        self.watched.append(topic)
        self.open_watches += 1
        try:
            yield FakeWatch(self)
        finally:
            self.open_watches -= 1

    def deliveries_due(self) -> None:
        self.woken += 1


class FakeTracking:
    """Registers jobs in the store, and records its calls."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.refreshed: list[str] = []
        self.hurried: list[str] = []
        self.polling = True
        self.chunks: list[int] = []
        self.refusals: dict[str, RequestError] = {}
        self.problems: dict[str, tuple[Problem, Hint]] = {}
        self.hints: dict[str, Hint] = {}
        self.outlook: Outlook | None = None
        self.account: tuple[str, str] | None = None
        self.credits: dict[str, CreditsReading] = {}
        self.states: dict[str, str] = {}

    def within(self, account: tuple[str, str]) -> "FakeTracking":
        view = copy(self)
        view.account = account
        return view

    def read_answer(
        self, source: str, body: Mapping[str, Any], resource: str = ""
    ) -> tuple[str, Observation | None] | None:
        item = body.get("item")
        if body.get("ok") is not True or not isinstance(item, dict) or not isinstance(item.get("id"), str):
            return None
        seen = None
        if isinstance(item.get("status"), str):
            seen = Observation(status=item["status"], observed_at=self.world.now, upstream=item)
        return item["id"], seen

    async def register(self, requests: Sequence[TrackRequest]) -> list[Registered | RequestError]:
        self.chunks.append(len(requests))
        fine = [request for request in requests if request.external_id not in self.refusals]
        registrations = [await self._registration(request) for request in fine]
        done = iter(await self.world.store.jobs.register_many(registrations) if registrations else [])
        return [self.refusals.get(request.external_id) or next(done) for request in requests]

    async def register_made(self, request: TrackRequest) -> Registered:
        (result,) = await self.register((request,))
        if isinstance(result, RequestError):
            raise result
        return result

    async def _registration(self, request: TrackRequest) -> Registration:
        now = self.world.now
        callback = None
        if request.callback_url is not None:
            owner = None if self.account is None else owner_of(*self.account)
            made = new_id("sub", now)
            callback = await callback_for(self.world.store, request.callback_url, made, now, owner)
        job = request._replace(seen=None).job(new_id("job", now), now, 604_800.0, Progress())
        return Registration(job=job, request=request, callback_subscription_id=callback)

    def problem_of(self, job: Job) -> tuple[Problem, Hint] | None:
        return self.problems.get(job.external_id)

    def explained(self, source: str, code: str) -> Hint | None:
        return self.hints.get(code)

    def repeat_of(self, job: Job) -> Repeat | None:
        return "safe" if job.external_id.startswith("safe") else "may_send_twice"

    async def refresh(self, job: Job) -> None:
        self.refreshed.append(job.uid)

    async def untrack(self, job: Job) -> Job:
        return await self.world.store.jobs.untrack(job.uid, self.world.now)

    async def purge(self, job: Job) -> Job:
        return await self.world.store.jobs.purge(job.uid, self.world.now)

    async def erase(self, request: ErasureRequest, cursor: str | None) -> ErasureStep:
        return await self.world.store.erasure.step(request, cursor, self.world.now)

    def polls(self, job: Job) -> bool:
        return self.polling

    @contextmanager
    def prioritize(self, job: Job) -> Iterator[None]:
        self.hurried.append(job.uid)
        yield

    def explain(self, job: Job) -> Explanation:
        return Explanation(
            reason="between_looks",
            sentence="It was polled a short while ago and had not changed.",
            next_poll_at=self.world.now + 5,
            not_before=None,
            expected_delay_seconds=1.2,
            waiting_for=None,
            last_polled_at=None,
            last_request_id="req_1",
            outlook=self.outlook,
        )

    def reports(self) -> list[SourceReport]:
        return [
            SourceReport(
                source="revor",
                account=account,
                state=self.states.get(account, "ok"),
                since=None,
                problem=None,
                open_jobs=1,
                due_jobs=0,
                limit=120,
                remaining=119,
                window_seconds=60.0,
                own_requests_per_second=0.5,
                others_requests_per_second=None,
                price_seconds=0.8,
                expected_detection_delay_seconds=1.2,
                expected_detection_delay_at_double_budget_seconds=0.6,
                expected_detection_delay_at_half_budget_seconds=None,
                paused_until=None,
                last_completed_at=self.world.now,
                accounts_listed_at=None,
                credits=self.credits.get(account),
            )
            for account in SETTINGS.accounts["revor"]
            if self.account in (None, ("revor", account))
        ]


class FakeDispatcher:
    """Answers tests with a 200 of the sink."""

    def __init__(self) -> None:
        self.tested: list[tuple[Subscription, Event]] = []
        self.greeted: list[Subscription] = []
        self.nothing_to_send = False
        self.dialogue: Dialogue | None = None
        """In place of the kind's."""
        self.greeting: list[Any] = []
        """What the next sinks tell when they are greeted: facts, an exception, or what is awaited to get it."""

    async def test(self, subscription: Subscription, event: Event) -> tuple[Attempt, Outcome]:
        self.tested.append((subscription, event))
        attempt = Attempt(
            number=1,
            started_at=NOW,
            duration_ms=12.5,
            status_code=200,
            request_headers=(("webhook-id", event.id), ("authorization", "[redacted]")),
            response_headers=(("set-cookie", "[redacted]"), ("server", "nginx")),
            response_excerpt="ok",
            remote_ip="192.0.2.1",
            timings=Timings(first_byte_ms=11.0),
        )
        return attempt, Outcome(verdict="delivered", reason="200 OK")

    async def greet(self, subscription: Subscription, steps: Steps) -> Mapping[str, str]:
        self.greeted.append(subscription)
        answer = self.greeting.pop(0) if self.greeting else {}
        if callable(answer):
            answer = await answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def request_of(
        self, subscription: Subscription, event: Event, recipient: Recipient | None
    ) -> OutboundRequest | None:
        signature = signature_headers(subscription.secrets, message_id=event.id, now=NOW, body=event.body)
        sent = OutboundRequest(url=subscription.sink, headers=(*subscription.headers, *signature), body=event.body)
        return None if self.nothing_to_send else sent

    async def requests_of(
        self, subscription: Subscription, event: Event, recipient: Recipient | None
    ) -> tuple[Step, ...]:
        kind = kind_named(subscription.kind)
        dialogue = kind.dialogue(subscription) if self.dialogue is None else self.dialogue
        if dialogue is not None:
            context = RenderContext(recipient=recipient and recipient.shown())
            return previewed(dialogue.steps(event, subscription, context, {}, NOW))
        request = kind.render(event, subscription, RenderContext())
        signature = signature_headers(subscription.secrets, message_id=event.id, now=NOW, body=request.body)
        return (Step(request=replace(request, headers=(*request.headers, *signature)), name=""),)


class FakeKeys:
    """Encryption keys of which a part is encrypted again."""

    ids = ("0c1d2e3f", "8a9b0c1d")
    place = "encryption.keys"

    def __init__(self) -> None:
        self.refusal: RelayError | None = None

    async def rotate(self) -> Rotation:
        if self.refusal is not None:
            raise self.refusal
        return Rotation(key=self.ids[0], done=1, left=2, unused=(), problem="why")


class FakeNode:
    """A node that is well, until a test says otherwise."""

    store: Store
    """Set by the world."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.keys = FakeKeys()
        self.answer = Readiness(notes=("all is well",), checks={"database": "ok"})
        self.stopping = False
        self.secret = new_secret(b"c" * 32)
        self.access: list[Access] = []
        self.store: Store | None = None

    def stop(self) -> None:
        self.stopping = True

    async def readiness(self) -> Readiness:
        return self.answer

    def metrics(self) -> bytes:
        return b"relay_up 1\n"

    def effective_settings(self) -> list[EffectiveSetting]:
        return effective_settings(self.settings)

    async def tokens_changed(self) -> None:
        assert self.store is not None
        _, tokens = await self.store.tokens.all()
        for access in self.access:
            access.load(tokens)

    async def callback_secret(self) -> str:
        return self.secret

    async def signing_keys(self) -> tuple[SigningSecret, ...]:
        return (await self.store.secrets.own_secrets())[1]


def answer_of(status: int, body: bytes) -> ProxyResponse:
    """A complete answer."""
    return ProxyResponse(status=status, headers=[(b"content-type", b"application/json")], body=body)


class FakeGateway:
    """An upstream that accepts every forwarded request, and knows no configured key."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.passed: list[ForwardedRequest] = []
        self.reads = self.creates = self

    adopts_keys = False

    def mount_of(self, raw_path: bytes) -> tuple[str, bytes]:
        return "/api/v1/", raw_path

    def read_with_query(self, caller: Caller, method: str, path: str, query: str) -> None:
        return None

    def addresses_in(self, source: str, path: str, query: str) -> None:
        return None

    def key_of(self, headers: Sequence[Header], query: str, mount: str) -> str | None:
        return api_key_of(headers)

    def key_header(self, mount: str) -> bytes:
        return b""

    def without_key(self, query: str, mount: str) -> str:
        return query

    def account_of(self, key: str | None, mount: str) -> Caller | None:
        return None

    def caller_for(self, key: str | None, mount: str) -> Caller:
        return Caller(source="revor", account=None, key=key)

    def default_caller(self, mount: str) -> Caller | None:
        return Caller(source="revor", account="default", key="the account's own")

    def caller_bound_to(self, account: tuple[str, str], mount: str) -> Caller | None:
        source, name = account
        return Caller(source=source, account=name, bound=True, key=f"the own key of {name}")

    def with_account_key(self, headers: Sequence[Header], caller: Caller) -> list[Header]:
        return [(b"authorization", f"Bearer {caller.key}".encode())]

    def created_by(self, request: ForwardedRequest) -> str | None:
        return None

    def job_read(self, caller: Caller, method: str, path: str, query: str) -> JobKey | None:
        return None

    def job_changed(self, request: ForwardedRequest) -> JobKey | None:
        return None

    def from_memory(self, place: JobKey, *, ended: bool) -> ProxyResponse | None:
        return None

    async def create(
        self, request: ForwardedRequest, body: Spool, attached: Mapping[str, Any], resource: str
    ) -> ProxyResponse:
        return await self.forward(request, None)

    async def read(self, request: ForwardedRequest, place: JobKey, **_: object) -> ProxyResponse:
        return await self.forward(request, None)

    async def forward(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        self.passed.append(request)
        return answer_of(200, b'{"ok":true}')

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        return answer_of(status, orjson.dumps({"ok": False, "error": {"code": code, "message": message}}))

    def count(self, kind: str, response: ProxyResponse) -> None:
        """Metrics are not recorded."""


@dataclass
class World:
    """Everything behind the API of one test."""

    store: Store
    now: float = NOW
    requests: list[tuple[str, int]] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    node: FakeNode = field(default_factory=FakeNode)
    dispatcher: FakeDispatcher = field(default_factory=FakeDispatcher)
    dialled: list[tuple[Broker, Message | None]] = field(default_factory=list)
    broker_says: Published = field(default_factory=Published)

    async def dial(self, broker: Broker, place: Message | None) -> Published:
        """What a look at a broker finds."""
        self.dialled.append((broker, place))
        return self.broker_says

    async def unresolved(self, hosts: Iterable[str]) -> dict[str, str]:
        """What a look at the hosts of callbacks and sinks finds."""
        return {host: "Name or service not known" for host in hosts if host.endswith(".invalid")}

    def __post_init__(self) -> None:
        self.node.store = self.store
        self.store.outbox.incidents.base_url = "http://127.0.0.1:8080"
        self.tracking = FakeTracking(self)
        self.signals = FakeSignals(self)
        self.gateway = FakeGateway(self)
        self.arrivals = Signals()
        """What wakes programs that pull."""
        self.pulls = Pulls(shared(self.store, lambda: self.now, signals=self.arrivals))
        self.audit = AuditLog(self.store, clock=lambda: self.now, kept_days=365)

    def proxy(self, dependencies: ApiDependencies) -> Proxy:
        """The HTTP half of the proxy over the fake gateway."""
        return Proxy(dependencies, self.gateway)  # type: ignore[arg-type]

    def dependencies(self, *, trusted_proxies: Sequence[Network] = (), **settings: Any) -> ApiDependencies:
        """The dependencies of the API, with these settings changed. Each has its own tokens, as in the database."""
        given = replace(SETTINGS, **settings)
        access = Access(
            clock=lambda: self.now, trusted_proxies=trusted_proxies, steady=lambda: self.now, hold_seconds=0.0
        )
        access.configure(given.tokens)
        self.node.access.append(access)
        return ApiDependencies(
            settings=given,
            access=access,
            clock=lambda: self.now,
            store=self.store,
            tracking=self.tracking,
            dial=self.dial,
            unresolved=self.unresolved,
            signals=self.signals,
            dispatcher=self.dispatcher,
            pulls=self.pulls,
            node=self.node,
            audit=self.audit,
            forecasts=GroupForecasts(self.store.group_work, self.store.learned, lambda: self.now),
            count_request=lambda method, status_code: self.requests.append((method, status_code)),
            published=self.published.append,
        )

    async def job(self, external_id: str, *, account: str = "default", callback_url: str | None = None) -> Job:
        """A tracked job."""
        request = TrackRequest(
            external_id=external_id, source="revor", account=account, callback_url=callback_url, metadata={"deal": 42}
        )
        registered = (await self.tracking.register([request]))[0]
        assert isinstance(registered, Registered)
        return registered.job

    async def fail(self, id: str, code: str = "reconnect", connect: str | None = "acc_1", **fields: Any) -> Job:
        """A job that has failed because its connect account needs reconnecting: each code opens an incident."""
        job = await self.job(id, **fields)
        hint = Hint(
            meaning="The account needs reconnecting",
            fix="Reconnect it",
            who="account owner",
            repeat="safe",
            points_at="connect_account",
        )
        await self.poll(job, "failed", problem=Problem(code=code, message=code), connect=connect, hint=hint)
        return job

    async def poll(
        self,
        job: Job,
        status: str,
        *,
        problem: Problem | None = None,
        connect: str | None = None,
        hint: Hint | None = None,
        origin: Origin = ORIGIN,
    ) -> list[Event]:
        """A poll of the job that observes this status. Returns the new events."""
        now_known = await self.store.jobs.get(job.uid)
        assert now_known is not None
        item: dict[str, Any] = {"id": job.external_id, "status": status}
        if problem is not None:
            item["error"] = {"code": problem.code, "message": problem.message}
        seen = Observation(
            status=status, observed_at=self.now, upstream=item, problem=problem, connect_account_id=connect
        )
        transitions, progress = detect(now_known.progress, seen)
        events = tuple(
            from_transition(new_id("evt", self.now), job, transition, origin, seen=seen) for transition in transitions
        )
        await self.store.jobs.record(
            PollRecord(
                job_uid=job.uid,
                expected_sequence=now_known.progress.sequence,
                progress=progress,
                events=events,
                now=self.now,
                seen=seen,
                outcome=status if seen.terminal else None,
                hint=hint,
            )
        )
        return list(events)


def scope_of(path: str, headers: Sequence[Header] = ()) -> dict[str, Any]:
    """An ASGI scope, for tests that read a stream incrementally or disconnect at a given moment."""
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8080"), *headers],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8080),
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
