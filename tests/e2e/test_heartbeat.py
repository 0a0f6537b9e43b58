"""The heartbeat of a running relay, on real sockets."""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.core.values import TURN_SECONDS, WORK_SECONDS
from relay.http.sender import Sender
from relay.node import readiness
from relay.node.heartbeat import ANYWHERE, Heartbeat
from tests.support.e2e_world import World, open_e2e_world
from tests.support.peer import open_peer
from tests.support.process_world import Start, keep_token, processes
from tests.support.wire import answer

SECRET = "0f9d3c1e-secret-of-the-check"


class Monitor:
    """A monitoring service: the first lines of the requests that it got."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.url = ""
        self.pings: list[bytes] = []
        self._changed = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.pings.append(head)
        writer.write(answer(self.status, [("Connection", "close")], b"OK"))
        self._changed.set()
        await writer.drain()

    async def pinged(self) -> None:
        async with asyncio.timeout(300):
            await self._changed.wait()


@contextlib.asynccontextmanager
async def monitor(status: int = 200) -> AsyncIterator[Monitor]:
    made = Monitor(status)
    async with open_peer(made.take) as port:
        made.url = f"http://127.0.0.1:{port}/ping/{SECRET}?status=up"
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    keep_token(tmp_path)
    with processes(tmp_path) as begin:
        yield functools.partial(begin, REVOR_API_KEY="sk-revor-default", REVOR_BASE_URL="http://127.0.0.1:9")


async def test_idle_relay_pings_with_a_plain_get(start: Start) -> None:
    async with monitor() as service:
        relay = start("serve", "--port", "0", RELAY_HEARTBEAT__URL=service.url)
        await service.pinged()
        assert await asyncio.to_thread(relay.end) == 0
    (head,) = service.pings
    assert head.startswith(f"GET /ping/{SECRET}?status=up HTTP/1.1\r\n".encode())
    assert b"authorization" not in head.lower()
    assert SECRET not in "\n".join(relay.lines)


class Watched:
    """The heartbeat of a running node, with a clock that this test moves."""

    def __init__(self, world: World, service: Monitor, sender: Sender) -> None:
        node = world.node
        self.now = 0.0
        self._sender = sender
        self._heartbeat = Heartbeat(
            service.url,
            loops=node._progress,
            database_problem=lambda: readiness.database_problem(node.store, node._probe, node._clock()),
            clock=node._clock,
            steady=lambda: self.now,
        )

    async def after(self, seconds: float) -> bool:
        self.now += seconds
        return await self._heartbeat.run_once(self._sender)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path) as made:
        yield made


@pytest.fixture
async def watched(world: World) -> AsyncIterator[Watched]:
    async with monitor() as service, Sender(ANYWHERE, clock=world.node._clock) as sender:
        made = Watched(world, service, sender)
        assert await made.after(0)
        yield made


async def test_dead_dispatcher_ends_the_pings(world: World, watched: Watched) -> None:
    dispatching = world.node._dispatching
    assert dispatching is not None
    dispatching.cancel()
    await asyncio.wait([dispatching])
    world.node._dispatching = None
    await world.poller.run_once()
    await watched.after(0)
    await world.poller.run_once()
    assert not await watched.after(TURN_SECONDS + 1)


async def test_polls_that_never_end_end_the_pings(
    world: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(world.poller.account.upstream, "poll", hang)
    await world.job()
    await begun.wait()
    for _ in range(2):
        await world.poller.run_once()
        await world.node.dispatcher.run_once()
        pinged = await watched.after(WORK_SECONDS + 1)
    assert not pinged
    world.poller.cut_off()


async def test_database_that_takes_no_write_ends_the_pings(world: World, watched: Watched) -> None:
    (path,) = Path(world.settings.database.url.removeprefix("sqlite:///")).parent.glob("relay.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        world.node._probe._asked_at = None
        assert not await watched.after(1)
        other.execute("ROLLBACK")
    world.node._probe._asked_at = None
    assert await watched.after(1)
