"""Detection of dead nodes by their leases: at once, and only if certain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.core.deliveries.replay import ReplayRequest
from relay.lease_owner import new_name
from relay.store.databases.lease_owners import BIND
from relay.store.databases.postgres_engine import connect, postgres_url
from relay.store.store import Store
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import NOW, claim, deliveries, lease, poll, result_of, subscription, track, until


@pytest.fixture
def database_url() -> str:
    """PostgreSQL only: no other database is shared by nodes."""
    return emptied_postgres()


@pytest.fixture
async def other(store: Store, open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A second node on the database of `store`."""
    return await open_again()


class Life:
    """A connection with a bound name."""

    def __init__(self, connection: Any, name: str) -> None:
        self.name = name
        self._connection = connection

    def end(self) -> None:
        self._connection.terminate()


@asynccontextmanager
async def bound(url: str) -> AsyncIterator[Life]:
    connection = await connect(postgres_url(url))
    try:
        yield Life(connection, await connection.fetchval(BIND, new_name()))
    finally:
        connection.terminate()


async def dead(store: Store) -> list[str]:
    """The names that hold leases and whose nodes have died."""
    return await store.holders.dead(await store.holders.bound())


async def found_dead(store: Store, *names: str) -> None:
    """Waits until the server has seen the connections end."""
    async with asyncio.timeout(30):
        while sorted(await dead(store)) != sorted(names):  # noqa: ASYNC110 - the database sends no notification
            await asyncio.sleep(0.002)


async def hold_everything(store: Store, name: str) -> None:
    """An account, a replay and a delivery."""
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued"))
    assert await store.accounts.hold("revor", "default", name, NOW, NOW + 10)
    await store.replays.create(
        ReplayRequest(id="rpl_1", subscription_id="sub_1", since=0, until=NOW + 1, now=NOW, only="all")
    )
    assert await store.replays.due(name, NOW) == ["rpl_1"]
    await store.replays.advance("rpl_1", name, NOW)
    assert len(await claim(store, "sub_1", lease=lease(token=f"{name}.7"))) == 1


async def taken(store: Store) -> tuple[int, bool]:
    """What another node can take at present: the number of deliveries, and whether it gets the account."""
    return len(await claim(store, "sub_1")), await store.accounts.hold("revor", "default", "other", NOW, NOW + 10)


async def test_leases_of_a_dead_node_are_released_at_once_and_not_before(
    store: Store, other: Store, database_url: str
) -> None:
    async with bound(database_url) as life:
        await hold_everything(store, life.name)
        assert await dead(other) == []
        assert await taken(other) == (0, False)
        life.end()
        await found_dead(other, life.name)
    assert await other.holders.release([life.name], NOW) == 3
    assert await dead(other) == []
    assert await taken(other) == (1, True)
    assert (await deliveries(other))[0]["attempt_count"] == 0


async def test_two_nodes_that_check_at_once_both_find_the_dead_one(
    store: Store, other: Store, database_url: str
) -> None:
    async with bound(database_url) as life:
        await hold_everything(store, life.name)
    await found_dead(store, life.name)
    for _ in range(50):
        answers = await asyncio.gather(*(dead(node) for node in (store, other) for _ in range(3)))
        assert answers == [[life.name]] * 6


async def test_lease_committed_after_a_nodes_death_is_released_next_time(store: Store, database_url: str) -> None:
    async with bound(database_url) as life:
        await hold_everything(store, life.name)
    await found_dead(store, life.name)
    await store.holders.release([life.name], NOW)
    late = lease("sub_1", token=f"{life.name}.8")
    await store.jobs.record(poll(await track(store, "late"), 0, "queued", lease=late))
    assert await dead(store) == [life.name]
    assert await store.holders.release([life.name], NOW) == 1
    assert len(await claim(store, "sub_1")) == 2


async def test_dead_node_records_no_result_for_a_released_delivery(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued"))
    (one,) = await claim(store, "sub_1", lease=lease(token="dead.1"))
    assert await store.holders.release(["dead"], NOW) == 1
    (again,) = await claim(store, "sub_1")
    assert [(await store.deliveries.record(result_of(claimed)))[0].kept for claimed in (one, again)] == [
        False,
        True,
    ]


async def test_stopping_node_releases_its_accounts_and_replays_but_no_delivery(store: Store) -> None:
    await hold_everything(store, "one")
    await store.holders.release_accounts(["one"])
    assert await store.replays.due("other", NOW) == []  # nothing to do, and no node holds it
    assert await taken(store) == (0, True)


# --- names


class Reported:
    """What a node hears while it listens."""

    def __init__(self, store: Store) -> None:
        self.names: list[str | None] = []
        self.heard: list[str] = []
        self._task = asyncio.ensure_future(store.database.listen(self.heard.append, self.names.append))

    async def listening(self) -> None:
        await until(lambda: "all" in self.heard)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_listening_node_has_a_bound_name_until_its_connection_ends(store: Store, other: Store) -> None:
    reported = Reported(store)
    await reported.listening()
    (name,) = reported.names
    assert name is not None
    assert await other.holders.dead([name]) == []
    assert await store.accounts.hold("revor", "default", name, NOW, NOW + 10)
    assert await dead(other) == []
    await reported.end()
    assert reported.names == [name, None]
    await found_dead(other, name)


async def test_node_notices_at_once_that_the_server_ended_its_listening_connection(store: Store, other: Store) -> None:
    reported = Reported(store)
    await reported.listening()
    await other.database.read(terminate_listeners)
    await until(lambda: reported.names[1:] == [None])
    await reported.end()
    assert reported.names[1:] == [None]


def terminate_listeners(connection: Any) -> None:
    connection.exec_driver_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).all()


async def test_node_behind_a_pooler_has_no_bound_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler reports a process id of its own, and its connection to the server outlives ours."""
    import asyncpg

    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda self: 0)
    reported = Reported(store)
    await reported.listening()
    await reported.end()
    assert reported.names == []
