"""The composition root: builds a node from Settings. The only place that knows every room, and the only wiring."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from relay import __version__
from relay.api.app import create_api
from relay.api.operations import Context as ApiContext
from relay.api.ports import Ports, Readiness
from relay.clock import Clock, wall_clock
from relay.config.keyring import load_or_create_keyring, python_line_that_makes_a_key
from relay.config.settings import AccountSettings, Settings, SourceSettings
from relay.core.events import Event
from relay.core.planner import PlannerStatistics
from relay.core.signing import new_secret
from relay.delivery.dispatcher import Dispatcher
from relay.errors import SettingsError, StoreError
from relay.holder import Holder
from relay.http.sender import Sender
from relay.metrics import Metrics
from relay.node import readiness, upkeep
from relay.node.cluster import Cluster
from relay.node.component_settings import ComponentSettings, guard_policy
from relay.node.reload import reconfigure
from relay.node.scheduler import Scheduler, Upkeep
from relay.node.sink_kinds import api_kinds
from relay.node.timetable import timetable
from relay.polling.poller import Poller
from relay.polling.recorder import Recorder
from relay.polling.statistics import AccountPlan, SourceStatistics
from relay.polling.tracking import Tracking
from relay.private_files import default_state_dir
from relay.proxy.adopted_keys import Adopted, name_of, with_adopted
from relay.proxy.answer_cache import AnswerCache
from relay.proxy.asgi import Proxy
from relay.proxy.gateway import Gateway
from relay.proxy.transport import UpstreamTransport
from relay.signals import Signals
from relay.sources.client import NODE_HEADER, UpstreamClient
from relay.sources.definition import load_definition
from relay.store.postgres_engine import is_postgres
from relay.store.probe import WriteProbe
from relay.store.store import Store, open_store
from relay.store.subscriptions import CALLBACK_OWNER
from subscribers import registry
from subscribers.base import Context

ROLES = ("api", "scheduler", "dispatcher")
NO_KEY = (
    "with PostgreSQL the key of the secrets in the database has to be given, since several nodes share it: set "
    f"RELAY_ENCRYPTION_KEY to what this prints, and keep a copy: {python_line_that_makes_a_key()}"
)
KEEP_SECONDS = 5.0
LOAD_PATIENCE_SECONDS = 1.0
LOAD_AGAIN_SECONDS = 1.0
ADOPTED_SECONDS = 5.0
CREATES_SECONDS = 5.0
"""How often creates whose fate became unknown, by a crash say, are sought."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

