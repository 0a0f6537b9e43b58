"""Pipedrive with `unmatched: create`: events about one person, of several jobs, statuses and subscriptions, on two
nodes at the same time, create this person once. On both databases, and whatever step a node is killed at."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Delivery, OutboundRequest, Response
from relay.core.deliveries.ledger import SETTLE_SECONDS
from relay.core.jobs.job import Recipient
from relay.delivery.dispatcher import Dispatcher
from relay.lease_owner import LeaseOwner
from relay.store.deliveries.deliveries import DeliveryStore
from relay.store.deliveries.memories import MemoryStore
from relay.store.store import Store
from relay.testing import FakeClock
from subscribers.pipedrive import Pipedrive
from tests.store.test_ledger_crashes import Killed, kill_at
from tests.support.delivery_kit import only, parts_of, shared
from tests.support.store_kit import NOW, poll, rows, subscription, track
from tests.vendors import pipedrive as vendor

SINK = f"https://{vendor.HOST}"
EMAIL = "new@example.com"
LEASE_SECONDS = 120.0
"""More than that of an attempt with a time-out of 30 s."""


class Company:
    """The stand-in as a transport of several nodes. `killed`: the node that sends this request for the first time dies
    before it is carried out, or after."""

    def __init__(self, clock: FakeClock) -> None:
        self.pipedrive = vendor.Pipedrive(clock)
        self.pipedrive.burst = self.pipedrive.search_burst = 100_000
        self.pipedrive.add_person("Jane Doe", "jane@example.com")
        self.killed: dict[str, str] = {}
        self.answers: dict[str, asyncio.Event] = {}

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        name = f"{request.method} {request.url.removeprefix(SINK).partition('?')[0]}"
        await asyncio.sleep(0)  # another node may be first
        when = self.killed.pop(name, "")
        if when == "before":
            raise Killed
        response = self.pipedrive.take(request)
        if when == "after":
            raise Killed
        if name in self.answers:
            await self.answers[name].wait()
        await asyncio.sleep(0)
        return response

    @property
    def created(self) -> list[Mapping[str, Any]]:
        return [one for one in self.pipedrive.persons if one["name"] == EMAIL]


class World:
    """Two nodes with one database."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock(NOW)
        self.company = Company(self.clock)
        self.recipients: dict[str, Recipient] = {}
        self.nodes = [self.node("a"), self.node("b")]

    def node(self, name: str) -> Dispatcher:
        async def recipient(job_uid: str) -> Recipient | None:
            return self.recipients[job_uid]

        return Dispatcher(
            shared(
                parts_of(self.store, jobs=SimpleNamespace(recipient=recipient)),
                self.clock,
                self.company,
                kinds=only(Pipedrive()),
                holder=LeaseOwner(name),
            )
        )

    async def subscribe(self, id: str) -> None:
        fields = {"credentialtype": "ACCESSTOKEN", "accesstoken": vendor.TOKEN}
        credential = SinkCredential(id=f"crd_{id}", origin=origin_text(SINK), fields=fields)
        made = subscription(id, sink=SINK, kind="pipedrive", created_at=NOW, options={"unmatched": "create"})
        await self.store.subscriptions.create(replace(made, credential=credential))

    async def event(self, job: str, *statuses: str, about: str = EMAIL) -> None:
        uid = await track(self.store, job)
        self.recipients[uid] = Recipient(address=about)
        await self.store.jobs.record(poll(uid, 0, *statuses))

    async def scan(self) -> None:
        for node in self.nodes:
            await node.run_once()
        for node in self.nodes:
            await node.drain()

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.scan()
            self.clock.advance(1.0)

    async def restart(self, database_url: str) -> None:
        """Both nodes have died and start again. What they held is free at once for a SQLite file, else with its
        lease."""
        if database_url.startswith("sqlite"):
            await self.store.recover_from_crash(self.clock())
        else:
            self.clock.advance(LEASE_SECONDS)
        self.nodes = [self.node("c"), self.node("d")]

    async def deliveries(self) -> list[Delivery]:
        return list((await self.store.deliveries.page(limit=100)).items)


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    world = World(store)
    for id in ("sub_1", "sub_2"):
        await world.subscribe(id)
    yield world
    for held in world.company.answers.values():
        held.set()
    for node in world.nodes:
        await node.drain()


