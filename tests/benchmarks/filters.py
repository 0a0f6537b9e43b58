"""What matching an event costs with 1,000 subscriptions that have ten distinct filters, on attributes and on data,
beside 1,000 subscriptions without filters; and with the most comparisons that an owner may have, of texts and with the
operands that take longest.

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

from relay.core.events.event import Event  # noqa: E402
from relay.core.samples import sample_event  # noqa: E402
from relay.core.subscriptions.comparisons import MAX_SEARCHED  # noqa: E402
from relay.core.subscriptions.filters import MAX_COMPARISONS, MAX_OWNER_COMPARISONS  # noqa: E402
from relay.store.databases.sqlite import url_of  # noqa: E402
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
    "data": lambda number: (
        {"range": {"/data/metadata/deal": {"gt": 40 + number}}},
        {"exact": {"channel": "linkedin"}},
    ),
    "most": lambda number: _some_of_most(number, lambda n: {"exact": {"/data/metadata/campaign": f"other {n}"}}),
    "worst": lambda number: _some_of_most(number, _worst),
}
MOST = ("most", "worst")
"""The cases with as many subscriptions as the most comparisons take."""


def _some_of_most(number: int, one: Callable[[int], Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The comparisons of one of the subscriptions that have the most comparisons together. All are evaluated."""
    first = number * MAX_COMPARISONS
    return ({"any": [one(n) for n in range(first, min(first + MAX_COMPARISONS, MAX_OWNER_COMPARISONS))]},)


def _worst(number: int) -> Mapping[str, Any]:
    """The text that is searched repeats its first letters up to its end."""
    return {"contains": {"/data/metadata/text": f"{'a' * 200}{number}b"}}


def event(number: int, *, worst: bool = False) -> Event:
    """A failed job with metadata, of about 1.5 KiB, that no filter lets through: deliveries would hide the cost."""
    made = sample_event(
        "ai.revor.job.failed", event_id=f"evt_{number}", now=NOW, origin=ORIGIN, dataschema_base="https://relay.test"
    )
    document = orjson.loads(made.body)
    document["data"]["metadata"] = {"deal": 17, "owner": "ada", "campaign": "spring"}
    if worst:
        document["data"]["metadata"]["text"] = "a" * MAX_SEARCHED
    return Event(
        **{name: getattr(made, name) for name in ("source", "type", "subject", "time", "recorded_at")},
        id=f"evt_{number}",
        job_uid="job_1",
        body=orjson.dumps(document),
    )


async def microseconds(store: Store, first: int, count: int, *, worst: bool = False) -> float:
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

    return await store.database.write(batch, [event(first + number, worst=worst) for number in range(count + 1)])


async def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """The cases, in alternation."""
    events = max(10, int(EVENTS * scale))
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for name, filters_of in CASES.items():
            stores[name] = store = await open_store(url_of(Path(folder) / f"{name}.db"), ReversingCipher(), now=NOW)
            count = -(-MAX_OWNER_COMPARISONS // MAX_COMPARISONS) if name in MOST else SUBSCRIPTIONS
            made = [
                subscription(f"sub_{n}", filters=tuple(filters_of(n if name in MOST else n % DISTINCT)))
                for n in range(count)
            ]
            await asyncio.gather(*map(store.subscriptions.create, made))
        for turn in range(ROUNDS):
            for name, store in stores.items():
                number = max(10, events // 20) if name in MOST else events
                took = await microseconds(store, turn * (events + 1), number, worst=name == "worst")
                found[name].append(took)
        for store in stores.values():
            await store.close()
    matched = f"an event to {SUBSCRIPTIONS:,} subscriptions, filters"
    most = f"an event to {MAX_OWNER_COMPARISONS:,} distinct comparisons"
    limits = (
        (f"{matched}: none", "none", 20.0),
        (f"{matched}: ten on attributes", "exact", 200.0),
        (f"{matched}: ten on data", "data", 200.0),
        (f"{most} of texts", "most", 5_000.0),
        (f"{most}, the worst operands", "worst", 50_000.0),
    )
    return [
        {"name": name, "ours": statistics.median(found[case]), "at_most": at_most, "unit": "us"}
        for name, case, at_most in limits
    ]


if __name__ == "__main__":
    for result in asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)):
        print(f"{result['name']:60} {result['ours']:8.1f} {result['unit']} (at most {result['at_most']:g})")
