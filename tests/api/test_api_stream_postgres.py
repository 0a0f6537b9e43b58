"""The stream of all events on PostgreSQL, where transactions commit in another order than they started."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count

import asyncpg
import pytest

from relay.api.app import create_api
from relay.api.http import stream
from relay.signals import Signals
from relay.store import events
from relay.store.store import Store, open_store
from tests.support.api_world import NOW, World, scope_of
from tests.support.postgres_server import PostgresServer, shared_server
from tests.support.store_databases import TEMPLATE, emptied_postgres, postgres_url
from tests.support.store_kit import ReversingCipher, relay_event

PATIENCE_SECONDS = 10.0
APART_SECONDS = 1_000.0
NOT_KEPT = "evt_01jvpq3m8n0000000000000003"
_numbers = count(1)


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
    """A world with the signals of a real node."""
    world = World(store=store)
    world.signals = Signals()  # type: ignore[assignment]
    return world


class Client:
    """Reads a stream incrementally."""

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

    async def next_ids(self, count: int) -> list[str]:
        """The next `count` events, and a check that no others arrived."""
        found = [await self.next_id() for _ in range(count)]
        assert self.ids.empty()
        return found


@contextlib.asynccontextmanager
async def streaming(world: World, last_event_id: str | None = None) -> AsyncIterator[Client]:
    client = Client()
    headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode())]
    scope = scope_of("/v1/events/stream", headers=headers)
    task = asyncio.create_task(create_api(world.dependencies(), world.proxy)(scope, client.receive, client.send))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await client.connected.wait()
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.wait([task])


async def record(world: World, nth: int = 0) -> str:
    """Records an event as a node does. Returns its id."""
    event = relay_event(now=NOW + nth * APART_SECONDS)
    await world.store.events.record(event)
    world.signals.event_recorded()  # type: ignore[attr-defined]
    return event.id


async def test_a_hidden_event_is_sent_when_the_transaction_that_hides_it_ends(world, database_url, monkeypatch) -> None:
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

        async def reading(position: int, count: int, max_bytes: int):
            tail = await reads(position, count, max_bytes)
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


# --- a dump that another server restores


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[PostgresServer]:
    """A new server, whose transaction ids start again."""
    postgres_url()  # makes the template that the tests copy, which no test can do in its loop
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["none of the events", "half of the events"])
async def restored(
    request: pytest.FixtureRequest, elsewhere: PostgresServer
) -> AsyncIterator[tuple[str, list[str], list[str]]]:
    """A database restored on another server, whose transaction counter is ahead of some events.

    Also returns the ids of its events as a stream sent them before, and in their current order."""
    here, name = shared_server(), f"restored_{next(_numbers)}"
    here.clone(TEMPLATE, name)
    url = here.url(name)
    count_up(here, await transaction_id(elsewhere.url()) + 5_000)
    async with opened(url) as world:
        sent = [await record(world, nth) for nth in range(6)]
        half = await transaction_id(url) + 1_000
        count_up(here, half + 1_000)
        sent += [await record(world, nth) for nth in range(6, 12)]
        late, early = await overlapping(url)
        sent += [early, late]
        async with streaming(world, NOT_KEPT) as client:
            assert await client.next_ids(14) == sent
    elsewhere.restore(here.dump(name), name)
    here.drop_database(name)
    if request.param == "half of the events":
        count_up(elsewhere, half)
    yield elsewhere.url(name), sent, [*sent[:-2], late, early]
    elsewhere.drop_database(name)


async def test_no_stream_misses_an_event_after_a_restore_on_another_server(
    restored: tuple[str, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAGE_COUNT", 4)
    monkeypatch.setattr(events, "RESET_AT_ONCE", 3)
    url, sent, now_ordered = restored
    async with opened(url) as world:
        async with streaming(world) as fresh:
            after = [await record(world, nth) for nth in range(20, 23)]
            assert await fresh.next_ids(3) == after
        for place, last in enumerate(sent):
            # One of the two that overlapped comes again: it is behind the other one now.
            expected = [*now_ordered[place + (place < 12) :], *after]
            async with streaming(world, last) as resumed:
                assert await resumed.next_ids(len(expected)) == expected, place
        for last, expected in ((NOT_KEPT, [*now_ordered, *after]), (after[0], after[1:])):
            async with streaming(world, last) as resumed:
                assert await resumed.next_ids(len(expected)) == expected


async def test_the_next_start_finishes_adopting_restored_events_after_a_crash(
    restored: tuple[str, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RESET_AT_ONCE", 3)
    url, _, now_ordered = restored
    reset, calls = events._reset_xids, []

    def killed(connection, items):
        calls.append(items)
        if len(calls) > 1:
            raise RuntimeError("the process is killed")
        return reset(connection, items)

    with monkeypatch.context() as patch:
        patch.setattr(events, "_reset_xids", killed)
        with pytest.raises(RuntimeError, match="killed"):
            await open_store(url, ReversingCipher(), now=NOW)
    async with opened(url) as one, opened(url), streaming(one, now_ordered[0]) as client:
        assert await client.next_ids(13) == now_ordered[1:]


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[World]:
    """A world on a store that is opened on this database."""
    store = await open_store(url, ReversingCipher(), now=NOW)
    try:
        world = World(store=store)
        world.signals = Signals()  # type: ignore[assignment]
        yield world
    finally:
        await store.close()


def count_up(server: PostgresServer, least: int) -> None:
    """Uses up the server's transaction ids up to this one."""
    server.execute(
        f"""
DO $$ BEGIN
  WHILE CAST(CAST(pg_current_xact_id() AS text) AS bigint) < {least} LOOP COMMIT; END LOOP;
END $$
"""
    )


async def transaction_id(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT CAST(pg_current_xact_id() AS text)"))
    finally:
        await connection.close()


async def overlapping(url: str) -> tuple[str, str]:
    """Two events of overlapping transactions: the first by position is the second in the stream."""
    insert = "INSERT INTO events (id, type, source, time, recorded_at, body) VALUES ($1, 'relay.test', '/', $2, $2, '')"
    ids = [relay_event().id for _ in range(2)]
    one, other = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        async with one.transaction():
            await one.fetch("SELECT pg_current_xact_id()")
            async with other.transaction():
                await other.execute(insert, ids[0], NOW + 12 * APART_SECONDS)
                await one.execute(insert, ids[1], NOW + 12 * APART_SECONDS)
    finally:
        await one.close()
        await other.close()
    return ids[0], ids[1]
