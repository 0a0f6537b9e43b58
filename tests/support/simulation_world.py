"""A small relay on a real database with a fake clock, upstream and sink, for the simulation tests."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from relay.config.keyring import Keyring, new_key
from relay.core.deliveries.delivery import Delivery
from relay.core.events.event import Hint, Origin, PointsAt
from relay.core.jobs.job import Observation, Priority, Problem, Recipient
from relay.core.planner import PlannerConfig
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.ids import new_id
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.polling.account import AccountSettings, PolledAccount
from relay.polling.account_watch import AccountWatch
from relay.polling.poller import Poller
from relay.polling.statistics import AccountPlan, SourceStatistics
from relay.signals import Signals
from relay.sources.definition import load_definition
from relay.store.store import Store
from relay.testing import FakeClock, RecordingSink, ScriptedPoll, ScriptedSource
from subscribers.registry import kinds
from tests.support.compiled import share_compiled_statements
from tests.support.delivery_kit import SETTINGS, shared
from tests.support.fake_broker import FakeBroker
from tests.support.store_databases import open_file
from tests.support.store_kit import registration

share_compiled_statements()

REVOR = load_definition("revor")
SECRET = "whsec_" + "c2VjcmV0" * 4
ORIGIN = Origin(
    source="https://upstream.test/jobs",
    type_prefix="test.job",
    dataschema="https://relay.test/schemas/job-status.v1.json",
)


class NoStatistics:
    """Learns nothing."""

    def unsaved_rows(self) -> list[tuple[str, float, str]]:
        """Never anything."""
        return []

    def load_row(self, name: str, values: str) -> None:
        """Ignored."""


class World:
    """The components of one account."""

    def __init__(
        self,
        store: Store,
        clock: FakeClock,
        sink: RecordingSink,
        key: str | None = "key",
        *,
        source: Any = None,
        jobs: Any = None,
    ) -> None:
        """`source` and `jobs` replace the scripted upstream and the poller's jobs."""
        self.store, self.clock, self.sink = store, clock, sink
        self.polled = copy(store)
        self.polled.jobs = jobs or store.jobs
        self.broker = FakeBroker(clock)
        self.steady = FakeClock(0.0)
        self.key = key
        self.source = source or ScriptedSource(clock)
        self.signals = Signals()
        self.metrics = Metrics()
        self.holder = LeaseOwner("node")
        self.dispatcher = self._new_dispatcher()
        self.statistics: Any = NoStatistics()
        self.resource = REVOR.resource
        """The kind of its jobs."""
        self.poller = self._new_poller()

    def _new_poller(self) -> Poller:
        definition: Any = SimpleNamespace(hint_for=_hint, connect_accounts=None, resource_of=lambda _: self.resource)
        settings = AccountSettings(
            source="revor",
            account="default",
            definition=definition,
            origin=ORIGIN,
            dataschema_base="https://relay.test",
            deadline_seconds=3600.0,
            read_key=lambda: self.key,
        )
        account = PolledAccount(
            settings=settings,
            planner_config=PlannerConfig(max_requests_per_second=1000.0),
            upstream=self.source,
            store=self.polled,
            dispatcher=self.dispatcher,
            signals=self.signals,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.memory = SourceStatistics("revor", self.statistics, rows=self.store.learned, clock=self.clock)
        plan = AccountPlan("revor", "default", shared=self.memory, plans=self.store.accounts, clock=self.clock)
        return Poller(account, saved_plan=plan, steady=self.steady)

    def _new_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            shared(
                self.store,
                self.clock,
                self.sink,
                settings=replace(SETTINGS, callback_secrets=(SigningSecret(value=SECRET),)),
                publish=self.broker.publish,
                kinds=kinds(),
                metrics=self.metrics,
                signals=self.signals,
                holder=self.holder,
            )
        )

    async def restart(self) -> None:
        """Replaces poller and dispatcher, as a crash does."""
        self.dispatcher = self._new_dispatcher()
        await self.restart_poller()

    async def restart_poller(self, away_seconds: float = 0.0, statistics: Any = None) -> None:
        """Replaces the poller, as a crash does."""
        self.clock.advance(away_seconds)
        self.statistics = statistics or NoStatistics()
        self.poller = self._new_poller()
        states = await self.store.accounts.all()
        await self.poller.load(states[0] if states else None)

    def watch_accounts(
        self,
        poller: Poller | None = None,
        interval_seconds: float = 300.0,
        limiter: asyncio.Semaphore | None = None,
    ) -> AccountWatch:
        """Lets a poller watch the connect accounts too."""
        poller = poller or self.poller
        account = poller.account
        account.settings = replace(account.settings, listing_interval_seconds=interval_seconds)
        account.listings = limiter or asyncio.Semaphore()
        account.watch = AccountWatch(account, poller.agenda)
        return account.watch

    def another_poller(self) -> Poller:
        """The poller of another node on the same database, without the lease."""
        poller = self._new_poller()
        poller.account.holds = False
        return poller

    async def subscribe(self, **settings: Any) -> Subscription:
        now = self.clock()
        values = {"id": new_id("sub", now), "sink": "https://sink.test/", "created_at": now, **settings}
        return await self.store.subscriptions.create(Subscription(secrets=(SigningSecret(value=SECRET),), **values))

    async def register(
        self, external_id: str, *polls: ScriptedPoll, callback: str | None = None, priority: Priority | None = None
    ) -> str:
        now = self.clock()
        if polls:
            self.source.script(external_id, *polls)
        registered = await self.store.jobs.register(
            registration(
                external_id,
                tracked_at=now,
                deadline_seconds=3600.0,
                callback_subscription_id=callback,
                priority=priority,
            )
        )
        self.poller.track((registered.job,))
        return registered.job.uid

    async def step(self, seconds: float = 1.0) -> None:
        """Advances the clock, and polls, records and delivers what is due."""
        self.clock.advance(seconds)
        await self.poller.run_once()
        await self.poller.drain()
        await self.deliver()

    async def deliver(self) -> None:
        """Attempts every due delivery."""
        while await self.dispatcher.run_once() == 0 or self.dispatcher._tasks:
            await self.dispatcher.drain()

    async def run(self, steps: int, seconds: float = 1.0) -> None:
        for _ in range(steps):
            await self.step(seconds)

    async def types(self) -> list[str]:
        """Each event type, oldest first, without the prefix of the source."""
        return [
            event.type.removeprefix("test.job.").removeprefix("test.")
            for _, event in (await self.store.events.tail(0)).events
        ]


