"""Sixty days of 100,000 events a day through the real store, by a clock of their own: how large the database becomes.

`python tests/benchmarks/retention.py [--days 60] [--events 100000] [--database URL] [--figure FILE]` prints a table
with the size at the end of each day, and what an event takes. Retention has its default settings. A job has two events,
each of which has one delivery with one attempt. The clock moves an hour at a time; retention is done once in each.

The bar: the database at the last day is at most 1.1 times as large as after the day on which the first events went and
their place was used again, two thirds of the way.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import structlog

from relay.config.settings import RetentionSettings
from relay.metrics import Metrics
from relay.node.upkeep import DAY_SECONDS, Retention
from relay.store.store import Store, open_store
from tests.support.store_days import BEGIN, Day, days
from tests.support.store_kit import ReversingCipher, execute, track

BAR = 1.1
OLD = 40 * DAY_SECONDS
FILLING = (
    """
INSERT INTO events (id, job_uid, sequence, type, source, subject, time, recorded_at, body)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'evt_01m89nddrfnyht2pc' || (10000000 + i), 'job_01m89nddrfnyht2pc' || (10000000 + i), 1,
  'ai.revor.job.succeeded', 'https://revor.ai/api/v1/outreach/jobs', 'subject ' || i, :at + i, :at + i, {body}
FROM n""",
    """
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, created_at, ended_at)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'dlv_01m89nddrfnyht2pc' || (10000000 + i), 'evt_01m89nddrfnyht2pc' || (10000000 + i), 'sub_1',
  'job_01m89nddrfnyht2pc' || (10000000 + i), 1, 'delivered', 0, :at + i, 1, 1, :at + i, :at + i FROM n""",
    """
INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'dlv_01m89nddrfnyht2pc' || (10000000 + i), 1, :at + i, 12.5, 204 FROM n""",
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 660, 260, 52, 14, 34, 46


async def simulate(url: str, count: int, events_a_day: int) -> list[Day]:
    """The days, one after the other; a line to the standard error stream for each."""
    store = await open_store(url, ReversingCipher(), now=BEGIN, auto_migrate=True)
    try:
        return await _simulate(store, count, events_a_day)
    finally:
        await store.close()


async def _simulate(store: Store, count: int, events_a_day: int) -> list[Day]:
    found: list[Day] = []
    begun = time.perf_counter()
    async for day in days(store, count, events_a_day, settings=RetentionSettings()):
        found.append(day)
        seconds = time.perf_counter() - begun
        print(f"day {day.number}: {day.size_bytes / 1e6:.1f} MB after {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def measure(scale: float) -> list[dict[str, Any]]:
    """For `run.py`: sixty days of 2,000 events a day times `scale`, on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(simulate(f"sqlite:///{folder}/days.db", 60, max(48, int(2_000 * scale))))
    return [{"name": "60 days: the last beside day 40", "unit": "%", "ours": 100 * ratio(found), "at_most": 100 * BAR}]


async def stall(url: str, events: int) -> dict[str, float]:
    """How long single writes take, in milliseconds, alone and while so many events with their deliveries and attempts
    are deleted: the middle one, the longest of a hundred, the longest."""
    store = await open_store(url, ReversingCipher(), now=BEGIN, auto_migrate=True)
    try:
        body = "convert_to(repeat('x', 900), 'UTF8')" if store.database.shared else "zeroblob(900)"
        for statement in FILLING:
            await execute(store, statement.replace("{body}", body), count=events, at=BEGIN - OLD)
        await execute(store, "ANALYZE")
        alone = await _latencies(store, asyncio.create_task(asyncio.sleep(5)))
        retention = Retention(store.upkeep, Metrics(), lambda: BEGIN, RetentionSettings())

        async def delete() -> int:
            total = 0
            while deleted := await retention.run_once():
                total += deleted
            return total

        begun = time.perf_counter()
        deleting = asyncio.create_task(delete())
        beside = await _latencies(store, deleting)
        rows = await deleting
        assert rows == 2 * events, rows  # events and attempts are counted, deliveries go with their events
        seconds = time.perf_counter() - begun
    finally:
        await store.close()
    return {"deleted_rows_per_second": 3 * events / seconds, **_three("alone", alone), **_three("beside", beside)}


