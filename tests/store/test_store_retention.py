"""Retention and the search for missed heads as a node runs them: bounded, resumable, and fast enough."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from relay.config.settings import RetentionSettings
from relay.core.deliveries.delivery import Claimed
from relay.metrics import Metrics
from relay.node import upkeep
from relay.node.upkeep import DAY_SECONDS, Orphans, Retention
from relay.signals import Signals
from relay.store.store import Store
from relay.store.upkeep import MAX_ROWS, SLICE
from tests.support.postgres_server import shared_server
from tests.support.scale import scaled, soak_only
from tests.support.store_databases import POSTGRES_DATABASE
from tests.support.store_days import Day, days
from tests.support.store_kit import (
    NOW,
    claim,
    counts,
    deliver_all,
    deliveries,
    execute,
    intent,
    poll,
    registration,
    result_of,
    subscription,
    together,
    track,
)

LATER = NOW + 31 * DAY_SECONDS


def retention_of(store: Store, now: float = LATER, metrics: Metrics | None = None, **days: int) -> Retention:
    return Retention(store.upkeep, metrics or Metrics(), lambda: now, RetentionSettings(**days))


async def ended(store: Store, count: int, now: float = NOW, prefix: str = "job") -> None:
    """Closed jobs with one event each."""
    batch = [registration(f"{prefix} {n}", tracked_at=now) for n in range(count)]
    await store.jobs.register_many(batch)
    await together(
        store, *(store.jobs.record(poll(one.job.uid, 0, "succeeded", outcome="succeeded", now=now)) for one in batch)
    )


@dataclass
class Deletions:
    """Rows deleted by each transaction, in the tables that retention covers."""

    transactions: list[int] = field(default_factory=list)
    _open: int = 0

    def executed(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().startswith("DELETE"):
            self._open += max(0, cursor.rowcount)

    def committed(self, connection: Any) -> None:
        if self._open:
            self.transactions.append(self._open)
        self._open = 0


@contextmanager
def deletions(store: Store) -> Iterator[Deletions]:
    """Counts what the writer deletes."""
    database: Any = store.database
    engine = database._writing.sync_engine if database.shared else database._engine
    found = Deletions()
    sqlalchemy_event.listen(engine, "after_cursor_execute", found.executed)
    sqlalchemy_event.listen(engine, "commit", found.committed)
    yield found
    sqlalchemy_event.remove(engine, "after_cursor_execute", found.executed)
    sqlalchemy_event.remove(engine, "commit", found.committed)


async def test_everything_that_is_too_old_goes_and_is_counted(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await ended(store, 3)
    await deliver_all(store, "sub_1")
    await ended(store, 2, LATER, "new")
    await deliver_all(store, "sub_1", now=LATER)
    await store.intents.begin(intent())
    await store.idempotency.begin("key", "digest", "holder", NOW, 0.0)
    metrics = Metrics()
    assert await retention_of(store, metrics=metrics).run_once() == 3 * 3 + 2
    left = await counts(store)
    assert [left[name] for name in ("jobs", "events", "deliveries", "attempts")] == [2, 2, 2, 2]
    gone = {
        name: metrics.registry.get_sample_value("relay_retention_deleted_total", {"what": name})
        for name in ("jobs", "events", "attempts", "intents", "idempotency_keys")
    }
    assert gone == {"jobs": 3, "events": 3, "attempts": 3, "intents": 1, "idempotency_keys": 1}


async def test_no_transaction_deletes_more_than_its_row_limit(store: Store) -> None:
    for nth in range(6):
        await store.subscriptions.create(subscription(f"sub_{nth}"))
    await ended(store, SLICE + 50)
    for nth in range(6):
        await deliver_all(store, f"sub_{nth}")
    with deletions(store) as found:
        await retention_of(store, attempts_days=36_500).run_once()  # with attempts: 13 rows an event, and the job
    assert sum(found.transactions) == 14 * (SLICE + 50)
    assert max(found.transactions) <= MAX_ROWS
    assert (await counts(store))["events"] == 0


async def test_call_is_bounded_and_the_next_continues_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand open deliveries, for example of a disabled subscription, block nothing."""
    monkeypatch.setattr(upkeep, "MAX_BATCHES", 1)
    await store.subscriptions.create(subscription("sub_1", types=("ai.revor.job.succeeded",)))
    await ended(store, 2 * SLICE)
    uid = await track(store, "free", tracked_at=NOW + 1)
    await store.jobs.record(poll(uid, 0, "failed", outcome="failed", now=NOW + 1))
    retention = retention_of(store)
    assert [await retention.run_once() for _ in range(3)] == [0, 0, 2]
    await deliver_all(store, "sub_1", now=NOW + 2)
    assert [await retention.run_once() for _ in range(4)] == [4 * SLICE, 2 * SLICE, 0, 0]  # all attempts at once
    left = await counts(store)
    assert (left["events"], left["jobs"], left["attempts"]) == (0, 0, 0)