async def end_job(
    world: World, name: str, status: str = "failed", *, recipient: Recipient | None = None, **metadata: Any
) -> None:
    """A job that is registered, and ends at once."""
    now = world.clock()
    world.source.script(name, seen(status))
    made = registration(name, tracked_at=now, deadline_seconds=3600.0, metadata=metadata, recipient=recipient)
    registered = await world.store.jobs.register(made)
    world.poller.track((registered.job,))
    await world.step()


async def deliveries_of(world: World, subscription: Subscription) -> list[Delivery]:
    """The deliveries of a subscription, the oldest first, with their attempts."""
    rows = [
        one for one in (await world.store.deliveries.page(limit=50)).items if one.subscription_id == subscription.id
    ]
    found = [await world.store.deliveries.get(row.id) for row in sorted(rows, key=lambda row: row.created_at)]
    return [one for one in found if one is not None]


@contextmanager
def crashing(world: World, step: str) -> Iterator[None]:
    """Cuts each delivery off at a step, as a crash does: `before_send`, `after_send` or `after_mark`."""
    deliveries = world.store.deliveries
    real_send, real_record = world.sink.send, deliveries.record

    async def send(request: Any, *, timeout_seconds: float) -> Any:
        if step == "before_send":
            raise RuntimeError("crash")
        answer = await real_send(request, timeout_seconds=timeout_seconds)
        if step == "after_send":
            raise RuntimeError("crash")
        return answer

    async def record(*results: Any) -> Any:
        done = await real_record(*results)
        if step == "after_mark":
            raise RuntimeError("crash")
        return done

    world.sink.send = send  # type: ignore[method-assign]
    deliveries.record = record  # type: ignore[method-assign]
    try:
        yield
    finally:
        world.sink.send = real_send  # type: ignore[method-assign]
        deliveries.record = real_record  # type: ignore[method-assign]


def seen(status: str, **values: Any) -> ScriptedPoll:
    """An observed poll with this status."""
    observation = Observation(status=status, observed_at=0.0, upstream={"status": status, **_plain(values)}, **values)
    return ScriptedPoll(observation=observation)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, Problem)}


def _hint(problem: Problem | None, kind: str, *, channel: str | None = None) -> Hint | None:
    if problem is None:
        return None
    points_at: PointsAt | None = "connect_account" if problem.code == "reconnect" else None
    return Hint(meaning=problem.code, fix="Wait", who="Revor", repeat="safe", points_at=points_at)


@asynccontextmanager
async def open_world(folder: Path, *status_codes: int, key: str | None = "key") -> AsyncIterator[World]:
    clock = FakeClock()
    store = await open_file(folder / "relay.db", Keyring([new_key()]), now=clock())
    try:
        yield World(store, clock, RecordingSink(clock, *status_codes), key)
    finally:
        await store.close()
