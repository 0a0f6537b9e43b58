"""The stream of all events over PostgreSQL, whose transactions end in another order than they began."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from relay.api import stream
from relay.api.app import create_api
from relay.signals import Signals
from relay.store.store import Store, open_store
from tests.api_world import NOW, World, scope_of
from tests.store_databases import emptied_postgres
from tests.store_kit import ReversingCipher, relay_event

PATIENCE_SECONDS = 30.0


@pytest.fixture
def database_url() -> str:
    return emptied_postgres()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await open_store(database_url, ReversingCipher(), now=NOW)
    yield store
    await store.close()


@pytest.fixture
def world(store: Store) -> World:
    """With signals as a node has them."""
    world = World(store=store)
    world.signals = Signals()  # type: ignore[assignment]
    return world


class Client:
    """Reads a stream as it comes."""

    def __init__(self) -> None:
        self.ids: asyncio.Queue[str] = asyncio.Queue()
        self.connected = asyncio.Event()

    async def send(self, message) -> None:
        for line in message.get("body", b"").decode().splitlines():
            if line.startswith("id: "):
                self.ids.put_nowait(line.removeprefix("id: "))
            elif line.startswith(": connected"):
                self.connected.set()

    async def receive(self):
        await asyncio.Event().wait()

    async def next_id(self) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.ids.get()


@contextlib.asynccontextmanager
async def streaming(world: World, last_event_id: str | None = None) -> AsyncIterator[Client]:
    client = Client()
    headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode())]
    scope = scope_of("/v1/events/stream", headers=headers)
    task = asyncio.create_task(create_api(world.ports())(scope, client.receive, client.send))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await client.connected.wait()
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.wait([task])


async def record(world: World) -> str:
    """Records an event, as a node does. Returns its id."""
    event = relay_event()
    await world.store.events.record(event)
    world.signals.event_recorded()  # type: ignore[attr-defined]
    return event.id


async def test_the_newest_event_comes_when_the_transaction_that_hid_it_ends(world, database_url, monkeypatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 3_600.0)  # which reads again too
    connection = await asyncpg.connect(database_url)
    async with streaming(world) as client:
        first = await record(world)
        assert await client.next_id() == first
        foreign = connection.transaction()
        await foreign.start()
        await connection.fetch("SELECT pg_current_xact_id()")
        hidden = await record(world)  # and nothing is said of it later
        reads = world.store.events.tail
        read_hidden = asyncio.Event()

        async def reading(position: int, count: int):
            tail = await reads(position, count)
            if tail.hidden:
                read_hidden.set()
            return tail

        world.store.events.tail = reading
        async with asyncio.timeout(PATIENCE_SECONDS):
            await read_hidden.wait()
        assert client.ids.empty()
        await foreign.rollback()
        assert await client.next_id() == hidden
    await connection.close()


async def test_while_an_event_is_hidden_the_pauses_between_reads_grow_and_end(world, monkeypatch) -> None:
    pauses: list[float] = []
    until_signal = stream._Rest.until_signal

    def noted(self, timeout_seconds: float):
        pauses.append(timeout_seconds)
        return until_signal(self, 0.0)

    monkeypatch.setattr(stream._Rest, "until_signal", noted)
    tails = world.store.events.tail
    enough = asyncio.Event()

    async def hiding(position: int, count: int):
        tail = await tails(position, count)
        if len(pauses) < 8:
            return type(tail)(events=[], hidden=True)
        if len(pauses) > 9:
            enough.set()
            await asyncio.Event().wait()
        return tail

    world.store.events.tail = hiding
    async with streaming(world), asyncio.timeout(PATIENCE_SECONDS):
        await enough.wait()
    assert pauses[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert pauses[8:] == [stream.HEARTBEAT_SECONDS] * 2