async def test_retention_deletes_no_open_delivery(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uids = [await track(store, f"job {n}") for n in range(12)]
    for uid in uids:
        await store.jobs.record(poll(uid, 0, "queued", "running", "failed", outcome="failed"))
    done: list[Claimed] = []

    async def deliver() -> None:
        while len(done) < 3 * len(uids):
            claimed = await claim(store, "sub_1", 5)
            await asyncio.gather(*(store.deliveries.retry(one.id, NOW) for one in done[-2:]), return_exceptions=True)
            for one in claimed:
                state = "dead" if len(done) % 3 else "delivered"
                assert (await store.deliveries.record(result_of(one, state)))[0].kept
                if one.priority < 2:
                    done.append(one)

    async def retain() -> None:
        while len(done) < 3 * len(uids):
            await store.upkeep.delete_events(NOW + 1)
            await store.upkeep.delete_jobs(NOW + 1)

    async with asyncio.timeout(60):
        await asyncio.gather(deliver(), retain())
    for uid in uids:
        assert [one.event.sequence for one in done if one.order_key == uid] == [1, 2, 3]
    await deliver_all(store, "sub_1")
    await store.upkeep.delete_events(NOW + 1)
    await store.upkeep.delete_jobs(NOW + 1)
    left = await counts(store)
    assert [left[name] for name in ("jobs", "events", "deliveries", "attempts")] == [0, 0, 0, 0]


async def test_pending_deliveries_are_searched_for_orphans_in_slices(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MAX_BATCHES", 1)
    monkeypatch.setattr("relay.store.upkeep.OPEN_SLICE", upkeep_slice_of(10))
    await store.subscriptions.create(subscription("sub_1"))
    await ended(store, 25)
    last = (await deliveries(store))[-1]["id"]
    await execute(store, "UPDATE deliveries SET state = 'blocked' WHERE id = :id", id=last)
    search = Orphans(store.upkeep, lambda: NOW, Signals())
    assert [await search.run_once() for _ in range(3)] == [0, 0, 1]


def upkeep_slice_of(count: int) -> str:
    from relay.store.upkeep import OPEN_SLICE

    assert "LIMIT 1000" in OPEN_SLICE
    return OPEN_SLICE.replace("LIMIT 1000", f"LIMIT {count}")


SMALL_LOG_PAGES = 100
EVENTS_A_DAY = scaled(40, 120)


@pytest.fixture
def a_small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps SQLite's log small, which otherwise may be as large as ten thousand events."""
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_AUTOCHECKPOINT_PAGES", SMALL_LOG_PAGES)


async def sixty_days(store: Store, settings: RetentionSettings | None) -> list[Day]:
    """On PostgreSQL, runs at the end of each day what autovacuum does every minute."""
    found: list[Day] = []
    async for day in days(store, 60, EVENTS_A_DAY, settings=settings, steps_a_day=1):
        found.append(day)
        if store.database.shared:
            shared_server().execute("VACUUM jobs, events, deliveries, attempts", POSTGRES_DATABASE)
    return found


# PostgreSQL's space is its own matter, and a day takes long there.
on_each = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=soak_only)], indirect=True
)


@on_each
@pytest.mark.usefixtures("a_small_log")
async def test_sixty_days_show_a_plateau(open_again: Callable[..., Awaitable[Store]]) -> None:
    found = await sixty_days(await open_again(), RetentionSettings())
    assert found[59].events == found[39].events == 31 * EVENTS_A_DAY
    assert found[59].size_bytes <= 1.1 * found[39].size_bytes
