"""Durable deliveries in a database that holds ten million events and as many ended deliveries, in turns with an empty
one; and the same while retention deletes without a pause, on SQLite and PostgreSQL.

A turn records events while the subscription is paused, and takes the time from when it is enabled until nothing is
owed. While retention deletes, what counts is the longest time in which nothing was delivered.

`python many.py [COUNT]` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flat import databases

from relay.config.settings import RetentionSettings
from relay.node.interpreter import tune
from relay.node.upkeep import DAY_SECONDS, Retention
from tests.support.store_kit import execute

COUNT = 10_000_000
AT_ONCE = 200_000
FIRST = 100_000_000
EVENTS_A_JOB = 10
BAR = 0.90
ROUNDS = 8
EVENTS_A_TURN = 8_000
IN_FLIGHT = 64
PAUSE_MS = 250.0
POLL_SECONDS = 0.005
OLDEST_DAYS = 40.0
"""The events are of so many days: what is older than thirty is retention's."""


def filling(first: int, count: int, every: int, now: float, empty_bytes: str) -> Iterator[str]:
    """Events and their deliveries, which have ended; the number `first` and those after it, of `every`."""
    rows = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})"
    number, job = f"({FIRST} + i)", f"'job_' || ({FIRST} + i / {EVENTS_A_JOB})"
    at = f"({now} - {OLDEST_DAYS * DAY_SECONDS} + i * {OLDEST_DAYS * DAY_SECONDS / every})"
    yield f"""
INSERT INTO events (id, job_uid, sequence, type, source, subject, time, recorded_at, body) {rows}
SELECT 'evt_' || {number}, {job}, i % {EVENTS_A_JOB}, 'ai.revor.job.running', 'revor', {job}, {at}, {at}, {empty_bytes}
FROM n"""
    yield f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, created_at, ended_at) {rows}
SELECT 'dlv_' || {number}, 'evt_' || {number}, 'sub_before', {job}, i % {EVENTS_A_JOB}, 'delivered', 0, {at}, 1, 1,
  {at}, {at} FROM n"""


async def filled(opened: Any, kind: str, count: int) -> None:
    """Fills a database, and has what follows from that done: it is not what is measured."""
    now, empty_bytes = time.time(), "x'7b7d'" if kind == "sqlite" else "'\\x7b7d'::bytea"
    for first in range(0, count, AT_ONCE):
        for statement in filling(first, min(AT_ONCE, count - first), count, now, empty_bytes):
            await execute(opened.store, statement)
        print(f"\r{kind}: {first:,} of {count:,}", end="", file=sys.stderr, flush=True)
    print("\r", end="", file=sys.stderr)
    if kind == "postgresql":
        connection = await asyncpg.connect(opened.settings.database.url)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()


class Pauses:
    """The longest time in which no delivery ended."""

    def __init__(self, opened: Any) -> None:
        self._delivered = opened.metrics_registry.attempts.labels("webhook", "delivered")._value
        self.longest_seconds = 0.0

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """From the first delivery inside to the last."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        count, since = self._delivered.get(), None
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now, moved = time.perf_counter(), self._delivered.get() > count
            if moved:
                self.longest_seconds = max(self.longest_seconds, 0.0 if since is None else now - since)
                count, since = self._delivered.get(), now


async def turn(opened: Any, subscription_id: str, number: int) -> tuple[int, float]:
    """How many deliveries, and the seconds."""
    from run import drained, owe

    bodies = await owe(opened, EVENTS_A_TURN, number)
    return len(bodies), await drained(opened, subscription_id)


async def beside(kind: str, count: int) -> list[dict[str, Any]]:
    """The rows of one database."""
    from run import node, sink_process, subscribed

    with databases(kind) as make, sink_process() as url, tempfile.TemporaryDirectory() as folder:
        async with contextlib.AsyncExitStack() as nodes:
            opened: dict[str, Any] = {}
            for name in ("empty", "full"):
                (Path(folder) / name).mkdir()
                database_url = await asyncio.to_thread(make, name)
                opened[name] = await nodes.enter_async_context(node(Path(folder) / name, database_url=database_url))
            await filled(opened["full"], kind, count)
            ids = {name: await subscribed(one, url, IN_FLIGHT) for name, one in opened.items()}
            tune()
            totals = {name: [0, 0.0] for name in opened}
            for number in range(ROUNDS):
                for name, one in opened.items():
                    delivered, seconds = await turn(one, ids[name], number)
                    if number:  # the first one warms
                        totals[name][0] += delivered
                        totals[name][1] += seconds
            rates = {name: delivered / seconds for name, (delivered, seconds) in totals.items()}
            deleted, rate, longest = await while_retention_deletes(opened["full"], ids["full"])
    reported = f"ms without a delivery ({deleted:.0f} events/s deleted, {rate:.0f} deliveries/s beside)"
    return [
        {
            **{"name": f"deliveries beside {count:,} events, {kind}", "unit": "deliveries/s, beside an empty database"},
            **{"bar": BAR, "ours": rates["full"], "baseline": rates["empty"]},
        },
        {
            "name": f"the same, retention deleting, {kind}",
            "unit": reported,
            "ours": longest * 1000,
            "at_most": PAUSE_MS,
        },
    ]


class Counted:
    """The store's upkeep; `deleted` counts the events as they go."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.deleted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    async def delete_events(self, *arguments: Any) -> tuple[int, Any]:
        count, after = await self._rows.delete_events(*arguments)
        self.deleted += count
        return count, after


async def while_retention_deletes(opened: Any, subscription_id: str) -> tuple[float, float, float]:
    """Events deleted and deliveries a second, and the longest time in seconds without one."""
    rows = Counted(opened.store.upkeep)
    retention = Retention(rows, opened.metrics_registry, time.time, RetentionSettings())
    pauses, delivered, seconds = Pauses(opened), 0, 0.0

    async def delete() -> None:
        while True:
            await retention.run_once()

    begun = time.perf_counter()
    deleting = asyncio.create_task(delete())
    for number in range(ROUNDS, ROUNDS + 2):
        async with pauses.watched():
            done, took = await turn(opened, subscription_id, number)
        delivered, seconds = delivered + done, seconds + took
    deleting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await deleting  # what it has failed with ends the run
    if not rows.deleted:
        raise RuntimeError("retention deleted nothing")
    return rows.deleted / (time.perf_counter() - begun), delivered / seconds, pauses.longest_seconds


async def measure(count: int = COUNT) -> list[dict[str, Any]]:
    """Rows of the table of run.py."""
    return [row for kind in ("sqlite", "postgresql") for row in await beside(kind, count)]


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    for row in uvloop.run(measure(int(sys.argv[1]) if sys.argv[1:] else COUNT)):
        print(row)
