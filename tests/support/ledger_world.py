"""Two nodes that write notes to a CRM in virtual time, while everything that can happen to a write happens to it.

Requests, answers and the writes of the nodes wait until the walk lets them go on. A node that is killed loses what it
has in memory; what it has sent arrives. The machine's clock is set back; time-outs and leases have clocks of their own.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Protocol

import orjson
import pytest

from relay.config.keyring import Keyring, new_key
from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.deliveries.replay import Only, ReplayRequest
from relay.core.events.event import Event
from relay.core.records import Resolution
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.shared import DeliverySettings
from relay.errors import RelayError
from relay.ids import new_id
from relay.lease_owner import LeaseOwner
from relay.node import upkeep
from relay.store.store import Store
from subscribers.base import Kind
from subscribers.common import crm as crm_kinds
from subscribers.hubspot import HubSpot
from subscribers.pipedrive import Pipedrive
from tests.subscribers.slack.test_dialogue import job
from tests.support.delivery_kit import only, parts_of, shared
from tests.support.hubspot_account import SINK, prepare
from tests.support.store_databases import open_file
from tests.support.store_kit import poll, track
from tests.vendors import hubspot as hubspot_vendor
from tests.vendors import pipedrive as pipedrive_vendor

START = 1_800_000_000.0
TIMEOUT_SECONDS = 15.0
LATEST_SECONDS = 100.0
"""A CRM may carry out a request so long after it was sent, although nobody waits for the answer any more."""
SKEW_SECONDS = 50_000.0
"""The machine's clock may be so wrong: somebody took local time for UTC."""
SCHEDULE = (5.0, 30.0, 60.0, 300.0)
KILLED_SECONDS = 10.0


class Crm(Protocol):
    """The CRM: `take` carries a request out, `count` is the number of records of an event."""

    kind: Kind
    sinks: tuple[str, ...]
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]

    def take(self, request: OutboundRequest) -> Response: ...

    def count(self, event: Event, subscription: Subscription) -> int: ...


