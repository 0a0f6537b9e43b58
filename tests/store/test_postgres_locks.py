"""Two nodes on one PostgreSQL database take their locks in one order, so that none waits for a deadlock."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine

from relay.core.events.event import DELIVERY_EXPIRED, SUBSCRIPTION_DISABLED, SUBSCRIPTION_RECOVERED
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.job import Problem
from relay.core.records import ListingRecord
from relay.core.subscriptions.subscription import Consent
from relay.errors import NotFound
from relay.store.databases import postgres_writer
from relay.store.databases.group_commit import each
from relay.store.databases.locks import MATCH, Key, hold
from relay.store.databases.statements import json_list
from relay.store.store import Store
from tests.support.lock_order import watched_order
from tests.support.pull_kit import SUB, TYPES, Program
from tests.support.scale import scaled
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import (
    NOW,
    PUBLISHED_TYPE,
    claim,
    claim_probe,
    job_event,
    lease,
    poll,
    publication,
    registration,
    relay_event,
    result_of,
    seen,
    subscription,
    together,
    track,
)

OWNER = "revor/default"


@pytest.fixture
def database_url() -> str:
    """PostgreSQL only: SQLite has one writer."""
    return emptied_postgres()


@pytest.fixture
async def other(store: Store, open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A second node on the database of `store`."""
    return await open_again()


class Storm:
    """Random writes of two nodes that change the same subscriptions, jobs, groups and accounts."""

    def __init__(self, nodes: tuple[Store, Store]) -> None:
        self.nodes = nodes
        self.random = random.Random(1)
        self.ids = [f"sub_{nth}" for nth in range(5)]
        self.made = 0

    async def begin(self) -> None:
        """The subscriptions that all writes are about."""
        for id in self.ids:
            types = ("ai.revor.job.failed", PUBLISHED_TYPE)
            await self.nodes[0].subscriptions.create(subscription(id, incidents="collapse", types=types))

    async def step(self) -> None:
        """One write, or a few. Another step may have removed the subscription."""
        self.made += 1
        nth, store, id = self.made, self.random.choice(self.nodes), self.random.choice(self.ids)
        writes = (
            *(self._fail_jobs, self._fail_jobs, self._attempt, self._attempt, self._attempt),
            *(self._replace, self._set_state, self._set_state, self._remove, self._consent, self._health),
            *(self._listing, self._rotate, self._close_group, self._publish, self._publish),
        )
        with suppress(NotFound):
            await self.random.choice(writes)(store, id, nth)

    async def _fail_jobs(self, store: Store, _id: str, nth: int) -> None:
        batch = [registration(f"job {nth} {part}", group=f"group {nth % 3}") for part in range(3)]
        await store.jobs.register_many(batch)
        problem = Problem(code=f"code {nth % 4}", message="")
        for one in batch:
            failed = job_event(one.job.uid, 1, "failed", owner=OWNER)
            record = poll(one.job.uid, 0, events=[failed], seen=seen("failed", NOW, problem=problem), outcome="failed")
            await store.jobs.record(record)

    async def _attempt(self, store: Store, id: str, nth: int) -> None:
        disables = nth % 2 == 0
        probed = await claim_probe(store, id, NOW + 100.0, lease(until=NOW + 145.0))
        claimed = [probed.claimed] if probed.claimed is not None else await claim(store, id, 2)
        for one in claimed:
            assert one is not None
            if one.probe:
                report = relay_event(SUBSCRIPTION_RECOVERED, subject=id)
                result = result_of(one, "delivered", now=NOW + 100.0, events=(report,))
            elif disables:
                report = relay_event(SUBSCRIPTION_DISABLED, subject=id)
                fields: dict[str, Any] = {"disable": "failing", "probe_at": NOW + 50.0, "due_at": NOW}
                result = result_of(one, "pending", events=(report,), sink="https://sink.example", **fields)
            else:
                report = relay_event(DELIVERY_EXPIRED, subject=id)
                result = result_of(one, "dead", reason="503", events=(report,), sink="https://sink.example")
            await store.deliveries.record(result)

    async def _replace(self, store: Store, id: str, nth: int) -> None:
        changed = subscription(id, sink=f"https://sink-{nth}.example/hook", ordering=("job", "none")[nth % 2])
        await store.subscriptions.replace(changed, NOW + nth, lambda _: nth % 4 == 0)

    async def _set_state(self, store: Store, id: str, nth: int) -> None:
        await store.subscriptions.set_state(id, self.random.choice(("paused", "enabled", "pending")), NOW + nth)

    async def _remove(self, store: Store, id: str, nth: int) -> None:
        await store.subscriptions.remove(id, NOW + nth)
        await store.subscriptions.create(subscription(id, created_at=NOW + nth))

    async def _consent(self, store: Store, id: str, nth: int) -> None:
        found = await store.subscriptions.some(self.ids)
        all_of_them = self.random.sample(found, len(found))
        await asyncio.gather(*(store.handshakes.await_consent(one, NOW + nth) for one in all_of_them))
        await store.handshakes.take_turn(id, NOW + nth, NOW + nth + 30.0)
        for one in self.random.sample(found, min(2, len(found))):
            consent = Consent(origin="relay.example", at=NOW + nth, rate_per_minute=None)
            await store.handshakes.end_turn(one.id, NOW + nth + 30.0, NOW + nth, "agreed", consent, None)

    async def _health(self, store: Store, id: str, nth: int) -> None:
        health = {"failing_since": NOW, "paused_until": NOW + nth, "failing_reason": "503"}
        ids = self.random.sample(self.ids, 3)
        await asyncio.gather(
            *(store.subscriptions.set_sink_health(one, **health, paused_with_it=ids) for one in ids[nth % 2 :])
        )

    async def _rotate(self, store: Store, id: str, nth: int) -> None:
        await store.secrets.add_secret(id, f"whsec_{nth}", NOW + nth)

    async def _publish(self, store: Store, _id: str, nth: int) -> None:
        """Two nodes get the same events at once, in any order, some of a stream and some of none."""
        places = [self.random.sample(range(9), 9) for _ in self.nodes]
        batches = [[publication(f"{nth // 8} {n}", key=(None, "a", "b")[n % 3]) for n in one] for one in places]
        await asyncio.gather(*(node.published.record(one) for node, one in zip(self.nodes, batches, strict=True)))

    async def _listing(self, store: Store, _id: str, nth: int) -> None:
        known = await store.connect_accounts.known("revor", "default")
        place = {"source": "revor", "account": "default", "state": "ok", "told_state": "ok"}
        accounts = [ConnectAccount(id=f"acc_{part}", since=NOW, **place) for part in range(3)]
        events = [relay_event("ai.revor.account.recovered", subject=one.id, owner=OWNER) for one in accounts]
        news = list(zip(accounts, events, strict=True))
        await store.connect_accounts.record(ListingRecord(known=known, now=NOW + nth, changed=accounts, news=news))

    async def _close_group(self, store: Store, _id: str, nth: int) -> None:
        for group in await store.groups.find(f"group {nth % 3}"):
            await store.groups.close(group, None, NOW + nth)


