"""Deliveries with a template and a filter beside plain ones: recorded, matched, rendered, signed, sent and marked, in
turns on two nodes of one process.

`python shaped.py` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from run import drained, job_with_events, node, sink_process, subscribed

from relay.node.interpreter import tune

TEMPLATE = {
    "properties": {
        "revor_status": "{{ event.status }}",
        "deal_id": "{{ metadata.deal }}",
        "note": "Outreach {{ event.status | human_status }} on {{ event.time | date: '%d.%m.%Y' }}",
    }
}
FILTERS = ({"range": {"/data/job/attempt_count": {"gt": 0}}}, {"exact": {"account": "default"}})
SHAPE: dict[str, Any] = {"options": {"template": TEMPLATE}, "filters": FILTERS}
BAR = 0.70
ROUNDS = 4
JOBS_AT_ONCE = 500


async def turn(opened: Any, subscription_id: str, count: int, number: int) -> tuple[int, float]:
    """Records the events of so many jobs and delivers them. Returns how many, and the seconds."""
    now = time.time()
    pairs = [job_with_events(number * count + index, now) for index in range(count)]
    chunks = [pairs[start : start + JOBS_AT_ONCE] for start in range(0, len(pairs), JOBS_AT_ONCE)]
    for chunk in chunks:
        await opened.store.jobs.register_many([registration for registration, _ in chunk])
    begun = time.perf_counter()
    for chunk in chunks:
        await asyncio.gather(*(opened.store.jobs.record(record) for _, record in chunk))
    recorded = time.perf_counter() - begun
    made = sum(len(record.events) for _, record in pairs)
    assert (await opened.store.deliveries.pending()).count == made
    return made, recorded + await drained(opened, subscription_id)


async def measure(count: int, in_flight: int = 64) -> dict[str, Any]:
    """Deliveries a second of a subscription with a template and a filter, beside one without."""
    totals, seconds = [0, 0], [0.0, 0.0]
    with sink_process() as url, tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with node(Path(one)) as plain, node(Path(other)) as shaped:
            nodes = [
                (plain, await subscribed(plain, url, in_flight)),
                (shaped, await subscribed(shaped, url, in_flight, **SHAPE)),
            ]
            tune()
            for number in range(ROUNDS):
                for which in (0, 1) if number % 2 else (1, 0):
                    made, took = await turn(*nodes[which], count // ROUNDS // 3, number)
                    totals[which] += made
                    seconds[which] += took
    return {
        **{"name": "deliveries with a template and a filter", "unit": "deliveries/s, beside plain ones", "bar": BAR},
        **{"ours": totals[1] / seconds[1], "baseline": totals[0] / seconds[0]},
    }


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(uvloop.run(measure(12_000)))