log = structlog.get_logger("relay.app")


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
        adopted: Adopted = MappingProxyType({}),
        node_id: str,
    ) -> None:
        """`callback_secret` is the one of the database, for as long as the settings give none; `adopted` are accounts
        beside those of the settings."""
        settings = with_adopted(settings, adopted)
        self.settings = settings
        self.base_url = (settings.server.public_url or base_url).rstrip("/")
        self.store = store
        self.metrics_registry = Metrics()
        self._counter = lru_cache(self.metrics_registry.requests.labels)
        self.signals = Signals()
        self.node_id = node_id
        self._holder = Holder()
        self.stopping = False
        self._clock = clock
        self._probe = WriteProbe(store.database)
        self._roles = roles
        self._callback_secret = callback_secret
        self._definitions = {name: load_definition(source.preset) for name, source in settings.sources.items()}
        self._components = ComponentSettings(
            settings=settings, base_url=self.base_url, definitions=self._definitions, seed=seed
        )
        self._clients: dict[str, UpstreamClient] = {}
        self._transports: dict[str, UpstreamTransport] = {}
        self._answers = AnswerCache()
        self._statistics: dict[str, PlannerStatistics] = {}
        self._adopted = dict(adopted)
        self._memories: dict[str, SourceStatistics] = {}
        self._dispatching: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[Any] | None = None
        self._loading: list[asyncio.Task[None]] = []
        self.scheduler = Scheduler(clock)
        self.dispatcher = Dispatcher(
            deliveries=store.deliveries,
            subscriptions=store.subscriptions,
            kinds=registry.kinds().__getitem__,
            context=Context(public_url=self.base_url),
            transport=sender,
            clock=clock,
            settings=self._components.of_dispatcher(),
            metrics=self.metrics_registry,
            holder=self._holder,
            lease_clock=store.database.lease_clock(clock),
            callback_secret=lambda: self.settings.delivery.callback_secret or self._callback_secret,
            recorded=self._recorded,
        )
        self.pollers: dict[tuple[str, str], Poller] = {}
        for source in settings.sources.values():
            self._add_source(source)
        self.tracking = Tracking(
            store=store,
            pollers=self.pollers,
            definitions=self._definitions,
            wake=self.dispatcher.wake,
            signals=self.signals,
            clock=clock,
            on_untracked=lambda job: self._answers.drop((job.source, job.account, job.external_id)),
        )
        self.dropin = Gateway(
            store=store,
            pollers=self.pollers,
            definitions=self._definitions,
            transports=self._transports,
            clients=self._clients,
            tracking=self.tracking,
            answers=self._answers,
            signals=self.signals,
            metrics=self.metrics_registry,
            stopping=lambda: self.stopping,
            clock=clock,
            recorded=self._told,
            dataschema_base=self.base_url,
            adopt=self._adopt if settings.proxy.adopt_unknown_keys else None,
        )
        self._cluster: Cluster | None = None
        if store.database.shared:
            self._cluster = Cluster(
                store=store,
                pollers=self.pollers,
                dispatcher=self.dispatcher,
                signals=self.signals,
                answers=self._answers,
                clock=clock,
                holder=self._holder,
                polls="scheduler" in roles,
            )
        self._api = create_api(self._ports(), self._proxy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the API as it is now: reading the settings again replaces it."""
        await self._api(scope, receive, send)

    # --- life

    async def start(self) -> None:
        """Plans the open jobs and begins to poll and to deliver."""
        for (source, account), poller in self.pollers.items():
            if poller.key is None:
                hint = f"nothing is polled until {readiness.setting_of_key(source, account)} is set"
                log.warning("no_upstream_key", source=source, account=account, hint=hint)
        if self._cluster is not None:
            await self._cluster.introduce()
        states = {(state.source, state.name): state for state in await self.store.accounts.all()}
        if "scheduler" in self._roles:
            held = {key: poller for key, poller in self.pollers.items() if poller.holds}
            for key, poller in held.items():
                await poller.restore(states.get(key))
            self._loading = [asyncio.get_running_loop().create_task(self._load(poller)) for poller in held.values()]
            if self._loading:  # few jobs are there at once; the API need not wait for a million
                await asyncio.wait(self._loading, timeout=LOAD_PATIENCE_SECONDS)
            for work in self._upkeep():
                self.scheduler.add_upkeep(work)
            self.scheduler.start()
        if "dispatcher" in self._roles:
            self._dispatching = asyncio.get_running_loop().create_task(self.dispatcher.run())
        if self._cluster is not None:
            await self._cluster.start()
        log.info("started", url=self.base_url, roles=list(self._roles), version=__version__)

    async def loaded(self) -> None:
        """Waits until all open jobs are planned."""
        await asyncio.gather(*self._loading, return_exceptions=True)

    async def _load(self, poller: Poller) -> None:
        while not self.stopping:
            try:
                await poller.agenda.load()
            except StoreError as error:
                log.error("jobs_not_loaded", error=str(error), hint="it is tried again")
                await asyncio.sleep(LOAD_AGAIN_SECONDS)
            else:
                return

    def begin_stop(self) -> asyncio.Future[Any]:
        """Ends streams and waits, claims nothing more, and gives what is in flight `server.shutdown_seconds`.

        The result is done when polls and deliveries have. Requests are still answered; `stop` does the rest.
        """
        if self._ending is None:
            self.stopping = True
            self.signals.wake_all()
            self.scheduler.stop()
            for loading in self._loading:
                loading.cancel()
            seconds = self.settings.server.shutdown_seconds
            self._ending = asyncio.gather(self.dispatcher.stop(seconds), self._stop_polling(seconds))
        return self._ending

    async def stop(self) -> None:
        """Stops the node: `begin_stop`, then the requests that are forwarded, then every connection."""
        await self.begin_stop()
        await self.dropin.stop(self.settings.server.shutdown_seconds)
        if self._dispatching is not None:
            await self._dispatching
        if self._cluster is not None:
            await self._cluster.stop()
        self.scheduler.shutdown()
        for client in self._clients.values():
            await client.close()
        for transport in self._transports.values():
            await transport.close()
        log.info("stopped")

    async def _stop_polling(self, seconds: float) -> None:
        """Another node may poll while deliveries still end here."""
        await asyncio.gather(*(poller.stop(seconds) for poller in self.pollers.values()))
        await self._keep_what_was_learned()
        if self._cluster is not None:
            await self._cluster.give_up()

    def cut_off(self) -> None:
        """Cancels what is in flight, so that `stop` need not wait for it."""
        self.dispatcher.cut_off()
        for poller in self.pollers.values():
            poller.cut_off()

    def reload(self, settings: Settings) -> None:
        """Takes over what SIGHUP may change: upstream keys, tokens, polling and delivery."""
        self._set_settings(settings)
        reconfigure(self._components, self.dispatcher, self.pollers)
        self._api = create_api(self._ports(), self._proxy)
        self.dispatcher.wake()
        self.scheduler.upkeep_now("probes")  # a key that was refused may be another one now

    # --- what the API asks (relay.api.ports.NodeState and Delivering)

    async def readiness(self) -> Readiness:
        """Whether the node can do its work, in sentences."""
        running = {"api": True, "scheduler": self.scheduler.running, "dispatcher": self._delivers()}
        roles = {role: running[role] for role in self._roles}
        return await readiness.readiness(self.store, self._probe, self.pollers, roles, self._clock())

    def metrics(self) -> bytes:
        """Prometheus' text format."""
        return readiness.measured(self.metrics_registry, self.store, self.pollers, self._clock())

    async def callback_secret(self) -> str:
        """The secret that signs what goes to callback URLs."""
        return self.settings.delivery.callback_secret or self._callback_secret

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
        root = definition.root(source.base_url)
        self._transports[source.name] = UpstreamTransport(root, clock=self._clock, node_id=self.node_id)
        statistics = PlannerStatistics(self._components.of_planner(source).unit_seconds)
        memory = SourceStatistics(source.name, statistics, rows=self.store.learned, clock=self._clock)
        self._memories[source.name] = memory
        self._statistics[source.name] = statistics
        for account in source.accounts.values():
            self._add_account(source, account)

    def _add_account(self, source: SourceSettings, account: AccountSettings) -> Poller:
        settings = self._components.of_account(source, account)
        recorder = Recorder(
            jobs=self.store.jobs,
            delivering=self.dispatcher,
            signals=self.signals,
            metrics=self.metrics_registry,
            clock=self._clock,
            hint=settings.hint,
            origin=settings.origin,
        )
        poller = Poller(
            settings,
            upstream=self._clients[source.name],
            jobs=self.store.jobs,
            accounts=self.store.accounts,
            recorder=recorder,
            signals=self.signals,
            wake=self.dispatcher.wake,
            metrics=self.metrics_registry,
            clock=self._clock,
            planner_config=self._components.of_planner(source),
            statistics=self._statistics[source.name],
            saved_plan=AccountPlan(
                source.name,
                account.name,
                shared=self._memories[source.name],
                plans=self.store.accounts,
                clock=self._clock,
                holder=self._holder if self.store.database.shared else None,
            ),
            polled=lambda job, result: self.dropin.reads.polled(job, result),
        )
        poller.holds = not self.store.database.shared  # else by a lease, which is still to be taken
        self.pollers[(source.name, account.name)] = poller
        if "scheduler" in self._roles:
            poller.changed = self.scheduler.add_account(source.name, account.name, poller)
        return poller

    async def _adopt(self, source: str, api_key: str) -> None:
        """Makes an account of a caller's key, which the upstream has taken."""
        place = (source, name_of(api_key))
        if place not in self.pollers:
            await self.store.accounts.adopt(*place, api_key)
            self._take_in({place: api_key})

    def _take_in(self, adopted: Adopted) -> None:
        new = {place: key for place, key in adopted.items() if place not in self.pollers}
        if new:
            self._adopted |= new
            self._set_settings(self.settings)
            for source, name in new:
                self._add_account(self.settings.sources[source], self.settings.sources[source].accounts[name])
                log.info("account_adopted", source=source, account=name)
            self._api = create_api(self._ports(), self._proxy)

    def _set_settings(self, settings: Settings) -> None:
        self.settings = with_adopted(settings, self._adopted)
        self._components = replace(self._components, settings=self.settings)

    def _proxy(self, context: ApiContext) -> Proxy:
        return Proxy(context, self.dropin)

    def _ports(self) -> Ports:
        api = self._components.of_api(self.node_id)
        return Ports(
            settings=api,
            clock=self._clock,
            store=self.store,
            tracking=self.tracking,
            signals=self.signals,
            dispatcher=self.dispatcher,
            node=self,
            kinds=api_kinds([origin.type_prefix for origin in api.origins.values()]),
            count_request=self._count_request,
        )

    def _upkeep(self) -> list[Upkeep]:
        works = timetable(
            store=self.store,
            pollers=self.pollers,
            memories=self._memories.values(),
            dispatcher=self.dispatcher,
            metrics=self.metrics_registry,
            clock=self._clock,
            retention=self.settings.retention,
            holder=self._holder,
        )
        works.append(
            Upkeep(name="creates", every_seconds=CREATES_SECONDS, at_once=True, run=self.dropin.unknown.announce)
        )
        if self.store.database.shared and self.dropin.adopts_keys:
            works.append(Upkeep(name="adopted", every_seconds=ADOPTED_SECONDS, run=self._find_adopted))
        return works

    async def _find_adopted(self) -> None:
        """Accounts that another node has adopted."""
        self._take_in(await adopted_accounts(self.store))

    async def _keep_what_was_learned(self) -> None:
        """While the accounts are still this node's. A database that does not take it must not keep the node."""
        if "scheduler" not in self._roles:
            return
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                await upkeep.learned(self._memories.values(), self.pollers.values())
        except Exception as error:
            log.warning("learned_not_kept", error=str(error) or type(error).__name__)

    def _delivers(self) -> bool:
        return self._dispatching is not None and not self._dispatching.done()

    def _count_request(self, method: str, status: int) -> None:
        known = method if method in METHODS else "other"  # a stranger's words make no new time series
        self._counter(known, f"{status // 100}xx").inc()

    def _told(self, event: Event) -> None:
        self._recorded(event)
        self.dispatcher.wake()

    def _recorded(self, event: Event) -> None:
        self.metrics_registry.events.labels(event.type).inc()
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
    auto_migrate: bool = False,
) -> AsyncIterator[Node]:
    """A started node; it is stopped, and the database let go, at the end.

    `base_url` is where it is reached (scheme, address and port that were bound). `auto_migrate` brings a PostgreSQL
    database to the newest schema; a SQLite file always is. Raises SettingsError, DatabaseHeld, SchemaTooOld,
    SchemaTooNew, StoreError.
    """
    directory = state_dir or default_state_dir(os.environ if environ is None else environ)
    if is_postgres(settings.database.url) and not settings.encryption.keys:
        raise SettingsError(NO_KEY)
    keyring = load_or_create_keyring(settings.encryption.keys, state_dir=directory)
    store = await open_store(
        settings.database.url,
        keyring,
        now=clock(),
        pool_size=settings.database.pool_size,
        auto_migrate=auto_migrate,
    )
    clock = store.clock(clock)
    try:
        callback_secret = await _stored_callback_secret(store, clock())
        # A key that is missing shows now, not when something is to be delivered.
        await store.subscriptions.all()
        await store.subscriptions.page(limit=1, callbacks=True)
        node_id = secrets.token_hex(8)
        async with Sender(guard_policy(settings), clock=clock, node=(NODE_HEADER, node_id)) as sender:
            adopted = await adopted_accounts(store)
            node = Node(
                settings,
                store=store,
                sender=sender,
                base_url=base_url,
                callback_secret=callback_secret,
                clock=clock,
                roles=roles,
                seed=seed,
                adopted=adopted,
                node_id=node_id,
            )
            await node.start()
            try:
                yield node
            finally:
                await node.stop()
    finally:
        await store.close()


async def adopted_accounts(store: Store) -> Adopted:
    """The accounts beside those of the settings."""
    return {(source, name): key for source, name, key in await store.accounts.adopted()}


async def _stored_callback_secret(store: Store, now: float) -> str:
    found = await store.subscriptions.secrets(CALLBACK_OWNER)
    if found:
        return found[0].value
    made = new_secret(secrets.token_bytes(32))
    await store.subscriptions.add_secret(CALLBACK_OWNER, made, now)
    return made