async def _latencies(store: Store, until_done: "asyncio.Task[Any]") -> list[float]:
    """The seconds that a registration takes, one after the other with a pause of 2 ms, until something has ended."""
    found: list[float] = []
    while not until_done.done():
        begun = time.perf_counter()
        await track(store, f"job {begun}")
        found.append(time.perf_counter() - begun)
        await asyncio.sleep(0.002)
    return sorted(found)


def _three(name: str, found: list[float]) -> dict[str, float]:
    places = {"p50_ms": len(found) // 2, "p99_ms": len(found) * 99 // 100, "longest_ms": len(found) - 1}
    return {f"{name}_{what}": round(found[place] * 1e3, 1) for what, place in places.items()}


def ratio(found: list[Day]) -> float:
    """How much larger the database is after the last day than two thirds of the way."""
    return found[-1].size_bytes / found[len(found) * 2 // 3 - 1].size_bytes


def figure(found: list[Day], events_a_day: int) -> str:
    """The size by day as SVG text, for light and dark pages."""
    highest = max(day.size_bytes for day in found) / 1e9
    step = next(size for size in (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0) if highest / size <= 6)
    top = step * (int(highest / step) + 1)
    inner_width, base = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM

    def across(number: int) -> float:
        return LEFT + inner_width * number / found[-1].number

    def up(size: float) -> float:
        return base - (base - TOP) * size / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Size of the database by day">',
        "<style>text{font:11px system-ui,sans-serif;fill:#1f2933}.title{font-weight:600;font-size:13px}"
        ".paper{fill:#ffffff}.grid{stroke:#d9dee5}.line{fill:none;stroke:#0b7a75;stroke-width:3}"
        "@media(prefers-color-scheme:dark){text{fill:#e4e8ee}.paper{fill:#14181f}.grid{stroke:#333b47}"
        ".line{stroke:#3ecfc5}}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="20">{events_a_day:,} events a day, kept 30 days (attempts 14)</text>',
    ]
    for nth in range(round(top / step) + 1):
        y = up(nth * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{nth * step:g}</text>')
    parts += [
        f'<text text-anchor="middle" x="{across(number):.1f}" y="{base + 15}">{number}</text>'
        for number in range(0, found[-1].number + 1, 10)
    ]
    middle = LEFT + inner_width / 2
    parts.append(f'<text text-anchor="middle" x="{middle:.0f}" y="{base + 32}">day</text>')
    turned = f'transform="translate(13 {(TOP + base) / 2:.0f}) rotate(-90)"'
    parts.append(f'<text text-anchor="middle" {turned}>GB on the disk</text>')
    path = " ".join(f"{across(day.number):.1f},{up(day.size_bytes / 1e9):.1f}" for day in found)
    parts.append(f'<polyline class="line" points="{across(0):.1f},{base} {path}"/></svg>')
    return "\n".join(parts) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--events", type=int, default=100_000, help="a day")
    parser.add_argument("--database", help="an empty one; without it a SQLite file in a temporary folder")
    parser.add_argument("--stall", type=int, metavar="EVENTS", help="how long writes take while so many are deleted")
    parser.add_argument("--figure", type=Path, help="write the size by day there as SVG")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{folder}/days.db"
        if options.stall is not None:
            print(json.dumps(asyncio.run(stall(url, options.stall))))
            return 0
        found = asyncio.run(simulate(url, options.days, options.events))
    print(f"{'day':>4} {'MB':>10} {'events':>12} {'bytes an event':>15}")
    for day in found:
        print(f"{day.number:4} {day.size_bytes / 1e6:10.1f} {day.events:12,} {day.size_bytes / day.events:15.0f}")
    if options.figure is not None:
        options.figure.write_text(figure(found, options.events), encoding="utf-8")
    print(json.dumps({"ratio": round(ratio(found), 3), "at_most": BAR, "days": [asdict(day) for day in found]}))
    return 0 if ratio(found) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
