"""What an event of a job costs while its group has a hundred, and a million jobs, and beside a job without a group, on
SQLite and PostgreSQL.

`python groups.py [SCALE]` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from flat import databases  # puts the repository on the path

from relay.core.jobs.job import Progress
from relay.node.interpreter import tune
from relay.store.store import Store, open_store
from tests.support.store_kit import NOW, ReversingCipher, execute, poll, registration

LARGE = 1_000_000
SMALL = 100
SLICE = 50_000
AT_ONCE = 20
ROUNDS = 150


def filling(first: int, count: int, empty_bytes: str) -> str:
    """Jobs of a group that have succeeded."""
    return f"""
INSERT INTO jobs (uid, source, account, external_id, status, phase, outcome, sequence, retry_count, running_sent,
  overdue, attempt_count, weight, tracked_at, deadline_at, closed_at, poll_count, failure_count, missing_count,
  metadata, group_name, group_round)
WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})
SELECT 'job_' || (10000000 + i), 'revor', 'default', 'old ' || i, 'succeeded', 'succeeded', 'succeeded', 1, 0, 0, 0, 1,
  1.0, {NOW}, {NOW}, {NOW}, 1, 0, 0, {empty_bytes}, 'campaign', 1 FROM n"""


async def fill(store: Store, kind: str, count: int) -> None:
    """A group of so many jobs that have ended."""
    await store.jobs.register(registration("first", "campaign"))
    empty = "x'7b7d'" if kind == "sqlite" else "'\\x7b7d'::bytea"
    for first in range(0, count, SLICE):  # a statement may take so long only
        await execute(store, filling(first, min(SLICE, count - first), empty))
    value = ":counts" if kind == "sqlite" else "CAST(:counts AS jsonb)"
    counts = f'{{"queued": 1, "succeeded": {count}}}'
    await execute(store, f"UPDATE groups SET counts = {value}", counts=counts)
    await execute(store, "ANALYZE")


async def step(store: Store, turn: int, group: str | None) -> float:
    """Seconds of an event of each of 20 jobs, in one transaction, and of their last one."""
    made = await store.jobs.register_many([registration(f"{group} {turn} {n}", group=group) for n in range(AT_ONCE)])
    uids = [one.job.uid for one in made]  # type: ignore[union-attr]
    begun = time.perf_counter()
    await asyncio.gather(*(store.jobs.record(poll(uid, 0, "running")) for uid in uids))
    ended = Progress(status="failed", phase="failed", sequence=2)
    records = [poll(uid, 1, "failed", outcome="failed", progress=ended) for uid in uids]
    await asyncio.gather(*(store.jobs.record(record) for record in records))
    return (time.perf_counter() - begun) / 2


async def costs(urls: Sequence[str], kind: str, sizes: Sequence[int]) -> tuple[list[float], float]:
    """Median seconds of 20 events in each group, and of jobs without a group, in turns: the machine is slower at one
    moment than at the next."""
    async with AsyncExitStack() as opened:
        stores = []
        for url, size in zip(urls, sizes, strict=True):
            stores.append(await open_store(url, ReversingCipher(), now=NOW))
            opened.push_async_callback(stores[-1].close)
            await fill(stores[-1], kind, size)
        tune()
        times: list[list[float]] = [[] for _ in range(len(stores) + 1)]
        for turn in range(ROUNDS):
            for place, store in enumerate(stores):
                times[place].append(await step(store, turn, "campaign"))
            times[-1].append(await step(stores[0], turn, None))
        *grouped, plain = map(statistics.median, times)
        for store, size in zip(stores, sizes, strict=True):
            (group,) = await store.groups.find("campaign")
            assert group.counts == {"queued": 1, "succeeded": size, "failed": ROUNDS * AT_ONCE}
    return grouped, plain


async def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """Rows of the table of run.py: how many times more an event costs in the large group, at most."""
    found = []
    sizes = (SMALL, max(SMALL, int(LARGE * scale)))
    for kind in ("sqlite", "postgresql"):
        with databases(kind) as make:
            urls = [await asyncio.to_thread(make, f"groups{place}") for place in range(len(sizes))]
            (small, large), plain = await costs(urls, kind, sizes)
        shown = " / ".join(f"{seconds * 1e6 / AT_ONCE:.0f}" for seconds in (plain, small, large))
        name = f"event of a job in a group of {sizes[1]:,}, {kind}"
        unit = f"times one of a hundred: without / small / large {shown} us each"
        found.append({"name": name, "unit": unit, "ours": large / small, "at_most": 1.3})
    return found


if __name__ == "__main__":
    for row in uvloop.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)):
        print(row)
