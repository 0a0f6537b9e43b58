"""Orphaned rows of removed accounts, sources, jobs and subscriptions do not keep upkeep from the live rows behind them.

There are more orphans than any page of upkeep holds. All are older than retention allows.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.core.deliveries.replay import ReplayRequest
from relay.core.records import AccountState, SavedStatistics
from relay.node.upkeep import DAY_SECONDS, DEADLINE_COUNT
from tests.support.e2e_world import World, open_e2e_world
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import (
    callback_for,
    claim,
    execute,
    intent,
    job_event,
    poll,
    registration,
    result_of,
    rows,
    subscription,
)

COUNT = DEADLINE_COUNT + 30
REPLAYS = 60
LIVE = "sub_live"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: a SQLite file of the world's own."""
    return emptied_postgres() if request.param == "postgresql" else None


@dataclass
class Beside:
    """A node without background work. Its database has orphans of every kind, and behind them one live row each: an
    overdue job, an ended job, and a subscription with an orphaned follower and a replay."""

    world: World
    then: float
    late: str = ""
    ended: str = ""
    orphan: str = ""

    @property
    def store(self) -> Any:
        return self.world.node.store

    async def orphans(self) -> None:
        now, store = self.then, self.store
        await store.subscriptions.create(subscription("sub_gone", created_at=now))
        places = [{"account": "gone"}, {"source": "gone"}, {}]
        jobs = [
            registration(f"gone {n}", tracked_at=now, deadline_seconds=1.0, **place)
            for place in places
            for n in range(COUNT)
        ]
        await store.jobs.register_many(jobs)
        records = [
            poll(
                job.job.uid,
                0,
                events=[job_event(job.job.uid, sequence, now=now) for sequence in (1, 2)],
                now=now,
                outcome="succeeded" if nth % 2 else None,
            )
            for nth, job in enumerate(jobs)
        ]
        await asyncio.gather(*(store.jobs.record(record) for record in records))
        callbacks = [await callback_for(store, f"https://c.example/{n}", f"sub_{n}", now) for n in range(3)]
        link = "INSERT INTO job_callbacks (job_uid, subscription_id) SELECT uid || ' gone', :callback FROM jobs"
        await execute(store, link, callback=callbacks[0])
        for nth in range(REPLAYS):
            request = ReplayRequest(id=f"rpl_0{nth:03}", subscription_id="sub_gone", since=0.0, until=now + 1, now=now)
            await store.replays.create(request)
        await store.accounts.set(AccountState(source="gone", name="default", state="unauthorized", since=now))
        await store.learned.save([SavedStatistics(source="gone", name="x", event_count=1.0, values="{}")], now)
        await asyncio.gather(*(store.intents.begin(intent(now, account="gone")) for _ in range(COUNT)))
        await execute(store, "DELETE FROM subscriptions WHERE id = 'sub_gone'")
        await execute(store, "DELETE FROM jobs WHERE account = 'default' AND source = 'revor'")

    async def live_ones(self) -> None:
        now, store = self.then + 1, self.store
        await store.subscriptions.create(subscription(LIVE, created_at=now))
        names = ("late", "ended", "stray", "again")
        made = await store.jobs.register_many([registration(n, tracked_at=now, deadline_seconds=1.0) for n in names])
        self.late, self.ended, self.orphan, again = (one.job.uid for one in made)
        await store.jobs.record(poll(self.ended, 0, "succeeded", outcome="succeeded", now=now))
        await store.jobs.record(poll(again, 0, "running", now=now))
        for one in await claim(store, LIVE, now=now):
            assert (await store.deliveries.record(result_of(one, now=now)))[0].kept
        await store.jobs.record(poll(self.orphan, 0, "running", now=now))
        await execute(store, "UPDATE deliveries SET state = 'blocked' WHERE job_uid = :uid", uid=self.orphan)
        request = ReplayRequest(id="rpl_9", subscription_id=LIVE, since=0.0, until=now + 1, now=now, only="all")
        await store.replays.create(request)

    async def upkeep(self, name: str, times: int = 1) -> None:
        (work,) = (work for work in self.world.node._upkeep() if work.name == name)
        for _ in range(times):
            await work.run()

    async def count(self, query: str, **values: Any) -> int:
        return int((await rows(self.store, f"SELECT COUNT(*) AS n FROM {query}", **values))[0]["n"])


@pytest.fixture
async def beside(tmp_path: Path, database_url: str | None) -> AsyncIterator[Beside]:
    async with open_e2e_world(tmp_path, database_url=database_url) as world:
        await world.node.stop()
        made = Beside(world, time.time() - 40 * DAY_SECONDS)
        await made.orphans()
        await made.live_ones()
        yield made


async def test_every_upkeep_task_reaches_the_live_rows(beside: Beside) -> None:
    await beside.upkeep("deadlines")
    job = await beside.store.jobs.get(beside.late)
    assert job.progress.overdue, "a late job"
    assert await beside.count("jobs WHERE overdue = 1") == 3

    await beside.upkeep("orphans")
    pending = "deliveries WHERE state = 'pending' AND job_uid = :uid AND sequence = 1"
    assert await beside.count(pending, uid=beside.orphan) == 1, "a follower that nothing is in front of"

    await beside.upkeep("replays", times=5)
    assert (await beside.store.replays.get("rpl_9")).queued > 0, "a replay"

    for name in ("probes", "statistics", "measure"):
        await beside.upkeep(name)
    assert beside.world.metric("relay_deliveries_pending") > 0

    await execute(beside.store, "UPDATE deliveries SET state = 'delivered' WHERE job_uid = :uid", uid=beside.ended)
    await beside.upkeep("retention")
    assert await beside.store.jobs.get(beside.ended) is None, "a job that has ended"
    assert await beside.count("events WHERE job_uid = :uid", uid=beside.ended) == 0, "its event"
    assert await beside.count("attempts") == 0
    assert await beside.count("intents") == 0