@pytest.fixture
def conflicts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The conflicts that transactions have met."""
    found: list[str] = []
    is_conflict = postgres_writer.is_conflict

    def counted(error: Exception) -> bool:
        is_one = is_conflict(error)
        found.extend([str(error)] if is_one else [])
        return is_one

    monkeypatch.setattr(postgres_writer, "is_conflict", counted)
    return found


async def test_storm_of_changes_from_two_nodes_meets_no_deadlock(
    store: Store, other: Store, conflicts: list[str]
) -> None:
    storm = Storm((store, other))
    await storm.begin()
    for _ in range(scaled(12, 120)):
        await asyncio.gather(*(storm.step() for _ in range(24)))

    assert conflicts == []


async def test_acknowledgements_of_one_key_at_two_nodes_meet_no_deadlock(
    store: Store, other: Store, conflicts: list[str]
) -> None:
    of = replace(SUB, types=TYPES)
    await store.subscriptions.create(of)
    programs = [Program(node, of) for node in (store, other)]
    for turn in range(3):
        await store.published.record([publication(f"{turn} {n}", key=f"{turn} {n // 3}") for n in range(15)])
        claimed = await programs[0].pull(lease_seconds=10)
        assert len(claimed) >= 15
        acked = (programs[n % 2].ack(one) for n, one in enumerate(claimed[turn:]))
        programs[0].now += 10
        programs[1].now += 10
        await asyncio.gather(*acked, *(program.pulls.end_leases(of) for program in programs))
    assert conflicts == []


async def test_group_takes_all_its_locks_in_one_order_before_its_first_statement(store: Store) -> None:
    uid = await track(store)
    for id in ("sub_2", "sub_1"):
        await store.subscriptions.create(subscription(id))
    failed = poll(uid, 0, events=[job_event(uid, 1, "failed", owner=OWNER)], outcome="failed")
    with statements() as run:
        await together(
            store,
            store.jobs.record(failed),
            store.subscriptions.set_sink_health("sub_2", failing_since=NOW, paused_until=None),
            store.subscriptions.set_state("sub_1", "paused", NOW),
        )
    assert run[:3] == [
        f"SELECT pg_advisory_xact_lock({Key.CHANGE})",
        f"SELECT pg_advisory_xact_lock({Key.INCIDENTS}, found.hash) FROM ( {json_list([OWNER, 'sub_1'])}",
        f"SELECT id FROM subscriptions s WHERE id IN {json_list(['sub_1', 'sub_2'])}",
    ]
    assert not any("advisory" in statement or "subscriptions s" in statement for statement in run[3:])


async def test_batch_functions_run_in_one_order_whatever_arrives_first(store: Store) -> None:
    ran: list[str] = []

    @each
    def first(_connection: Connection, item: str) -> None:
        ran.append(item)

    @each
    def second(_connection: Connection, item: str) -> None:
        ran.append(item)

    await together(store, store.database.write(second, "second"), store.database.write(first, "first"))
    await together(store, store.database.write(first, "first"), store.database.write(second, "second"))
    assert ran == ["first", "second"] * 2


async def test_watch_finds_a_lock_that_comes_late(store: Store) -> None:
    @each
    def late(connection: Connection, _item: None) -> None:
        connection.execute(text("SELECT 1"))
        hold(connection, [MATCH])
        connection.execute(text("UPDATE subscriptions SET probe_at = NULL"))

    with watched_order() as wrong:
        await store.database.write(late, None)
    assert [one.split(":")[0] for one in wrong] == ["late", "without the lock of the row"]


test_watch_finds_a_lock_that_comes_late = pytest.mark.locks_itself(test_watch_finds_a_lock_that_comes_late)


@contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that run meanwhile, as far as their first parameter, which follows."""
    run: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        shown, *_ = " ".join(statement.split()).split("SELECT DISTINCT")[0].split("(SELECT")
        if "pg_current_xact_id" not in shown and "pg_notify" not in shown:  # what follows each group
            run.append(f"{shown}{parameters[0]}" if parameters else shown)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield run
    finally:
        event.remove(Engine, "before_cursor_execute", note)
