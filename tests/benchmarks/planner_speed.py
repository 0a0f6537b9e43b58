"""The planner's speed and memory: a decision at 1,000, 100,000 and 1,000,000 open jobs beside a heap's push and pop in
the same run, bytes a job, and the time to load a million open jobs.

A decision is `take` and `observed`; `next_request_at`, where tables are made, runs between decisions and is not in it.
"""

import gc
import heapq
import random
import statistics
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from relay.core.planner import Planner, PlannerConfig
from relay.node.interpreter import tune

SIZES = (1_000, 100_000, 1_000_000)
DECISIONS = 20_000
MEMORY_JOBS = 200_000
NOW = 1_800_000_000.0
RATE = 1_000.0
LONGEST_MS = 5.0
ITEM = {"status": "running", "action": "outreach.dispatch", "channel": "linkedin"}


def loaded(count: int) -> tuple[Planner, float]:
    """A planner with so many running jobs, as a node loads them at its start, and the seconds that took."""
    rng = random.Random(count)
    rows = [
        (f"job_{n:026d}", {**ITEM, "started_at": NOW - rng.uniform(0, 600)}, NOW + rng.uniform(1, 1 + count / RATE))
        for n in range(count)
    ]
    planner = Planner(PlannerConfig(max_requests_per_second=RATE, seed=1))
    began = time.perf_counter()
    for job_id, item, due in rows:
        planner.track(job_id, item, NOW, lane="", next_poll_at=due, seen_at=NOW - 1)
    return planner, time.perf_counter() - began


def decisions(planner: Planner, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each decision, and of a push and pop on a heap of as many entries between each two."""
    heap = [random.random() for _ in range(count)]
    heapq.heapify(heap)
    found, beside = [], []
    now = NOW + 1
    while len(found) < DECISIONS and now < NOW + 120:
        now += 1 / (RATE * 0.9)
        planner.next_request_at(now)
        began = time.perf_counter()
        job_id = planner.take(now)
        middle = time.perf_counter()
        if job_id is None:
            continue
        item = {**ITEM, "started_at": NOW - 300.0}
        again = time.perf_counter()
        planner.observed(job_id, item, {}, now, now + 1e-4)
        ended = time.perf_counter()
        found.append(middle - began + ended - again)
        began = time.perf_counter()
        heapq.heappush(heap, heapq.heappop(heap) + 1)
        beside.append(time.perf_counter() - began)
    return sorted(found), sorted(beside)


def bytes_a_job() -> float:
    """What the planner keeps of one job, without the id's own text."""
    ids = [f"job_{n:026d}" for n in range(MEMORY_JOBS)]
    planner = Planner(PlannerConfig(max_requests_per_second=RATE, seed=1))
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for n, job_id in enumerate(ids):
        item = {**ITEM, "started_at": NOW + n / 1e3}
        planner.track(job_id, item, NOW + n / 1e3 + 1, next_poll_at=NOW + n / 1e3 + 2)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / MEMORY_JOBS


def measure() -> list[dict[str, Any]]:
    """The results, in the shape of `run.py`."""
    results: list[dict[str, Any]] = []
    medians: dict[int, float] = {}
    tune()
    for count in SIZES:
        planner, seconds = loaded(count)
        gc.collect()
        gc.freeze()
        found, beside = decisions(planner, count)
        medians[count] = statistics.median(found)
        name = f"a decision at {count:,} open jobs"
        heap_us, slow_us = 1e6 * statistics.median(beside), 1e6 * found[int(len(found) * 0.99)]
        results.append(
            {
                "name": name,
                "unit": f"us (heap push and pop {heap_us:.1f} us; 99 % within {slow_us:.0f})",
                "ours": 1e6 * medians[count],
                "at_most": 2e6 * medians[SIZES[0]],
            }
        )
        results.append(
            {"name": f"the longest of {len(found):,}", "unit": "ms", "ours": 1e3 * found[-1], "at_most": LONGEST_MS}
        )
        if count == SIZES[-1]:
            results.append({"name": f"{count:,} open jobs: loaded in", "unit": "s", "ours": seconds, "at_most": 10.0})
        del planner
        gc.unfreeze()
        gc.collect()
    results.append({"name": "memory a job", "unit": "bytes", "ours": bytes_a_job(), "at_most": 400.0})
    return results
