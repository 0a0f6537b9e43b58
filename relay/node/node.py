"""The composition root: the only module that knows every component.

`Node.__init__` wires them; `start`, `begin_stop` and `stop` run them. `opening.py` opens what a node needs.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import __version__
from relay.api.access.callers import Access
from relay.api.app import create_api
from relay.api.http.dependencies import ApiDependencies, Readiness
from relay.api.http.limits import Admission
from relay.api.http.operations import Context
from relay.api.jobs.group_finish import GroupForecasts
from relay.bus.publishers import Publishers
from relay.clock import Clock, wall_clock
from relay.config.fields import is_header_text
from relay.config.settings import Settings, effective_settings
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import SigningSecret
from relay.core.values import EffectiveSetting, Progress
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.pulls import Pulls
from relay.delivery.shared import Shared
from relay.errors import RelayError, StoreError
from relay.http.host_check import HostCheck
from relay.http.sender import Sender
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.node import readiness, upkeep
from relay.node.accounts import Accounts, adopted_accounts
from relay.node.audit import AuditLog
from relay.node.cluster import Cluster
from relay.node.component_settings import ComponentSettings
from relay.node.declared import log_differing
from relay.node.definitions import with_base_urls
from relay.node.encryption_keys import EncryptionKeys
from relay.node.figures import FLUSH_SECONDS, Figures
from relay.node.heartbeat import Heartbeat
from relay.node.scheduler import Scheduler, Upkeep
from relay.node.token_watch import TokenWatch
from relay.polling.poller import Poller
from relay.polling.tracking import Tracking
from relay.proxy.asgi import Proxy
from relay.proxy.gateway import Gateway
from relay.proxy.types import Adopted, name_of, with_adopted
from relay.signals import Signals
from relay.sources.definition import SourceDefinition
from relay.store.databases.probe import WriteProbe
from relay.store.store import Store
from relay.tasks import Tasks
from relay.tracing import Tracing

ROLES = ("api", "scheduler", "dispatcher")
SAVE_SECONDS = 5.0
LOAD_RETRY_SECONDS = 1.0
REPLAY_SECONDS = 1.0

log = structlog.get_logger("relay.node")


PUBLISHED = "published"
"""The type that published events are counted under."""


class Node:
    """One running relay, and its ASGI application. Use `relay.node.opening.open_node`."""

    def __init__(
        self,
        settings: Settings,
        *,
        definitions: Mapping[str, SourceDefinition],
        store: Store,
        sender: Sender,
        publishers: Publishers,
        base_url: str,
        keys: EncryptionKeys,
        clock: Clock = wall_clock,
        roles: tuple[str, ...] = ROLES,
        seed: int = 0,
        adopted: Adopted,
        node_id: str,
        audit: AuditLog,
        tracing: Tracing | None = None,
    ) -> None:
        """`definitions`: by source. `keys` are those that the store encrypts with; `adopted` are the accounts in the
        database."""
        self.settings = settings = with_base_urls(with_adopted(settings, adopted), definitions)
        self.base_url = (settings.server.public_url or base_url).rstrip("/")
        self.store = store
        self.node_id = node_id
        self.audit = audit
        self.stopping = False
        self._clock = clock
        self._roles = roles
        self._adopted = dict(adopted)
        self.keys = keys
        self._reloads = Tasks()
        self._publishers = publishers
        self._tracing = tracing
        self._hosts = HostCheck(None if sender.policy.by_proxy else sender.resolver, clock)
        self._dispatching: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._loading: list[asyncio.Task[None]] = []
        self._beating: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

        # Shared by the components.
        self._components = ComponentSettings(
            settings=settings, base_url=self.base_url, definitions=definitions, seed=seed
        )
        self.metrics_registry = Metrics()
        self.signals = Signals()
        self._holder = LeaseOwner()
        self._admission = Admission()
        self._forecasts = GroupForecasts(store.group_work, store.learned, clock)
        self._probe = WriteProbe(store.database)
        store.outbox.incidents.base_url = self.base_url
        store.outbox.on_made = self._from_writer(self._on_made)
        store.group_ledger.configure(
            settle_seconds=settings.groups.settle_seconds,
            base_url=self.base_url,
            explain=self._components.explained,
            finished=self._from_writer(self._on_groups_finished),
        )

        # Deliveries.
        delivery = Shared(
            store=store,
            settings=self._components.of_dispatcher(),
            transport=sender,
            publish=publishers.publish,
            clock=clock,
            lease_clock=store.database.lease_clock(clock),
            metrics=self.metrics_registry,
            signals=self.signals,
            holder=self._holder,
            tracing=tracing,
        )
        self.dispatcher = Dispatcher(delivery)
        self.pulls = Pulls(delivery)

        # Polling.
        self.scheduler = Scheduler(clock)
        self._accounts = Accounts(
            store=store,
            dispatcher=self.dispatcher,
            scheduler=self.scheduler if "scheduler" in roles else None,
            signals=self.signals,
            metrics=self.metrics_registry,
            clock=clock,
            holder=self._holder,
            node_id=node_id,
            sender=sender,
            polled=lambda job, result: self.dropin.reads.polled(job, result),
            tracing=tracing,
        )
        for source in settings.sources.values():
            self._accounts.add_source(source, self._components)
        self.pollers = self._accounts.pollers
        self.tracking = Tracking(
            store=store,
            pollers=self.pollers,
            definitions=definitions,
            signals=self.signals,
            clock=clock,
            on_untracked=lambda job: self.dropin.reads.answers.drop(job.key),
            callback_limits=self._components.of_tracking(),
        )

        # Access of callers.
        self.access = Access(clock=clock, trusted_proxies=settings.server.trusted_proxies)
        self.access.configure(self._components.of_api(node_id).tokens)
        self._tokens = TokenWatch(store.tokens, self.access, signals=self.signals)

        # The proxy and the API.
        self.dropin = Gateway(
            store=store,
            pollers=self.pollers,
            definitions=definitions,
            transports=self._accounts.transports,
            clients=self._accounts.clients,
            tracking=self.tracking,
            access=self.access,
            signals=self.signals,
            metrics=self.metrics_registry,
            stopping=lambda: self.stopping,
            clock=clock,
            recorded=self._on_proxy_recorded,
            dataschema_base=self.base_url,
            adopt=self._adopt if settings.proxy.adopt_unknown_keys else None,
            capture=self._components.of_capture(),
            tracing=tracing,
        )
        self._make_api()

        self._figures = Figures(store.figures, self.metrics_registry.figures, self.pollers, clock)

        # Other nodes on the same database.
        self._cluster: Cluster | None = None
        if store.database.shared:
            self._cluster = Cluster(
                store=store,
                pollers=self.pollers,
                signals=self.signals,
                answers=self.dropin.reads.answers,
                clock=clock,
                holder=self._holder,
                polls="scheduler" in roles,
                tokens=self._tokens,
            )

        self.heartbeat: Heartbeat | None = None
        if settings.heartbeat.url is not None:
            self.heartbeat = Heartbeat(
                settings.heartbeat.url,
                loops=self._progress,
                database_problem=lambda: readiness.database_problem(self.store, self._probe, self._clock()),
                clock=clock,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request with the current API, which a reload replaces."""
        await self._api(scope, receive, send)

    # --- start and stop

    async def start(self) -> None:
        """Starts delivering, then polling. The open jobs are loaded meanwhile: see `loaded`."""
        self._loop = loop = asyncio.get_running_loop()
        await self._tokens.refresh()
        self._watching = loop.create_task(self._tokens.run())
        for (source, account), poller in self.pollers.items():
            if poller.key is None:
                hint = f"nothing is polled until {readiness.setting_of_key(source, account)} is set"
                log.warning("no_upstream_key", source=source, account=account, hint=hint)
        await self.audit.record("node.start", actor="relay", version=__version__, roles=list(self._roles))
        if self._cluster is not None:
            await self._cluster.introduce()
        held: list[Poller] = []
        if "scheduler" in self._roles:
            states = {(state.source, state.name): state for state in await self.store.accounts.all()}
            for key, poller in self.pollers.items():
                if poller.account.holds:
                    await poller.restore(states.get(key))
                    held.append(poller)
        if "dispatcher" in self._roles:  # before the jobs are read: what is due has waited since the last process ended
            self._dispatching = loop.create_task(self.dispatcher.run())
        if "scheduler" in self._roles:
            self._loading = [loop.create_task(self._load(poller)) for poller in held]
            self._loading.append(loop.create_task(self._tell_unpolled()))
            for work in self._upkeep():
                self.scheduler.add_upkeep(work)
        self.scheduler.add_upkeep(Upkeep("audit", 15.0, self.audit.run_once))
        self.scheduler.add_upkeep(Upkeep("brokers", 15.0, self._publishers.close_idle))
        self.scheduler.add_upkeep(Upkeep("figures", FLUSH_SECONDS, self._figures.run_once, at_once=True))
        self.scheduler.start()
        if self._cluster is not None:
            await self._cluster.start()
        if self.heartbeat is not None:
            self._beating = loop.create_task(self.heartbeat.run())
        log.info("started", url=self.base_url, roles=list(self._roles), version=__version__)

    async def _load(self, poller: Poller) -> None:
        while not self.stopping:
            try:
                await poller.agenda.load()
            except StoreError as error:
                log.error("jobs_not_loaded", error=str(error), hint="the relay tries again")
                await asyncio.sleep(LOAD_RETRY_SECONDS)
            else:
                return

    async def _tell_unpolled(self) -> None:
        """Logs the accounts with open jobs that the settings no longer have."""
        counts: dict[tuple[str, str], int] = {}
        with suppress(StoreError):  # the tasks that load the jobs say it
            counts = await self.store.jobs.open_counts()
        for (source, account), count in counts.items():
            if (source, account) not in self.pollers:
                hint = "its jobs are shown and not polled: add it to the settings again, or untrack them"
                log.warning("account_missing", source=source, account=account, open_jobs=count, hint=hint)

    async def loaded(self) -> None:
        """Waits until all open jobs are planned."""
        await asyncio.gather(*self._loading, return_exceptions=True)
        if self._cluster is not None:
            await self._cluster.taken()

    def begin_stop(self) -> asyncio.Future[Any]:
        """Ends streams and waits, stops claiming, and gives what is in flight `server.shutdown_seconds`.

        The result is done when all polls and deliveries are. Requests are still answered, so accounts stay with this
        node; `stop` does the rest.
        """
        if self._ending is None:
            self.stopping = True
            if self._beating is not None:
                self._beating.cancel()
            self.signals.wake_all()
            self.scheduler.stop()
            for loading in self._loading:
                loading.cancel()
            if self._cluster is not None:
                self._cluster.stop_taking()
            seconds = self.settings.server.shutdown_seconds
            self._ending = asyncio.gather(self.dispatcher.stop(seconds), *self._stopped_pollers(seconds))
        return self._ending

    async def stop(self) -> None:
        """Stops the node: `begin_stop`, then what the last requests started, then every connection."""
        await self.begin_stop()
        seconds = self.settings.server.shutdown_seconds
        # A claim or a record that committed since may have left deliveries to release.
        await asyncio.gather(self.dispatcher.stop(seconds), self._stop_polling(seconds))
        await self.dropin.stop(seconds)
        if self._dispatching is not None:
            await self._dispatching
        await self._publishers.close()
        if self._cluster is not None:
            await self._cluster.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            await self._tokens.close()
        await self._reloads.finish(seconds)
        if self._beating is not None:
            await asyncio.wait([self._beating])
        self.scheduler.shutdown()
        await self._accounts.close()
        await _save("figures_not_kept", self._figures.flush())
        await _save("audit_not_ended", self._end_audit())
        if self._tracing is not None:
            await self._tracing.close(seconds)
        log.info("stopped")

    async def _end_audit(self) -> None:
        await self.audit.flush(everything=True)
        await self.audit.record("node.stop", actor="relay")
        await self.audit.log_head()

    async def _stop_polling(self, seconds: float) -> None:
        """Releases the accounts to other nodes, while deliveries may still be in flight here."""
        await asyncio.gather(*self._stopped_pollers(seconds))
        if "scheduler" in self._roles:
            await _save("learned_not_kept", self.save_statistics())
        if self._cluster is not None:
            await self._cluster.give_up()

    async def save_statistics(self) -> None:
        """Writes down what polls have taught. It also happens by itself, every minute."""
        await upkeep.save_statistics(self._accounts.statistics.values(), self.pollers)

    def _stopped_pollers(self, seconds: float) -> list[Coroutine[Any, Any, None]]:
        return [poller.stop(seconds) for poller in self.pollers.values()]

    def cut_off(self) -> None:
        """Cancels what is in flight, so that `stop` need not wait for it."""
        self.dispatcher.cut_off()
        for poller in self.pollers.values():
            poller.cut_off()

    # --- changes while it runs

    def reload(self, settings: Settings) -> None:
        """Applies the settings that SIGHUP can change: upstream and encryption keys, tokens, polling and delivery."""
        self._reloads.start(self._reload_keys(settings.encryption.keys))
        self._set_settings(settings)
        if self.access.configure(self._components.of_api(self.node_id).tokens):
            self.signals.wake_all()  # what waits under a token that is gone ends
        self.dispatcher.configure(self._components.of_dispatcher())
        for source in self.settings.sources.values():
            for account in source.accounts.values():
                poller = self.pollers.get((source.name, account.name))
                if poller is not None:
                    one = self._components.of_account(source, account)
                    poller.configure(one, self._components.of_planner(source))
        self.tracking.configure(self._components.of_tracking())
        self.dropin.creates.capture = self._components.of_capture()
        self._make_api()
        self.signals.deliveries_due()
        self.scheduler.upkeep_now("probes")  # a refused key may have been replaced

    async def _reload_keys(self, keys: Sequence[str]) -> None:
        try:
            await self.keys.reload(keys)
        except RelayError as error:
            log.error("encryption_keys_refused", error=str(error), hint="the previous keys stay in use")
        else:
            self.store.subscriptions.changed()  # some of them can perhaps be decrypted now
            self.signals.deliveries_due()

    async def _adopt(self, source: str, api_key: str) -> None:
        """Adds an account for a caller's key that the upstream has accepted."""
        place = (source, name_of(api_key))
        if place not in self.pollers:
            async with self.audit.writing("accounts.adopt", actor="relay", target="/".join(place)):
                await self.store.accounts.adopt(*place, api_key)
            self._add_adopted({place: api_key})

    async def _find_adopted(self) -> None:
        """Adds the accounts that other nodes have adopted."""
        self._add_adopted(await adopted_accounts(self.store))

    def _add_adopted(self, adopted: Adopted) -> None:
        new = {place: key for place, key in adopted.items() if place not in self.pollers and is_header_text(key)}
        if new:
            self._adopted |= new
            self._set_settings(self.settings)
            for source, name in new:
                settings = self.settings.sources[source]
                self._accounts.add(settings, settings.accounts[name], self._components)
                log.info("account_adopted", source=source, account=name)
            self._make_api()

    def _set_settings(self, settings: Settings) -> None:
        self.settings = with_base_urls(with_adopted(settings, self._adopted), self._components.definitions)
        self._components = replace(self._components, settings=self.settings)

    # --- for the API (relay.api.http.dependencies)

    async def readiness(self) -> Readiness:
        """Readiness of the node."""
        delivers = self._dispatching is not None and not self._dispatching.done()
        running = {"api": True, "scheduler": self.scheduler.running, "dispatcher": delivers}
        roles = {role: running[role] for role in self._roles}
        return await readiness.readiness(
            self.store,
            self._probe,
            self.pollers,
            roles,
            self._clock(),
            undecryptable=self.dispatcher.undecryptable.values(),
        )

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return readiness.measured(self.metrics_registry, self.store, self.pollers, self.dispatcher.slots, self._clock())

    def effective_settings(self) -> list[EffectiveSetting]:
        """The settings in force, without secrets, and without adopted accounts: the database has these."""
        adopted = tuple(f"sources.{source}.accounts.{name}." for source, name in self._adopted)
        return [one for one in effective_settings(self.settings) if not one.key.startswith(adopted)]

    async def tokens_changed(self) -> None:
        """Takes over a change of the tokens in the database."""
        await self._tokens.changed()

    async def callback_secret(self) -> str:
        """The secret that signs requests to callback URLs."""
        await self.dispatcher.signer.refresh()
        return self.dispatcher.signer.callback_secrets[0].value

    async def signing_keys(self) -> tuple[SigningSecret, ...]:
        """The private keys of `v1a` signatures, the newest first, with those that have just expired."""
        await self.dispatcher.signer.refresh()
        return self.dispatcher.signer.keys

    # --- wiring

    def _make_api(self) -> None:
        pages = self._dashboard if self.settings.web.enabled else None
        self._api = create_api(self._dependencies(), partial(Proxy, gateway=self.dropin), pages)

    def _dashboard(self, context: Context, api: ASGIApp) -> ASGIApp:
        """The dashboard. The first request for one of its pages makes it, in a thread: its modules, texts and templates
        take a third of a second."""
        components, lock = self._components, asyncio.Lock()
        web: ASGIApp | None = None

        def make() -> ASGIApp:
            from relay.web.app import create_web

            return create_web(context, api, components.of_web())

        async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal web
            async with lock:
                if web is None:
                    web = await asyncio.to_thread(make)
            await web(scope, receive, send)

        return dashboard

    async def compare_declared(self) -> None:
        """Logs how many of the declared subscriptions differ. They are applied by `relay apply` only."""
        await log_differing(self.settings, Context(dependencies=self._dependencies()))

    def _dependencies(self) -> ApiDependencies:
        api = self._components.of_api(self.node_id)
        return ApiDependencies(
            settings=api,
            access=self.access,
            clock=self._clock,
            store=self.store,
            tracking=self.tracking,
            signals=self.signals,
            dispatcher=self.dispatcher,
            pulls=self.pulls,
            node=self,
            audit=self.audit,
            forecasts=self._forecasts,
            dial=self._publishers.dial,
            unresolved=self._hosts.unresolved,
            count_request=self.metrics_registry.count_request,
            published=self._on_published,
            admission=self._admission,
            tracing=self._tracing,
        )

    def _upkeep(self) -> list[Upkeep]:
        """All upkeep of this node."""
        store, pollers, clock, signals = self.store, self.pollers, self._clock, self.signals
        delete = upkeep.Retention(store.upkeep, self.metrics_registry, clock, self.settings.retention)
        orphans = upkeep.Orphans(store.upkeep, clock, signals)
        works = [
            Upkeep("retention", 60.0, delete.run_once),
            Upkeep("orphans", 60.0, orphans.run_once),
            Upkeep("deadlines", 5.0, partial(upkeep.deadlines, store.jobs, pollers, clock)),
            Upkeep("groups", 5.0, partial(upkeep.finish_groups, store.groups, clock)),
            Upkeep("probes", 30.0, partial(upkeep.probes, pollers), at_once=True),
            Upkeep("statistics", 60.0, self.save_statistics),
            Upkeep("replays", REPLAY_SECONDS, partial(upkeep.replays, self.dispatcher.shared), at_once=True),
            Upkeep("measure", 60.0, partial(upkeep.measure, store, self.metrics_registry, clock), at_once=True),
            Upkeep("past events", 60.0, partial(upkeep.past_events, store.subscriptions, signals), at_once=True),
            # Leases of programs that do not pull again.
            Upkeep("pulls", 10.0, partial(upkeep.end_leases, self.pulls, store.subscriptions)),
            Upkeep("incidents", 10.0, partial(upkeep.incidents, store.incidents, clock)),
            Upkeep("stalls", 10.0, partial(upkeep.log_stalls, pollers, clock)),
            # Creates with an unknown outcome, for example after a crash.
            Upkeep("creates", 5.0, self.dropin.unknown.announce, at_once=True),
        ]
        if store.database.shared and self.dropin.adopts_keys:
            works.append(Upkeep("adopted", 5.0, self._find_adopted))
        return works

    def _progress(self) -> dict[str, Progress]:
        """The loops that this node's roles run."""
        loops: dict[str, Progress] = {}
        if "scheduler" in self._roles:
            loops |= {f"the poller of {source}/{name}": one.progress() for (source, name), one in self.pollers.items()}
        if "dispatcher" in self._roles:
            loops["the dispatcher"] = self.dispatcher.progress()
        return loops

    def _on_published(self, count: int) -> None:
        # their types are others' own, and may be many
        self.metrics_registry.count_published(PUBLISHED, count, self._clock())
        self.signals.event_recorded()
        self.signals.deliveries_due()

    def _on_groups_finished(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.signals.signal(id)

    def _on_made(self, events: Sequence[Event]) -> None:
        for event in events:
            self._on_proxy_recorded(event)

    def _from_writer(self, call: Callable[[Sequence[Any]], None]) -> Callable[[Sequence[Any]], None]:
        """The call, in the node's loop: a commit may end in the writer's thread. Nothing once the loop is closed."""

        def soon(found: Sequence[Any]) -> None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(call, found)

        return soon

    def _on_proxy_recorded(self, event: Event) -> None:
        self.metrics_registry.count_event(event)
        self.signals.event_recorded()
        self.signals.deliveries_due()


async def _save(failed: str, work: Coroutine[Any, Any, None]) -> None:
    """Saves something at a stop, for a limited time: the database must not delay it. `failed`: the log's event."""
    try:
        async with asyncio.timeout(SAVE_SECONDS):
            await work
    except Exception as error:
        log.warning(failed, error=str(error) or type(error).__name__)
