"""The composition root: builds a node from Settings. The only place that knows every room, and the only wiring."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.types import Receive, Scope, Send

from relay import __version__, upkeep
from relay.api.app import create_api
from relay.api.ports import ApiSettings, Kinds, Ports, Readiness, Tested, Token
from relay.clock import Clock, optional_rfc3339, wall_clock
from relay.config import AccountSettings as AccountConfig
from relay.config import Settings, SourceSettings
from relay.config_load import read_secret_file
from relay.core import notices
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event, Hint
from relay.core.job import Job, Problem
from relay.core.netguard import GuardPolicy
from relay.core.planner import PlannerConfig
from relay.core.planner.config import RateLimitHeaders
from relay.core.signing import new_secret
from relay.core.subscription import Subscription
from relay.dispatcher import Dispatcher, DispatcherSettings
from relay.keys import default_state_dir, load_or_create_keyring
from relay.metrics import Metrics
from relay.poller import AccountSettings, Poller, Recorder
from relay.scheduler import Scheduler, Upkeep
from relay.sender import Sender
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.sources.definition import SourceDefinition, load_definition
from relay.store.store import Store, open_store
from relay.store.subscriptions import CALLBACK_OWNER
from relay.tracking import Tracking
from subscribers import registry
from subscribers.base import Context, Kind

ROLES = ("api", "scheduler", "dispatcher")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
PROBE_SECONDS = 30.0
UPKEEP_SECONDS = 60.0
RETENTION_SECONDS = 300.0
DEADLINE_SECONDS = 5.0
STALL_SECONDS = 10.0

log = structlog.get_logger("relay.app")


@dataclass(frozen=True, slots=True)
class _RenderedKind:
    """A kind of subscription with the context that its rendering may use."""

    kind: Kind
    context: Context

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def signed(self) -> bool:
        return self.kind.signed

    @property
    def rate_per_second(self) -> float | None:
        return self.kind.rate_per_second

    def render(self, event: Event, subscription: Subscription) -> OutboundRequest:
        return self.kind.render(event, subscription, self.context)

    def classify(self, response: Response, now: float) -> Outcome:
        return self.kind.classify(response, now)

    def redacted_url(self, url: str) -> str:
        return self.kind.redacted_url(url)


class Node:
    """One running relay. Use `open_node`; it is an ASGI application itself."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        sender: Sender,
        base_url: str,
        callback_secret: str,
        clock: Clock = wall_clock,
        roles: tuple[str, ...] = ROLES,
        seed: int = 0,
    ) -> None:
        self.settings = settings
        self.base_url = (settings.server.public_url or base_url).rstrip("/")
        self.bound_url = base_url
        self.store = store
        self.metrics_book = Metrics()
        self.signals = Signals()
        self.node_id = secrets.token_hex(8)
        self.stopping = False
        self._clock = clock
        self._roles = roles
        self._seed = seed
        self._callback_secret = callback_secret
        self._definitions = {name: load_definition(source.preset) for name, source in settings.sources.items()}
        self._clients: dict[str, UpstreamClient] = {}
        self._dispatching: asyncio.Task[None] | None = None
        context = Context(public_url=self.base_url)
        self._kinds = {name: _RenderedKind(kind, context) for name, kind in registry.kinds().items()}
        self.scheduler = Scheduler(clock)
        self.dispatcher = Dispatcher(
            deliveries=store.deliveries,
            subscriptions=store.subscriptions,
            kinds=self._kinds.__getitem__,
            transport=sender,
            clock=clock,
            settings=self._dispatcher_settings(settings),
            metrics=self.metrics_book,
            token=self.node_id,
            callback_secret=lambda: self._callback_secret,
            recorded=self._recorded,
        )
        self.pollers: dict[tuple[str, str], Poller] = {}
        for source in settings.sources.values():
            self._add_source(source)
        self.tracking = Tracking(
            store=store,
            pollers=self.pollers,
            definitions=self._definitions,
            dispatcher=self.dispatcher,
            signals=self.signals,
            clock=clock,
        )
        self._api = create_api(self._ports())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the API as it is now: reading the settings again replaces it."""
        await self._api(scope, receive, send)

    # --- life

    async def start(self) -> None:
        """Plans the open jobs and begins to poll and to deliver."""
        states = {(state.source, state.name): state for state in await self.store.accounts.all()}
        if "scheduler" in self._roles:
            for key, poller in self.pollers.items():
                await poller.load(states.get(key))
            for work in self._upkeep():
                self.scheduler.add_upkeep(work)
            self.scheduler.start()
        if "dispatcher" in self._roles:
            self._dispatching = asyncio.get_running_loop().create_task(self.dispatcher.run())
        log.info("started", url=self.base_url, roles=list(self._roles), version=__version__)

    async def stop(self) -> None:
        """Claims nothing more and finishes what is in flight within `server.shutdown_seconds`."""
        self.stopping = True
        self.signals.wake_all()
        self.scheduler.stop()
        seconds = self.settings.server.shutdown_seconds
        await asyncio.gather(self.dispatcher.stop(seconds), *(poller.stop(seconds) for poller in self.pollers.values()))
        if self._dispatching is not None:
            await self._dispatching
        self.scheduler.shutdown()
        for client in self._clients.values():
            await client.close()
        log.info("stopped")

    def reload(self, settings: Settings) -> None:
        """Takes over what SIGHUP may change: upstream keys, tokens, polling and delivery."""
        self.settings = settings
        self.dispatcher.settings = self._dispatcher_settings(settings)
        if settings.delivery.callback_secret is not None:
            self._callback_secret = settings.delivery.callback_secret
        for source in settings.sources.values():
            for account in source.accounts.values():
                poller = self.pollers.get((source.name, account.name))
                if poller is not None:
                    poller.configure(self._account_settings(source, account), self._planner_config(source))
        self._api = create_api(self._ports())
        self.dispatcher.wake()

    # --- what the API asks (relay.api.ports.NodeState and Delivering)

    async def readiness(self) -> Readiness:
        """Whether the node can do its work, in sentences."""
        problems: list[str] = []
        notes: list[str] = []
        checks: dict[str, str] = {}
        try:
            await self.store.events.newest_position()
            checks["database"] = "ok"
        except Exception as error:
            checks["database"] = "failing"
            problems.append(f"database: {str(error).splitlines()[0]}")
        running = {"api": True, "scheduler": self.scheduler.running, "dispatcher": self._delivers()}
        for role in self._roles:
            checks[role] = "running" if running[role] else "stopped"
            if not running[role]:
                problems.append(f"the role {role} is not running: restart the node")
        now = self._clock()
        for (source, account), poller in self.pollers.items():
            name = f"{source}/{account}"
            checks[f"source:{name}"] = poller.state.state if poller.has_key else "no_key"
            if not poller.has_key:
                variable = "REVOR_API_KEY" if account == "default" else f"sources.{source}.accounts.{account}.api_key"
                problems.append(f"{name} has no API key: set {variable}")
            elif poller.state.state != "ok":
                since = optional_rfc3339(poller.state.since)
                notes.append(f"{name} is {poller.state.state} since {since}: see GET /v1/sources")
            if "scheduler" in self._roles and poller.stalled(now):
                notes.append(f"{name}: looks are due and none has completed for a minute")
        return Readiness(problems=tuple(problems), notes=tuple(notes), checks=checks)

    def metrics(self) -> bytes:
        """Prometheus' text format."""
        now = self._clock()
        book = self.metrics_book
        for (source, account), poller in self.pollers.items():
            stats = poller.planner.stats(now)
            book.open_jobs.labels(source, account).set(stats.open_jobs)
            book.due_jobs.labels(source, account).set(stats.due_jobs)
            book.source_up.labels(source, account).set(float(poller.state.state == "ok" and poller.has_key))
            book.polling_stalled.labels(source, account).set(float(poller.stalled(now)))
        book.commits.set(self.store.database.writer.commit_count)
        book.writes.set(self.store.database.writer.item_count)
        return book.render()

    async def callback_secret(self) -> str:
        """The secret that signs what goes to callback URLs."""
        return self._callback_secret

    async def test(self, subscription: Subscription, event: Event) -> Tested:
        """Sends one event now; nothing is stored."""
        attempt, outcome = await self.dispatcher.test(subscription, event)
        return Tested(attempt=attempt, outcome=outcome)

    def wake(self) -> None:
        """Something is due, or a subscription changed."""
        self.dispatcher.wake()

    # --- wiring

    def _add_source(self, source: SourceSettings) -> None:
        definition = self._definitions[source.name]
        client = UpstreamClient(
            definition,
            source.base_url,
            clock=self._clock,
            user_agent=f"revor-relay/{__version__}",
            node_id=self.node_id,
        )
        self._clients[source.name] = client
        for account in source.accounts.values():
            settings = self._account_settings(source, account)
            recorder = Recorder(
                jobs=self.store.jobs,
                delivering=self.dispatcher,
                signals=self.signals,
                metrics=self.metrics_book,
                clock=self._clock,
                hint=settings.hint,
                origin=settings.origin,
            )
            poller = Poller(
                settings,
                upstream=client,
                jobs=self.store.jobs,
                accounts=self.store.accounts,
                recorder=recorder,
                signals=self.signals,
                delivering=self.dispatcher,
                metrics=self.metrics_book,
                clock=self._clock,
                planner_config=self._planner_config(source),
            )
            self.pollers[(source.name, account.name)] = poller
            if "scheduler" in self._roles:
                poller.changed = self.scheduler.add_account(source.name, account.name, poller)

    def _account_settings(self, source: SourceSettings, account: AccountConfig) -> AccountSettings:
        definition = self._definitions[source.name]
        schema = f"{self.base_url}/schemas/{notices.schema_name_for(definition.type_prefix + '.queued')}.json"
        return AccountSettings(
            source=source.name,
            account=account.name,
            origin=definition.origin(source.base_url, schema),
            dataschema_base=self.base_url,
            deadline_seconds=source.polling.deadline_seconds,
            read_key=_key_reader(account),
            hint=_hints(definition),
        )

    def _planner_config(self, source: SourceSettings) -> PlannerConfig:
        names = self._definitions[source.name].headers
        polling = source.polling
        return PlannerConfig(
            max_requests_per_second=polling.max_requests_per_second,
            reserve=polling.reserve,
            min_interval_seconds=polling.min_interval_seconds,
            max_interval_seconds=polling.max_interval_seconds,
            seed=self._seed,
            headers=RateLimitHeaders(
                limit=names.limit,
                remaining=names.remaining,
                window_ms=names.window_ms,
                account_limit=names.account_limit,
                account_remaining=names.account_remaining,
                retry_after=names.retry_after,
            ),
        )

    def _dispatcher_settings(self, settings: Settings) -> DispatcherSettings:
        delivery = settings.delivery
        return DispatcherSettings(
            concurrency=delivery.concurrency,
            per_host=delivery.per_host,
            jitter=delivery.jitter,
            disable_after_seconds=delivery.disable_after_seconds,
            dataschema_base=self.base_url,
        )

    def _ports(self) -> Ports:
        settings = self.settings
        origins = {
            name: self._account_settings(source, next(iter(source.accounts.values()))).origin
            for name, source in settings.sources.items()
        }
        prefixes = [origin.type_prefix for origin in origins.values()]
        api = ApiSettings(
            host=settings.server.host,
            port=settings.server.port,
            public_url=settings.server.public_url,
            tokens=tuple(
                Token(name=token.name, value=token.token, scopes=frozenset(token.scopes))
                for token in settings.auth.tokens
            ),
            accounts={name: tuple(source.accounts) for name, source in settings.sources.items()},
            origins=origins,
            guard=guard_policy(settings),
            default_deadline_seconds=next(iter(settings.sources.values())).polling.deadline_seconds,
            default_timeout_seconds=settings.delivery.timeout_seconds,
            default_retry_schedule_seconds=settings.delivery.retry_schedule,
            version=__version__,
            node_id=self.node_id,
            dev=settings.dev,
        )
        kinds = Kinds(
            names=tuple(self._kinds),
            infer=registry.infer_kind,
            check=lambda subscription: registry.kind_named(subscription.kind).check(subscription),
            default_types=lambda kind: registry.kind_named(kind).default_types(prefixes),
            redacted_url=lambda kind, url: registry.kind_named(kind).redacted_url(url),
        )
        return Ports(
            settings=api,
            clock=self._clock,
            jobs=self.store.jobs,
            events=self.store.events,
            deliveries=self.store.deliveries,
            subscriptions=self.store.subscriptions,
            idempotency=self.store.idempotency,
            tracking=self.tracking,
            signals=self.signals,
            delivering=self,
            node=self,
            kinds=kinds,
            count_request=self._count_request,
        )

    def _upkeep(self) -> list[Upkeep]:
        retention = self.settings.retention

        async def measure() -> None:
            self.metrics_book.deliveries_pending.set(await self.store.deliveries.pending_count())

        async def stalls() -> None:
            now = self._clock()
            for (source, account), poller in self.pollers.items():
                if poller.stalled(now):
                    log.error("polling_stalled", source=source, account=account)

        return [
            Upkeep(
                name="retention",
                every_seconds=RETENTION_SECONDS,
                run=lambda: upkeep.retention(
                    self.store.upkeep,
                    self.metrics_book,
                    self._clock,
                    events_days=retention.events_days,
                    attempts_days=retention.attempts_days,
                    jobs_days=retention.jobs_days,
                ),
            ),
            Upkeep(
                name="strays",
                every_seconds=UPKEEP_SECONDS,
                run=lambda: upkeep.strays(self.store.upkeep, self._clock, self.dispatcher.wake),
            ),
            Upkeep(
                name="deadlines",
                every_seconds=DEADLINE_SECONDS,
                run=lambda: upkeep.deadlines(self.store.jobs, self._poller_of, self._clock),
            ),
            Upkeep(
                name="probes",
                every_seconds=PROBE_SECONDS,
                at_once=True,
                run=lambda: upkeep.probes(list(self.pollers.values())),
            ),
            Upkeep(name="measure", every_seconds=UPKEEP_SECONDS, run=measure),
            Upkeep(name="stalls", every_seconds=STALL_SECONDS, run=stalls),
        ]

    def _poller_of(self, job: Job) -> Poller | None:
        return self.pollers.get((job.source, job.account))

    def _delivers(self) -> bool:
        return self._dispatching is not None and not self._dispatching.done()

    def _count_request(self, method: str, status: int) -> None:
        known = method if method in METHODS else "other"  # a stranger's words make no new time series
        self.metrics_book.requests.labels(known, f"{status // 100}xx").inc()

    def _recorded(self, event: Event) -> None:
        self.metrics_book.events.labels(event.type).inc()
        self.signals.event_recorded()