async def assert_one_person(world: World, count: int) -> None:
    found = await world.deliveries()
    assert [(one.state, one.reason) for one in found if one.state != "delivered"] == []
    assert len(found) == count
    assert len(world.company.created) == 1
    person = world.company.created[0]["id"]
    assert [one["person_id"] for one in world.company.pipedrive.notes] == [person] * count
    assert EMAIL not in str(await rows(world.store, "SELECT key, data FROM sink_memories"))
    assert await rows(world.store, "SELECT 1 AS held FROM sink_memories WHERE token IS NOT NULL") == []


async def test_four_jobs_of_one_person_on_two_nodes_create_that_person_once(world: World) -> None:
    world.company.pipedrive.index_seconds = 1e9
    for nth in range(4):
        await world.event(f"job {nth}", "running", "failed")
    await world.run(60)
    await assert_one_person(world, 16)
    attempts = await rows(world.store, "SELECT count(*) AS n FROM attempts")
    assert attempts[0]["n"] == 16, "waiting for the turn is no attempt"


KILLS: Mapping[str, Callable[[World, pytest.MonkeyPatch], Any]] = {
    "before the intent is stored": lambda _, patch: kill_at(patch, MemoryStore, "keep", after=False),
    "once the intent is stored": lambda _, patch: kill_at(patch, MemoryStore, "keep", after=True),
    "before the person is created": lambda world, _: world.company.killed.update({"POST /api/v2/persons": "before"}),
    "before the answer": lambda world, _: world.company.killed.update({"POST /api/v2/persons": "after"}),
    "before the note": lambda world, _: world.company.killed.update({"POST /v1/notes": "before"}),
    "after the note": lambda world, _: world.company.killed.update({"POST /v1/notes": "after"}),
    "before it is recorded": lambda _, patch: kill_at(patch, DeliveryStore, "record", after=False),
    "once it is recorded": lambda _, patch: kill_at(patch, DeliveryStore, "record", after=True),
    "in the search": lambda world, _: world.company.killed.update({"GET /api/v2/persons/search": "after"}),
    "once it has the turn": lambda _, patch: kill_at(patch, MemoryStore, "take", after=True),
}


@pytest.mark.parametrize("where", KILLS)
async def test_node_that_dies_creates_no_second_person(
    world: World, where: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.company.pipedrive.index_seconds = 1e9
    for nth in range(4):
        await world.event(f"job {nth}", "running", "failed")
    KILLS[where](world, monkeypatch)
    await world.scan()
    assert not world.company.killed
    await world.restart(database_url)
    await world.run(30)
    world.clock.advance(SETTLE_SECONDS)
    await world.run(30)
    await assert_one_person(world, 16)


async def test_delivery_that_waits_for_the_turn_holds_no_slot_and_no_other_up(world: World) -> None:
    held = world.company.answers["POST /api/v2/persons"] = asyncio.Event()
    await world.event("job 1", "failed")
    first, second = world.nodes
    await first.run_once()
    for _ in range(1000):
        if world.company.created:
            break
        await asyncio.sleep(0.001)
    for _ in range(3):
        await second.run_once()
        await second.drain()
        world.clock.advance(1.0)
    assert [(one.state, one.attempt_count) for one in await world.deliveries()] == [("pending", 0)] * 2
    await world.event("other", "failed", about="jane@example.com")
    for _ in range(3):
        await second.run_once()
        await second.drain()
        world.clock.advance(1.0)
    assert [one["person_id"] for one in world.company.pipedrive.notes] == [1, 1]
    held.set()
    await world.run(10)
    assert [one.state for one in await world.deliveries()] == ["delivered"] * 4
    assert len(world.company.created) == 1
