"""What matching an event costs with 1,000 subscriptions that have ten distinct filters: ten evaluations. In a dialect
of CloudEvents and in CEL, beside 1,000 subscriptions without filters.

`python filters.py [SCALE]` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from relay.core.events import Event  # noqa: E402
from relay.core.filters import EventView, Filters  # noqa: E402
from relay.core.samples import sample_event  # noqa: E402
from relay.store.sqlite import url_of  # noqa: E402
from relay.store.store import Store, open_store  # noqa: E402
from tests.benchmarks.run import ORIGIN  # noqa: E402
from tests.support.store_kit import NOW, ReversingCipher, subscription  # noqa: E402

SUBSCRIPTIONS = 1_000
DISTINCT = 10
EVENTS = 500
ROUNDS = 7
CASES: Mapping[str, Callable[[int], Sequence[Mapping[str, Any]]]] = {
    "none": lambda number: (),
    "exact": lambda number: ({"exact": {"channel": "linkedin", "group": f"group {number}"}},),
    "cel": lambda number: ({"cel": f'data.metadata.deal > 4{number} && channel == "linkedin"'},),
}


def event(number: int) -> Event:
    """A failed job with metadata, of about 1.5 KiB, that no filter lets through: deliveries would hide the cost."""
    made = sample_event(
        "ai.revor.job.failed", event_id=f"evt_{number}", now=NOW, origin=ORIGIN, dataschema_base="https://relay.test"
    )
    document = orjson.loads(made.body)
    document["data"]["metadata"] = {"deal": 17, "owner": "ada", "campaign": "spring"}
    return Event(
        **{name: getattr(made, name) for name in ("source", "type", "subject", "time", "recorded_at")},
        id=f"evt_{number}",
        job_uid="job_1",
        body=orjson.dumps(document),
    )


async def microseconds(store: Store, first: int, count: int) -> float:
    """One event's share, in the writer's thread, where the outbox matches."""

    def batch(connection: Any, items: Sequence[Any]) -> Sequence[float]:
        matching, took = store.outbox.subscriptions.matching, []
        for events in items:
            matching(connection, events[0])  # the first of a type reads the subscriptions
            began = time.thread_time()  # whatever else runs on the machine
            for one in events[1:]:
                matching(connection, one)
            took.append((time.thread_time() - began) / count * 1e6)
        return took

    return await store.database.write(batch, [event(first + number) for number in range(count + 1)])


async def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """The three cases, in alternation."""
    events, evaluated = max(10, int(EVENTS * scale)), [0]
    passes = Filters.passes

    def counted(self: Filters, view: EventView, *options: Any) -> bool:
        evaluated[0] += 1
        return passes(self, view, *options)

    found: dict[str, list[float]] = {name: [] for name in CASES}
    evaluations: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for name, filters_of in CASES.items():
            stores[name] = store = await open_store(url_of(Path(folder) / f"{name}.db"), ReversingCipher(), now=NOW)
            made = (subscription(f"sub_{n}", filters=tuple(filters_of(n % DISTINCT))) for n in range(SUBSCRIPTIONS))
            await asyncio.gather(*(store.subscriptions.create(one) for one in made))
        for turn in range(ROUNDS):
            for name, store in stores.items():
                found[name].append(await microseconds(store, turn * (events + 1), events))
        Filters.passes = counted  # type: ignore[method-assign]
        try:
            for name, store in stores.items():
                evaluated[0] = 0
                await microseconds(store, ROUNDS * (events + 1), events)
                evaluations[name] = evaluated[0] / (events + 1)
        finally:
            Filters.passes = passes  # type: ignore[method-assign]
        for store in stores.values():
            await store.close()
    matched = f"an event to {SUBSCRIPTIONS:,} subscriptions"
    results = [
        {
            "name": f"{matched}, {DISTINCT} filters ({name})",
            "ours": evaluations[name],
            "at_most": float(DISTINCT),
            "unit": "evaluations",
        }
        for name in ("exact", "cel")
    ]
    for name, at_most in (("none", 20.0), ("exact", 200.0), ("cel", 500.0)):
        ours = statistics.median(found[name])
        results.append({"name": f"{matched}, filters: {name}", "ours": ours, "at_most": at_most, "unit": "us"})
    return results


if __name__ == "__main__":
    for result in asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)):
        print(f"{result['name']:60} {result['ours']:8.1f} {result['unit']} (at most {result['at_most']:g})")