class PipedriveCompanies:
    """Two companies, whose deals have the same ids."""

    def __init__(
        self, clock: Callable[[], float], *, metadata: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self.kind: Kind = Pipedrive()
        self.options = options
        self.companies = {host: pipedrive_vendor.Pipedrive(clock) for host in ("acme", "globex")}
        self.sinks = tuple(f"https://{host}.pipedrive.com" for host in self.companies)
        for company in self.companies.values():
            company.burst = company.search_burst = 1_000_000
            company.add_person("Jane Doe", "jane@example.com")
            company.add_deal("Deal", person_id=1)
        self.metadata = {"deal_id": 2} if metadata is None else metadata
        self.token = pipedrive_vendor.TOKEN

    def take(self, request: OutboundRequest) -> Response:
        host = request.url.removeprefix("https://").partition(".")[0]
        return self.companies[host].take(request)

    def count(self, event: Event, subscription: Subscription) -> int:
        key = crm_kinds.key_of(event, subscription)
        kept = [one for company in self.companies.values() for one in (*company.notes, *company.activities)]
        return sum(key in str(one.get("content") or one.get("note")) for one in kept)


class HubSpotAccount:
    """One account. Not `keyed`: it has no property for our key, which is then in the text only."""

    sinks = (SINK,)
    token = hubspot_vendor.TOKEN
    options: Mapping[str, Any] = MappingProxyType({"record": "note"})

    def __init__(self, clock: Callable[[], float], *, keyed: bool = True) -> None:
        self.kind: Kind = HubSpot()
        self.account = hubspot_vendor.HubSpot(burst=1_000_000, clock=clock, now=clock)
        prepare(self.account, keyed=keyed)
        self.metadata = {"contact_id": self.account.add("contacts", email="jane@example.com")}

    def take(self, request: OutboundRequest) -> Response:
        return self.account.take(request)

    def count(self, event: Event, subscription: Subscription) -> int:
        key = crm_kinds.key_of(event, subscription)
        return sum(key in one.properties["hs_note_body"] for one in self.account.records["notes"].values())


@dataclass(kw_only=True, eq=False)
class Flight:
    """A request on its way. `arrives_at`: the CRM carries it out then; None: never. `ends_at`: the relay has an
    answer then, which is `answer`, or that of the CRM."""

    request: OutboundRequest
    future: asyncio.Future[Response]
    arrives_at: float | None
    ends_at: float
    answer: Response | None
    taken: Response | None = None


@dataclass(kw_only=True, eq=False)
class Frozen:
    """A step of a node that does not go on until a time."""

    future: asyncio.Future[None]
    until: float


class Node:
    """One node. What it knows ends with `kill`; it is then a new one, with another name."""

    def __init__(self, world: "LedgerWorld") -> None:
        self.world = world
        self.blocked = 0
        self.frozen: list[Frozen] = []
        self.start()

    def start(self) -> None:
        store, world = self.world.store, self.world
        parts = parts_of(
            store, deliveries=_Delivering(store.deliveries, self), memories=_Remembering(store.memories, self)
        )
        self.dispatcher = Dispatcher(
            shared(
                parts,
                world.wall,
                self,
                lease_clock=world.real,
                settings=DeliverySettings(jitter=0.2, timeout_seconds=TIMEOUT_SECONDS, disable_after_seconds=1e9),
                kinds=only(world.crm.kind),
                holder=LeaseOwner(new_id("node", world.real())),
                random=random.Random(world.random.randrange(1_000_000)),
            )
        )

    async def scan(self) -> None:
        """Claims and starts what is due."""
        await self.dispatcher.run_once()
        await self.quiet()

    async def quiet(self) -> None:
        """Waits until each of its tasks has ended or waits for the walk."""
        for _ in range(10_000):
            if len(self.dispatcher._tasks) <= self.blocked:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("a task neither ends nor waits for the walk")

    async def kill(self) -> None:
        """What it has sent stays on its way; what it has not written is gone."""
        self.dispatcher.cut_off()
        await self.dispatcher.drain()
        self.frozen.clear()
        self.blocked = 0
        self.start()

    async def step(self) -> None:
        """The node may freeze here for a while, or be killed."""
        seconds = self.world.frozen_seconds()
        if not seconds:
            return
        one = Frozen(future=asyncio.get_running_loop().create_future(), until=self.world.real() + seconds)
        self.frozen.append(one)
        await self._block(one.future)

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        flight = self.world.fly(request, timeout_seconds)
        if flight.future.done():
            return flight.future.result()
        return await self._block(flight.future)

    async def _block(self, future: asyncio.Future[Any]) -> Any:
        self.blocked += 1
        try:
            return await future
        finally:
            self.blocked -= 1


class _Remembering:
    """The memories of the store, with steps before and after what is remembered is written."""

    def __init__(self, memories: Any, node: Node) -> None:
        self._memories, self._node = memories, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memories, name)

    async def keep(self, *arguments: Any) -> bool:
        await self._node.step()
        kept: bool = await self._memories.keep(*arguments)
        await self._node.step()
        return kept


class _Delivering:
    """The deliveries of the store, with steps before and after an attempt is recorded."""

    def __init__(self, deliveries: Any, node: Node) -> None:
        self._deliveries, self._node = deliveries, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deliveries, name)

    async def record(self, *results: Any) -> Any:
        await self._node.step()
        recorded = await self._deliveries.record(*results)
        await self._node.step()
        return recorded


