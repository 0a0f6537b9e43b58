"""What a claim and its marks cost one subscription while another one's dead sink holds back ten thousand, a hundred
thousand and a million deliveries, on SQLite and PostgreSQL: the same, or order would be paid for by everybody.

`python flat.py` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from relay.node.interpreter import tune  # noqa: E402
from relay.store.databases.sqlite import url_of  # noqa: E402
from relay.store.schema import migrations  # noqa: E402
from relay.store.store import Store, open_store  # noqa: E402
from tests.support.postgres_server import PostgresServer  # noqa: E402
from tests.support.store_kit import (  # noqa: E402
    NOW,
    ReversingCipher,
    claim,
    execute,
    record_one,
    result_of,
    subscription,
)

SIZES = (10_000, 100_000, 1_000_000)
AT_ONCE = 20
ROUNDS = 150
FOLLOWERS = 10
"""Deliveries of one job that wait for its first."""


def filling(blocked: int, empty_bytes: str) -> Iterator[str]:
    """Deliveries that wait behind the first of their job, whose sink is dead; and those of the other subscription."""
    for sink, first, count in (("dead", 0, blocked), ("live", 10_000_000, 2 * ROUNDS * AT_ONCE)):
        rows = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1})"
        group = FOLLOWERS if sink == "dead" else 1
        head = f"i % {group} = 0"
        job = f"'job_{sink}_' || (i / {group})"
        yield f"""
INSERT INTO jobs (uid, source, account, external_id, status, outcome, sequence, retry_count, running_sent, overdue,
  attempt_count, weight, tracked_at, deadline_at, poll_count, failure_count, missing_count, metadata) {rows}
SELECT {job}, 'revor', 'default', '{sink} ' || i, 'running', NULL, 1, 0, 0, 0, 1, 1.0, {NOW}, {NOW}, 1, 0, 0,
  {empty_bytes} FROM n WHERE {head}"""
        yield f"""
INSERT INTO events (id, job_uid, sequence, type, source, subject, time, recorded_at, body) {rows}
SELECT 'evt_' || ({first} + 10000000 + i), {job}, i % {group}, 'ai.revor.job.running', 'revor', 'subject', {NOW}, {NOW},
  {empty_bytes} FROM n"""
        yield f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, created_at) {rows}
SELECT 'dlv_' || ({first} + 10000000 + i), 'evt_' || ({first} + 10000000 + i), 'sub_{sink}', {job}, i % {group},
  CASE WHEN {head} THEN 'pending' ELSE 'blocked' END, 1, {NOW} + CASE WHEN '{sink}' = 'dead' THEN 3600 ELSE 0 END,
  0, 0, {NOW} FROM n"""


@contextmanager
def databases(kind: str) -> Iterator[Callable[[str], str]]:
    """What makes an empty database with the schema, by a name, and gives its URL."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:

            def make(name: str) -> str:
                url = url_of(Path(folder) / f"{name}.db")
                migrations.upgrade(url)
                return url

            yield make
        return
    server = PostgresServer(fsync=True)
    server.start()
    try:

        def make(name: str) -> str:
            server.create_database(name)
            migrations.upgrade(server.url(name))
            return server.url(name)

        yield make
    finally:
        server.close()


async def fill(store: Store, kind: str, blocked: int) -> None:
    """So many blocked deliveries, and what the other subscription takes."""
    for id in ("sub_dead", "sub_live"):
        await store.subscriptions.create(subscription(id))
    for statement in filling(blocked, "x'7b7d'" if kind == "sqlite" else "'\\x7b7d'::bytea"):
        await execute(store, statement)
    await execute(store, "ANALYZE")


async def step(store: Store) -> tuple[float, float]:
    """Seconds of a claim of 20 and of their marks."""
    begun = time.perf_counter()
    claimed = await claim(store, "sub_live", AT_ONCE)
    between = time.perf_counter()
    assert len(claimed) == AT_ONCE
    kept = await asyncio.gather(*(record_one(store, result_of(one)) for one in claimed))
    ended = time.perf_counter()
    assert all(one.kept for one in kept)
    return between - begun, ended - between


async def costs(urls: Sequence[str], kind: str, sizes: Sequence[int]) -> list[tuple[float, ...]]:
    """Median seconds of a claim of 20 and of their marks in each database, in turns: the machine is slower at one
    moment than at the next."""
    async with AsyncExitStack() as opened:
        stores = []
        for url, size in zip(urls, sizes, strict=True):
            stores.append(await open_store(url, ReversingCipher(), now=NOW))
            opened.push_async_callback(stores[-1].close)
            await fill(stores[-1], kind, size)
        tune()
        steps = [[await step(store) for store in stores] for _ in range(ROUNDS)]
    return [
        tuple(statistics.median(times) for times in zip(*of_one, strict=True)) for of_one in zip(*steps, strict=True)
    ]


async def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """Rows of the table of run.py: how many times more each costs with ten times the rows, at most."""
    found = []
    sizes = [int(size * scale) for size in SIZES]
    for kind in ("sqlite", "postgresql"):
        with databases(kind) as make:
            urls = [await asyncio.to_thread(make, f"flat{size}") for size in SIZES]
            medians = await costs(urls, kind, sizes)
        for name, series in zip(("claim", "mark"), zip(*medians, strict=True), strict=True):
            shown = " / ".join(f"{seconds * 1e6 / AT_ONCE:.0f}" for seconds in series)
            reported = f"times a tenfold: {shown} us each"
            worst = max(after / before for before, after in itertools.pairwise(series))
            name = f"{name} beside 10k/100k/1M blocked, {kind}"
            found.append({"name": name, "unit": reported, "ours": worst, "at_most": 1.3})
    return found


if __name__ == "__main__":
    for row in uvloop.run(measure()):
        print(row)
