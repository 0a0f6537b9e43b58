"""Nodes that share a PostgreSQL database: one polls each account, all answer and deliver, and any may die."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import time_machine

from relay.api.http import stream
from relay.api.jobs import waiting
from relay.clock import to_rfc3339
from relay.delivery import pulls, shared
from relay.node import cluster
from relay.proxy import reads
from relay.store.databases import postgres
from relay.store.schema import migrations
from tests.support.dropin_requests import JOBS
from tests.support.e2e_world import KEY, World, open_beside, open_e2e_world
from tests.support.postgres_server import PostgresServer
from tests.support.scale import combined
from tests.support.schema_check import check_event

LONG = {"attempt_failures": 0, "start_delay_seconds": 60, "run_seconds": 60, "in_lane": False}
ENDLESS = {**LONG, "run_seconds": 36_000}
PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this file's own, since it is stopped and started."""
    with PostgresServer() as server:
        server.create_database("relay_cluster_template")
        migrations.upgrade(server.url("relay_cluster_template"))
        yield server


@pytest.fixture
def database_url(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"cluster_{abs(hash(request.node.name))}"
    server.clone("relay_cluster_template", name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(autouse=True)
async def _quick(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(cluster, "LEASE_SECONDS", 2.0)  # a busy machine may renew it a second late
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "SCAN_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "UNHEARD_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "RECONCILE_SECONDS", 0.2)
    async with asyncio.timeout(300):
        yield


@pytest.fixture
async def first(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path, database_url=database_url) as world:
        yield world
        for request in world.received.get("/events", ()):
            check_event(request.body)


async def until(true: Callable[[], bool | Awaitable[bool]]) -> None:
    """Asks again and again: what is waited for happens on another node."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)


def ended(world: World, *job_ids: str) -> Callable[[], bool]:
    return lambda: all("succeeded" in world.kinds(job_id) for job_id in job_ids)


def once_and_in_order(world: World, *job_ids: str) -> None:
    for job_id in job_ids:
        events = [request.event for request in world.received["/events"] if request.event["subject"] == job_id]
        assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
        assert world.kinds(job_id)[-1] == "succeeded"


async def all_in_order(world: World, *job_ids: str, asked: World) -> None:
    """As `once_and_in_order`, after the death of a node: what it was sending may have arrived, and is sent again."""
    for job_id in job_ids:
        recorded = await events_of(asked, job_id)
        assert [int(event["sequence"]) for event in recorded] == list(range(1, len(recorded) + 1))
        arrived = [request.event["id"] for request in world.received["/events"] if request.event["subject"] == job_id]
        assert list(dict.fromkeys(arrived)) == [event["id"] for event in recorded]
        assert world.kinds(job_id)[-1] == "succeeded"


async def execute(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def test_one_node_polls_an_account_and_both_register_answer_and_deliver(first: World) -> None:
    async with open_beside(first) as second:
        assert (first.poller.account.holds, second.poller.account.holds) == (True, False)
        await second.subscribe()
        jobs = [await world.job() for world in (first, second) for _ in range(5)]
        await until(ended(first, *jobs))
        once_and_in_order(first, *jobs)
        assert second.poller.poll_handler.last_completed_at is None
        for world in (first, second):
            assert {(await world.shown(job_id))["outcome"] for job_id in jobs} == {"succeeded"}
            assert (await world.api.get("/readyz")).status_code == 200


async def test_waiter_on_one_node_sees_what_another_polled(first: World) -> None:
    async with open_beside(first) as second:
        job_id = await first.job(**LONG)
        asking = asyncio.ensure_future(second.api.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}))
        answer = await asking
        assert (answer.json()["status"], answer.json()["open"]) == ("succeeded", False)


async def test_account_moves_to_another_node_when_its_own_stops(first: World) -> None:
    await first.subscribe()
    async with open_beside(first) as second:
        async with open_beside(first) as third:
            job_id = await third.job(**LONG)
            await first.node._cluster.stop()  # type: ignore[union-attr]
            first.poller.release()
            await until(lambda: second.poller.account.holds or third.poller.account.holds)
        await until(lambda: second.poller.account.holds)
        await until(ended(first, job_id))
        await all_in_order(first, job_id, asked=second)


async def dies(world: World, *, connected: bool = False) -> None:
    """It renews no more and gives nothing up, like a process that was killed; `connected`: as one that hangs, or whose
    network is cut, since the server knows nothing of that."""
    node, cluster_of_it = world.node, world.node._cluster
    assert cluster_of_it is not None
    cluster_of_it._ends = True  # it does not notice either
    node.scheduler.stop()
    for poller in node.pollers.values():
        poller.cut_off()
        poller.account.holds = False
    node.dispatcher.slots.closed = True
    node.dispatcher.cut_off()
    listening, *others = cluster_of_it._tasks
    tasks = [*others, cluster_of_it._renewal, *(() if connected else (listening,))]
    for task in tasks:
        task.cancel()  # type: ignore[union-attr]
    await asyncio.gather(*tasks, return_exceptions=True)  # type: ignore[arg-type]


@pytest.fixture
def _long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """None runs out in a test."""
    monkeypatch.setattr(cluster, "LEASE_SECONDS", 600.0)
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(shared, "LEASE_MARGIN_SECONDS", 600.0)


@contextlib.asynccontextmanager
async def never_two_pollers(*worlds: World) -> AsyncIterator[None]:
    """Checks at each turn of the loop."""
    over = False

    async def watch() -> None:
        while not over:
            assert sum(world.poller.account.holds for world in worlds) <= 1
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        over = True
        await watching


@pytest.mark.usefixtures("_long_leases")
async def test_account_of_a_dead_node_is_polled_by_another_at_once(first: World) -> None:
    await first.subscribe()
    async with open_beside(first) as second, never_two_pollers(first, second):
        job_id = await second.job(**LONG)
        await dies(first)
        await until(lambda: second.poller.account.holds)
        await until(ended(first, job_id))
        await all_in_order(first, job_id, asked=second)


@pytest.mark.usefixtures("_long_leases")
async def test_deliveries_of_a_dead_node_are_sent_by_another_at_once(
    first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first.subscribe()
    sending = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> Any:
        sending.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(first.node.dispatcher.shared.transport, "send", hang)
    async with open_beside(first) as second:
        monkeypatch.setattr(second.node.dispatcher.slots, "closed", True)  # the first one is to have it
        job_id = await first.job()
        await sending.wait()
        monkeypatch.setattr(second.node.dispatcher.slots, "closed", False)
        second.node._dispatching = asyncio.ensure_future(second.node.dispatcher.run())
        await dies(first)
        await until(ended(first, job_id))
        await all_in_order(first, job_id, asked=second)


@pytest.mark.usefixtures("_long_leases")
async def test_hanging_node_keeps_its_account_until_its_lease_expires(first: World, database_url: str) -> None:
    """Also one that is cut off: only the server knows the state of its connection."""
    async with open_beside(first) as second:
        await dies(first, connected=True)
        other = second.node._cluster
        assert other is not None
        for _ in range(20):
            await other.release_dead()
            await other.renew()
            assert not second.poller.account.holds
        await execute(database_url, "UPDATE accounts SET held_until = 0")
        await until(lambda: second.poller.account.holds)
        await close_listening(first)


async def close_listening(world: World) -> None:
    """What `dies` has left."""
    listening = world.node._cluster._tasks[0]  # type: ignore[union-attr]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.usefixtures("_long_leases")
async def test_behind_a_pooler_a_dead_node_s_lease_must_expire(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda self: 0)  # a pooler says one of its own
    async with open_e2e_world(tmp_path, database_url=database_url) as first, open_beside(first) as second:
        await dies(first)
        other = second.node._cluster
        assert other is not None
        for _ in range(20):
            await other.release_dead()
            await other.renew()
            assert not second.poller.account.holds
        await execute(database_url, "UPDATE accounts SET held_until = 0")
        await until(lambda: second.poller.account.holds)


TERMINATE_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.mark.usefixtures("_long_leases")
async def test_node_that_loses_its_connection_stops_polling_before_another_begins(
    first: World, database_url: str
) -> None:
    await first.subscribe()
    jobs = []
    async with open_beside(first) as second:
        async with never_two_pollers(first, second):
            for _ in range(5):
                jobs.append(await second.job(**LONG))
                names = {world.node._holder.name for world in (first, second)}
                assert len(await execute(database_url, TERMINATE_LISTENERS)) == 2
                await until(lambda names=names: not names & {world.node._holder.name for world in (first, second)})
                await until(lambda: all("@" in world.node._holder.name for world in (first, second)))
                await until(lambda: first.poller.account.holds or second.poller.account.holds)
        await until(ended(first, *jobs))
        await all_in_order(first, *jobs, asked=second)


async def events_of(world: World, job_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await world.api.get(f"/v1/jobs/{job_id}/events")).json()["items"]
    return sorted(items, key=lambda event: int(event["sequence"]))


@pytest.mark.parametrize("seconds", [60.0, -60.0])
async def test_nodes_keep_their_leases_when_their_clocks_are_set(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(cluster, "LEASE_SECONDS", 10.0)
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 3.0)
    ahead = time.time() - time.monotonic()
    async with (
        open_e2e_world(tmp_path, database_url=database_url, upstream_clock=lambda: ahead + time.monotonic()) as first,
        open_beside(first) as second,
    ):
        await first.subscribe()
        before = [await second.job(**LONG) for _ in range(3)]
        with time_machine.travel(time.time() + seconds, tick=True):
            after = [await second.job(**LONG) for _ in range(3)]
            await until(ended(first, *before, *after))
            assert (first.poller.account.holds, second.poller.account.holds) == (True, False)
        once_and_in_order(first, *before, *after)
        assert (first.poller.account.term, second.poller.account.term) == (1, 0)


# --- jobs that are given up on another node


NOTICES = ("notices are heard", "notices are lost", "the node does not listen")
NODES = ("the node that polls", "the other node")


@pytest.fixture
def notices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the nodes hear of each other. What a notice does not say is found, after a bounded time."""

    async def mute(self: postgres.PostgresDatabase) -> None:
        await asyncio.Event().wait()

    async def without_notices(self: postgres.PostgresDatabase, heard: Callable[[str], None]) -> None:
        raise OSError("no ears")

    if request.param == "notices are lost":
        monkeypatch.setattr(postgres.PostgresDatabase, "_notify_others", mute)
        monkeypatch.setattr(reads, "KNOWN_SECONDS", 0.5)
        monkeypatch.setattr(waiting, "SLICE_SECONDS", 0.5)
        monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 1.0)
    if request.param == "the node does not listen":
        monkeypatch.setattr(postgres.PostgresDatabase, "listen", without_notices)
    return str(request.param)


@pytest.fixture
async def second(notices: str, first: World) -> AsyncIterator[World]:
    """Beside `first`, which polls."""
    async with open_beside(first) as second:
        yield second


@pytest.mark.parametrize(("notices", "on"), combined(NOTICES, NODES), indirect=["notices"])
async def test_no_node_answers_with_a_job_that_another_one_has_purged(first: World, second: World, on: str) -> None:
    here, there = (first, second) if on == "the node that polls" else (second, first)
    job_id = await first.job()
    await until(_shows(here, job_id, "outcome", "succeeded"))

    async def cache() -> str:
        answer = await here.api.get(JOBS + job_id, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
        return str(answer.headers["relay-cache"])

    assert (await cache(), await cache()) == ("hit", "hit")
    assert (await there.api.delete(f"/v1/jobs/{job_id}", params={"purge": "true"})).status_code == 200

    async def passed() -> bool:
        return await cache() == "pass"

    await until(passed)


def _shows(world: World, job_id: str, field: str, value: Any) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return bool((await world.shown(job_id))[field] == value)

    return asked


# --- tokens


async def a_token(world: World, **fields: Any) -> tuple[str, dict[str, str]]:
    """A new token: its id and the header to send it in."""
    answer = await world.api.post("/v1/tokens", json={"name": "crm", "scopes": ["read"], **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], {"Authorization": f"Bearer {answer.json()['token']}"}


def accepts(world: World, headers: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    world.node.access._hold_seconds = 0.0  # the questions before it is known are not held back

    async def ask() -> bool:
        return (await world.api.get("/v1/jobs", headers=headers)).status_code == 200

    return ask


def polled(world: World, job_id: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return bool((await world.api.get(f"/v1/jobs/{job_id}")).json()["last_polled_at"])

    return ask


def refuses(world: World, headers: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return not await accepts(world, headers)()

    return ask


@pytest.mark.parametrize("notified", [True, False])
async def test_revoked_token_is_refused_by_every_node(
    first: World, monkeypatch: pytest.MonkeyPatch, notified: bool
) -> None:
    if not notified:
        monkeypatch.setattr(cluster.Cluster, "heard", lambda self, notice: None)
    async with open_beside(first) as second:
        for by, other in ((first, second), (second, first)):
            id, headers = await a_token(by)
            await until(accepts(other, headers))
            streams = [
                asyncio.ensure_future(world.api.get("/v1/events/stream", headers=headers)) for world in (by, other)
            ]
            job_id = await by.job(**ENDLESS)
            await until(polled(by, job_id))  # the first status would end the wait
            wait = asyncio.ensure_future(other.api.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=300", **headers}))
            await until(lambda: len(by.node.signals._watches) + len(other.node.signals._watches) >= 3)  # noqa: B023
            assert (await by.api.delete(f"/v1/tokens/{id}")).status_code == 200
            assert await refuses(by, headers)()
            await until(refuses(other, headers))
            ended = [await stream for stream in streams]
            waited = await wait
            assert all(answer.text.startswith(": connected\n\n") for answer in ended)
            assert waited.status_code == 401


async def test_expired_token_ends_what_is_open_on_every_node(first: World) -> None:
    async with open_beside(first) as second:
        expires_at = time.time() + 15
        _, headers = await a_token(first, expires_at=to_rfc3339(expires_at))
        await until(accepts(second, headers))
        answers = await asyncio.gather(
            *(world.api.get("/v1/events/stream", headers=headers) for world in (first, second))
        )
        assert {answer.text.replace(": still here\n\n", "") for answer in answers} == {": connected\n\n"}


async def test_program_that_waits_at_one_node_gets_what_another_records_gives_back_or_takes_over(
    first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a look in between: only notices of the other node wake it. Leases outlive the node that gave them."""
    monkeypatch.setattr(pulls, "IDLE_SECONDS", 60.0)
    async with open_beside(first) as second:
        made = await first.api.post("/v1/subscriptions", json={"protocol": "PULL", "types": ["com.acme.x"]})
        sub = f"/v1/subscriptions/{made.json()['id']}"
        event = {"specversion": "1.0", "source": "/shop", "type": "com.acme.x", "partitionkey": "k"}
        structured = {"Content-Type": "application/cloudevents+json"}

        async def pull() -> Any:
            answer = await second.api.post(f"{sub}/pull", json={"wait_seconds": 20, "max": 1, "lease_seconds": 600})
            return answer.json()["items"]

        found = []
        for act in ("publish", "publish", "ack", "nack"):
            waiting = asyncio.create_task(pull())
            await asyncio.sleep(0.3)
            began = time.monotonic()
            if act == "publish":
                document = {**event, "id": str(len(found)), "partitionkey": f"k{len(found)}"}
                await first.api.post("/v1/events", json=document, headers=structured)
            elif act == "ack":
                behind = {**event, "id": "behind", "partitionkey": "k0"}
                await first.api.post("/v1/events", json=behind, headers=structured)
                await asyncio.sleep(0.3)
                assert not waiting.done(), "the first of its key is under a lease"
                began = time.monotonic()
                await first.api.post(f"{sub}/ack", json={"ids": [found[0]["delivery_id"]]})
            else:
                body = {"ids": [found[1]["delivery_id"]], "delay_seconds": 0}
                await first.api.post(f"{sub}/nack", json=body)
            found += await waiting
            assert time.monotonic() - began < 15  # the wait ends after 20 s
        assert [one["event"]["id"] for one in found] == ["0", "1", "behind", "1"]
    ids = [one["delivery_id"] for one in found[2:]]
    assert (await first.api.post(f"{sub}/pull")).json()["items"] == [], "a lease is a program's, not a node's"
    answer = await first.api.post(f"{sub}/ack", json={"ids": ids})
    assert [one["result"] for one in answer.json()["results"]] == ["acked", "acked"]