@asynccontextmanager
async def open_node(
    settings: Settings,
    *,
    base_url: str,
    environ: Mapping[str, str] | None = None,
    clock: Clock = wall_clock,
    roles: tuple[str, ...] = ROLES,
    state_dir: Path | None = None,
    seed: int = 0,
) -> AsyncIterator[Node]:
    """A started node; it is stopped, and the database let go, at the end.

    `base_url` is where it is reached (scheme, address and port that were bound). Raises SettingsError, DatabaseHeld,
    SchemaTooNew, StoreError.
    """
    directory = state_dir or default_state_dir(os.environ if environ is None else environ)
    keyring = load_or_create_keyring(settings.encryption.keys, state_dir=directory)
    store = await open_store(settings.database.url, keyring, now=clock())
    try:
        callback_secret = settings.delivery.callback_secret or await _stored_callback_secret(store, clock())
        async with Sender(guard_policy(settings), clock=clock) as sender:
            node = Node(
                settings,
                store=store,
                sender=sender,
                base_url=base_url,
                callback_secret=callback_secret,
                clock=clock,
                roles=roles,
                seed=seed,
            )
            await node.start()
            try:
                yield node
            finally:
                await node.stop()
    finally:
        await store.close()


def guard_policy(settings: Settings) -> GuardPolicy:
    """The egress rules of these settings."""
    security = settings.security
    return GuardPolicy(
        allow_http=security.allow_http,
        allow_networks=tuple(security.allow_networks),
        allow_ports=frozenset(security.allow_ports),
    )


async def _stored_callback_secret(store: Store, now: float) -> str:
    found = await store.subscriptions.secrets(CALLBACK_OWNER)
    if found:
        return found[0].value
    made = new_secret(secrets.token_bytes(32))
    await store.subscriptions.add_secret(CALLBACK_OWNER, made, now)
    return made


def _key_reader(account: AccountConfig) -> Callable[[], str | None]:
    if account.api_key_file is None:
        return lambda: account.api_key
    path = account.api_key_file

    def read() -> str | None:
        with contextlib.suppress(ValueError, OSError):
            return read_secret_file(path)
        return account.api_key

    return read


def _hints(definition: SourceDefinition) -> Callable[[Problem | None, str, str | None], Hint | None]:
    def hint(problem: Problem | None, kind: str, channel: str | None) -> Hint | None:
        return definition.hint_for(problem, kind, channel=channel)

    return hint