@dataclass(kw_only=True, eq=False)
class LedgerWorld:
    """The database, the CRM, two nodes and the flights between them."""

    store: Store
    random: random.Random
    make: Callable[[Callable[[], float]], Any]
    now: float = START
    offset: float = 0.0
    calm: bool = False
    flights: list[Flight] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.offset = self.random.choice((0.0, 0.0, SKEW_SECONDS, -SKEW_SECONDS))
        self.crm: Any = self.make(self.real)
        self.nodes = [Node(self), Node(self)]

    def real(self) -> float:
        """Time that only goes forward: of time-outs, leases and the CRM."""
        return self.now

    def wall(self) -> float:
        """The clock of the machine."""
        return self.now + self.offset

    # --- what the network does

    def frozen_seconds(self) -> float:
        luck = self.random.random()
        return 0.0 if self.calm or luck > 0.12 else self.random.choice((1.0, 10.0, 40.0, 80.0, 200.0))

    def fly(self, request: OutboundRequest, timeout_seconds: float) -> Flight:
        """A request leaves. Its fate is drawn."""
        fate, answer = self._fate(request)
        self.happened[fate] += 1
        soon = self.random.uniform(0.0, 5.0)
        arrives: float | None = self.now + soon
        ends, most = self.now + soon + self.random.uniform(0.0, 3.0), self.now + timeout_seconds
        if fate == "late":
            arrives, ends = self.now + self.random.uniform(timeout_seconds, LATEST_SECONDS - TIMEOUT_SECONDS), most
        if fate in ("never", "refused") or fate.startswith("only"):
            arrives = None
        if fate == "timeout":
            ends = most
        if ends >= most or fate in ("late", "timeout"):
            ends, answer = most, _error("timeout", self.wall())
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        flight = Flight(request=request, future=future, arrives_at=arrives, ends_at=ends, answer=answer)
        if fate == "at once":
            flight.taken = self.crm.take(request)
            future.set_result(self._seen(flight))
        else:
            self.flights.append(flight)
        self.log.append(f"{self.now - START:.0f} {request.method} {request.url[-40:]} {fate}")
        return flight

    def _fate(self, request: OutboundRequest) -> tuple[str, Response | None]:
        is_write, now = request.method == "POST", self.wall()
        if self.calm or (not is_write and self.random.random() < 0.7):
            return "at once", None
        body = b"<html>Bad gateway</html>"
        fates: list[tuple[int, str, Response | None]] = [
            (1, "at once", None),
            (2, "slow", None),
            (3, "timeout", None),
            (3, "lost", _error("read", now)),
            (2, "late", None),
            (2, "never", _error("read", now)),
            (2, "5xx", _status(502, now, body)),
            (1, "only 5xx", _status(503, now, body)),
            (1, "refused", _error("connect", now)),
            (1, "login page", _status(200, now, body)),
            (1, "only login page", _status(200, now, body)),
            (1, "only limit", _status(429, now, b"{}")),
            (1, "only html 403", _status(403, now, body)),
        ]
        _, fate, answer = self.random.choices(fates, [weight for weight, *_ in fates])[0]
        return fate, answer

    def _seen(self, flight: Flight) -> Response:
        answer = flight.answer or flight.taken
        assert answer is not None
        return replace(answer, started_at=self.wall())

    async def advance(self, seconds: float) -> None:
        """Lets time pass, and what is due in it happen."""
        until = self.now + seconds
        while True:
            times = [flight.arrives_at for flight in self.flights if flight.arrives_at is not None and not flight.taken]
            times += [flight.ends_at for flight in self.flights if not flight.future.done()]
            times += [one.until for node in self.nodes for one in node.frozen]
            at = min((time for time in times if time <= until), default=None)
            self.now = until if at is None else max(self.now, at)
            await self._happen()
            if at is None:
                return

    async def _happen(self) -> None:
        for flight in list(self.flights):
            if flight.arrives_at is not None and flight.arrives_at <= self.now and flight.taken is None:
                flight.taken = self.crm.take(flight.request)
            if flight.ends_at <= self.now and not flight.future.done():
                flight.future.set_result(self._seen(flight))
            if flight.future.done() and (flight.arrives_at is None or flight.taken is not None):
                self.flights.remove(flight)
        for node in self.nodes:
            for one in list(node.frozen):
                if one.until <= self.now:
                    node.frozen.remove(one)
                    if not one.future.done():
                        one.future.set_result(None)
        for node in self.nodes:
            await node.quiet()

    # --- what people and machines do

    async def subscribe(self) -> Subscription:
        sink = self.crm.sinks[0]
        fields = {"credentialtype": "ACCESSTOKEN", "accesstoken": self.crm.token}
        made = Subscription(
            id="sub_1",
            sink=sink,
            kind=self.crm.kind.name,
            types=tuple(f"ai.revor.job.{kind}" for kind in ("succeeded", "failed")),
            credential=SinkCredential(id="crd_1", origin=origin_text(sink), fields=fields),
            options=self.crm.options,
            retry_schedule_seconds=SCHEDULE,
            rate_per_second=100.0,
            created_at=self.wall(),
        )
        return await self.store.subscriptions.create(made)

    async def event(self) -> None:
        """Another event of one of three jobs."""
        name = f"job {self.random.randrange(3)}"
        uid = await track(self.store, name)
        sequence = self.jobs[name] = self.jobs.get(name, 0) + 1
        base = job("succeeded", 1)
        document = base.document()
        document["data"]["metadata"] = dict(self.crm.metadata)
        made = replace(
            base,
            id=new_id("evt", self.real()),
            type="ai.revor.job.succeeded",
            job_uid=uid,
            sequence=sequence,
            recorded_at=self.wall(),
            body=orjson.dumps(document),
        )
        await self.store.jobs.record(poll(uid, sequence - 1, events=[made], now=self.wall()))
        self.events.append(made)

    async def deliveries(self) -> dict[str, Any]:
        page = await self.store.deliveries.page(limit=500)
        return {one.event_id: one for one in page.items if one.subscription_id == "sub_1"}

    async def retry_one(self) -> None:
        """A person retries a delivery."""
        found = list((await self.deliveries()).values())
        if found:
            with contextlib.suppress(RelayError):
                await self.store.deliveries.retry(self.random.choice(found).id, self.wall())

    async def settle_one(self) -> None:
        """A person looks up in the CRM what came of an uncertain record, once nothing is on its way, and says so."""
        found = [one for one in (await self.deliveries()).values() if one.state == "uncertain"]
        if not found or any(flight.arrives_at is not None and flight.taken is None for flight in self.flights):
            return
        chosen = self.random.choice(found)
        subscription = await self.store.subscriptions.get("sub_1")
        assert subscription is not None
        event = next(one for one in self.events if one.id == chosen.event_id)
        fate: Resolution = "sent" if self.crm.count(event, subscription) else "not_sent"
        self.happened[f"settled {fate}"] += 1
        with contextlib.suppress(RelayError):
            await self.store.deliveries.settle(chosen.id, fate, self.wall())

    async def replay(self, only: Only) -> None:
        """A person replays what was sent so far."""
        request = ReplayRequest(
            id=new_id("rpl", self.real()),
            subscription_id="sub_1",
            since=0.0,
            until=2 * START,
            now=self.wall(),
            only=only,
        )
        with contextlib.suppress(RelayError):
            await self.store.replays.create(request)
        await self.advance_replays()

    async def advance_replays(self) -> None:
        await upkeep.replays(shared(self.store, self.wall, holder=LeaseOwner("replayer")))

    async def move(self, sink: str) -> None:
        """The subscription gets another portal."""
        before = await self.store.subscriptions.get("sub_1")
        assert before is not None
        assert before.credential is not None
        credential = replace(before.credential, origin=origin_text(sink))
        await self.store.subscriptions.replace(replace(before, sink=sink, credential=credential), self.wall())

    async def set_state(self, state: str) -> None:
        with contextlib.suppress(RelayError):
            await self.store.subscriptions.set_state("sub_1", state, self.wall())

    async def calm_down(self) -> None:
        """Nothing goes wrong any more: everything pending ends."""
        self.calm = True
        await self.move(self.crm.sinks[0])
        for _ in range(400):
            await self.set_state("enabled")
            await self.advance_replays()
            await self.advance(300.0)
            for node in self.nodes:
                await node.scan()
            states = {one.state for one in (await self.deliveries()).values()}
            if "pending" not in states and not self.flights:
                return
        raise AssertionError(f"it does not end: {[(d.state, d.reason) for d in (await self.deliveries()).values()]}")


def _error(error: str, now: float) -> Response:
    return Response(started_at=now, duration_ms=1.0, error=error, late=error == "timeout")


def _status(status: int, now: float, body: bytes) -> Response:
    headers = (("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "2")) if status == 429 else ()
    return Response(started_at=now, duration_ms=1.0, status_code=status, headers=headers, excerpt=body)


@asynccontextmanager
async def open_ledger_world(
    folder: Path, seed: str, make: Callable[[Callable[[], float]], Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LedgerWorld]:
    """A world with a database of its own."""
    folder.mkdir()
    store = await open_file(folder / "relay.db", Keyring([new_key()]), now=START)
    world = LedgerWorld(store=store, random=random.Random(seed), make=make)
    loop = SimpleNamespace(time=world.real)
    monkeypatch.setattr("relay.delivery.dialogues.asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    try:
        yield world
    finally:
        for node in world.nodes:
            await node.kill()
        await store.close()
