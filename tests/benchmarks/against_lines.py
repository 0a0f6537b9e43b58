"""The lines of against.py: for each path through the relay a load of which one turn is measured. All speak only HTTP,
and with settings that any version has."""

import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from against_world import World, megabytes, processor_seconds
from dropin_stub import JOBS
from dropin_world import AUTHORIZED

ENDED_TYPE = "ai.revor.job.succeeded"
PUBLISHED_TYPE = "com.acme.order.paid"
SEES_NOTHING = 1.0
"""Requests a second to the upstream that are too few to matter."""
UNBOUNDED = 10_000.0
RUNNING, ENDED = "9999999999", "0"
"""How ids of jobs begin that run for ever, and that the first poll finds ended (latency_ends.py)."""
PACE = 50.0
"""Requests a second where latency is measured."""
PACED_SHARE = 0.04
"""Of a turn's requests: those that are paced."""
BATCH_JOBS, BATCH_EVENTS = 1_000, 100
FILTERS = (
    {"exact": {"source": "/shop"}},
    {"range": {"/data/total": {"gte": 40}}},
    {"contains": {"/data/lines/0/sku": "A-"}},
)
"""Of a subscription to published events, all of which pass."""
TEMPLATE = {
    **{"id": "{{ event.id }}", "type": "{{ event.type }}", "subject": "{{ event.subject }}"},
    **{"status": "{{ event.status }}", "deal": "{{ metadata.deal }}", "text": "{{ metadata.deal }}: {{ sentence }}"},
}
WAITED_JOBS = 20
WAIT_LEAD_SECONDS = 4.0
"""From the registration to the end of a job that clients wait for: by then all of them are connected."""
WAIT_SPREAD_SECONDS = 1.0
ARRIVED_SECONDS = 0.5
"""After a kill: what was on its way has arrived by then."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A load.

    count    how much is done in a turn at size 1
    turn     does so much, and returns the figures
    prepare  what is done once before the first turn, of which each version has so much
    polls    requests a second that the relay may send to its upstream
    most     seconds between two polls of a job, at most
    starts   the relay is started in each turn, not before
    """

    name: str
    count: int
    turn: Callable[[World, int], Figures]
    prepare: Callable[[World, int], None] = lambda _world, _count: None
    polls: float = SEES_NOTHING
    most: float = 900.0
    starts: bool = False


def percentiles(seconds: Sequence[float]) -> Figures:
    """The middle and the 99th percentile, in ms."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [*seconds] * 99
    return {"p50": 1e3 * cuts[49], "p99": 1e3 * cuts[98]}


def json_text(value: Any) -> str:
    """A body."""
    return orjson.dumps(value).decode()


def job_batches(ids: Sequence[str]) -> list[str]:
    """Bodies of POST /v1/jobs/batch."""
    return [json_text({"jobs": [{"id": id, "metadata": {"deal": 42}} for id in chunk]}) for chunk in chunks(ids)]


def chunks(values: Sequence[Any], size: int = BATCH_JOBS) -> list[Sequence[Any]]:
    """The values, so many at a time."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def register(world: World, ids: Sequence[str]) -> dict[str, Any]:
    """Has jobs tracked, a batch at a time. `rate`: jobs a second."""
    bodies = job_batches(ids)
    found = world.load(
        "closed", "200 direct", paths=["/v1/jobs/batch"], method="POST", body="", bodies=bodies, in_flight=1
    )
    return {**found, "rate": found["rate"] * len(ids) / len(bodies)}


def arrived(world: World, count: int, begun_at: float) -> tuple[float, dict[str, float]]:
    """Waits until the sink has so many. How many came a second, and when each, by its subject."""
    world.until(f"{count} deliveries", lambda: world.sink.ask("count") >= count)
    came: dict[str, float] = {}
    for at, _, _, subject in world.sink.ask("take"):
        came.setdefault(subject, at)
    return count / (max(came.values()) - begun_at), came


def register_batches(world: World, count: int) -> Figures:
    """Jobs by POST /v1/jobs/batch; a request has 1,000 of them."""
    with world.spending(count / 1000) as figures:
        found = register(world, world.ids(RUNNING, count))
    return {**figures, "rate": found["rate"], **percentiles(found["seconds"])}


def register_each(world: World, count: int) -> Figures:
    """Jobs by POST /v1/jobs, 64 callers."""
    bodies = [json_text({"id": id, "metadata": {"deal": 42}}) for id in world.ids(RUNNING, count)]
    with world.spending(count / 1000) as figures:
        found = world.load(
            "closed", "201 direct", paths=["/v1/jobs"], method="POST", body="", bodies=bodies, in_flight=64
        )
    return {**figures, "rate": found["rate"], **percentiles(found["seconds"])}


def job_to_delivery(world: World, count: int) -> Figures:
    """Rate and processor time: jobs in by batch, each polled once, its end delivered. Latency: of jobs that come one by
    one, from when the upstream shows the end to the request at the sink."""
    with world.spending(count / 1000) as figures:
        begun_at = register(world, world.ids(ENDED, count))["began_at"]
        figures["rate"], _ = arrived(world, count, begun_at)
    world.upstream.ask("take")
    ids = world.ids(ENDED, paced(count))
    bodies = [json_text({"id": id}) for id in ids]
    world.load("paced", "201 direct", paths=["/v1/jobs"], method="POST", body="", bodies=bodies, rate=PACE)
    _, came = arrived(world, len(ids), begun_at)
    shown = world.upstream.ask("take")["shown"]
    world.quiet()
    return {**figures, **percentiles([came[id] - shown[id] for id in ids]), "memory": megabytes(world.roots)}


def paced(count: int) -> int:
    """How many of a turn's requests are paced."""
    return max(10, round(PACED_SHARE * count))


def subscribe_jobs(world: World, _count: int, **more: Any) -> None:
    """To the ends of jobs."""
    world.subscribe([ENDED_TYPE], **more)


def event(id: str) -> dict[str, Any]:
    """A published event of about 1 KiB, of one of a thousand partition keys."""
    number = int(id.rpartition("-")[2])
    return {
        **{"specversion": "1.0", "id": id, "source": "/shop", "type": PUBLISHED_TYPE, "subject": id},
        **{"partitionkey": f"customer {number % 1000}", "time": "2026-05-20T10:00:08.123Z"},
        **{"datacontenttype": "application/json"},
        "data": {"order": number, "total": 42.5, "lines": [{"sku": "A-17", "text": "x" * 130}] * 4},
    }


def published(world: World, bodies: Sequence[str], way: str, media_type: str, **spec: Any) -> dict[str, Any]:
    """What came of POST /v1/events with these bodies."""
    headers = {**AUTHORIZED, "Content-Type": media_type}
    return world.load(*(way, "202 direct"), paths=["/v1/events"], method="POST", bodies=bodies, headers=headers, **spec)


def publish_each(world: World, count: int) -> Figures:
    """Events by POST /v1/events, 32 callers, each delivered. Latency: of those at 50 a second, from the request to the
    request at the sink."""
    one = "application/cloudevents+json"
    bodies = [json_text(event(id)) for id in world.ids("event", count)]
    with world.spending(count / 1000) as figures:
        begun_at = published(world, bodies, "closed", one, in_flight=32)["began_at"]
        figures["rate"], _ = arrived(world, count, begun_at)
    ids = world.ids("event", paced(count))
    found = published(world, [json_text(event(id)) for id in ids], "paced", one, rate=PACE)
    _, came = arrived(world, len(ids), begun_at)
    return {**figures, **percentiles([came[id] - at for id, at in zip(ids, found["due_at"], strict=True)])}


def publish_batches(world: World, count: int) -> Figures:
    """Events by POST /v1/events, 100 in a request, 4 callers, each delivered. Latency: of a request."""
    batches = chunks([event(id) for id in world.ids("event", count)], BATCH_EVENTS)
    bodies = [json_text(batch) for batch in batches]
    with world.spending(count / 1000) as figures:
        found = published(world, bodies, "closed", "application/cloudevents-batch+json", in_flight=4)
        figures["rate"], _ = arrived(world, count, found["began_at"])
    return {**figures, **percentiles(found["seconds"])}


def subscribe_published(world: World, _count: int, **more: Any) -> None:
    """To published events. Raises Lacks where none are taken."""
    try:
        world.post("/v1/events")
    except RuntimeError:
        world.subscribe([PUBLISHED_TYPE], **more)  # an empty event is refused, so they are taken


def deliver(world: World, count: int) -> Figures:
    """Events of jobs that were recorded while their subscription was paused. Latency: from one request at the sink to
    the next."""
    world.post(f"/v1/subscriptions/{world.subscription}/pause")
    register(world, world.ids(ENDED, count))
    world.until("the ends of all jobs", lambda: world.upstream.ask("count") >= count)
    world.upstream.ask("take")
    with world.spending(count / 1000) as figures:
        begun_at = time.time()
        world.post(f"/v1/subscriptions/{world.subscription}/resume")
        figures["rate"], came = arrived(world, count, begun_at)
    times = sorted(came.values())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return {**figures, "p99": percentiles(gaps)["p99"]}


def wait_for_jobs(world: World, count: int) -> Figures:
    """Clients in GET /v1/jobs/{id} with `Prefer: wait`, for 20 jobs that are polled every second. Latency: from when
    the upstream shows the end to the answer."""
    with world.spending(count / 1000) as figures:
        first = time.time() + WAIT_LEAD_SECONDS
        step = WAIT_SPREAD_SECONDS / WAITED_JOBS
        ids = [world.ids(f"{first + number * step:.3f}", 1)[0] for number in range(WAITED_JOBS)]
        register(world, ids)
        headers = {**AUTHORIZED, "Prefer": "wait=60"}
        found = world.load("wait", "200 direct", paths=[f"/v1/jobs/{id}" for id in ids], count=count, headers=headers)
    shown = world.upstream.ask("take")["shown"]
    since = [max(shown[id], sent) for id, sent in zip(itertools.cycle(ids), found["sent_at"], strict=False)]
    return {**figures, **percentiles([at - begun for at, begun in zip(found["times"], since, strict=True)])}


def track_ended(world: World, _count: int) -> None:
    """A hundred jobs that have ended, which the drop-in answers reads of."""
    ids = [f"{ENDED}-served{number}" for number in range(100)]
    register(world, ids)
    world.load(
        "closed", "200 hit", "200 pass", paths=[JOBS.decode() + id for id in ids], count=100, in_flight=8, headers={}
    )
    world.until("the ends of all jobs", lambda: world.get(f"/v1/jobs/{ids[-1]}")["open"] is False)


def served_reads(world: World, count: int) -> Figures:
    """Reads of ended jobs through the drop-in, 32 callers: answered without the upstream."""
    paths = [f"{JOBS.decode()}{ENDED}-served{number}" for number in range(100)]
    with world.spending(count / 1000) as figures:
        found = world.load("closed", "200 hit", paths=paths, count=count, in_flight=32, headers={})
    return {**figures, "rate": found["rate"], **percentiles(found["seconds"])}


def start(world: World, _count: int) -> Figures:
    """From the start of the process to its first answer, with a database that is there. Memory and processor time: once
    all open jobs are planned."""
    database = [] if world.postmaster is None else [world.postmaster]
    before = processor_seconds(database)
    begun = time.monotonic()
    with ExitStack() as running:
        running.enter_context(world.serving())
        world.get("/v1/jobs?limit=1")
        seconds = time.monotonic() - begun
        world.quiet()
        used = processor_seconds(world.roots) - before
        return {"start": seconds, "start processor": used, "memory": megabytes(world.roots)}


def restart(world: World, count: int) -> Figures:
    """From the start of the process after `kill -9` to its first answer, and to the first delivery that was due."""
    with world.serving():
        world.post(f"/v1/subscriptions/{world.subscription}/pause")
        batch = json_text([event(id) for id in world.ids("event", count)])
        published(world, [batch], "closed", "application/cloudevents-batch+json", in_flight=1)
        world.post(f"/v1/subscriptions/{world.subscription}/resume")
        os.kill(world.pid, signal.SIGKILL)
    time.sleep(ARRIVED_SECONDS)
    world.sink.ask("take")
    begun = time.time()
    with world.serving():
        world.get("/v1/jobs?limit=1")
        seconds = time.time() - begun
        world.until("the first delivery", lambda: world.sink.ask("count") > 0)
        first = min(at for at, *_ in world.sink.ask("take"))
        world.quiet()
        return {"start": seconds, "first delivery": first - begun}


def make_database(world: World, _count: int) -> None:
    """An empty database of the newest schema."""
    with world.serving():
        world.get("/v1/jobs?limit=1")


def subscribe_and_end(world: World, count: int) -> None:
    """To published events. Raises Lacks where none are taken."""
    with world.serving():
        subscribe_published(world, count)


def fill_with_open_jobs(world: World, count: int) -> None:
    """So many open jobs."""
    with world.serving():
        for some in chunks(world.ids(RUNNING, count), 10 * BATCH_JOBS):
            register(world, some)


LINES = (
    Line(name="registration, batches of 1,000", count=20_000, turn=register_batches),
    Line(name="registration, one at a time", count=4_000, turn=register_each),
    Line(name="job to delivery", count=4_000, turn=job_to_delivery, prepare=subscribe_jobs, polls=UNBOUNDED),
    Line(
        name="publish, one at a time",
        count=4_000,
        turn=publish_each,
        prepare=subscribe_published,
    ),
    Line(
        name="publish, batches of 100",
        count=8_000,
        turn=publish_batches,
        prepare=subscribe_published,
    ),
    Line(
        name="publish, batches of 100, filters",
        count=8_000,
        turn=publish_batches,
        prepare=partial(subscribe_published, filters=FILTERS),
    ),
    Line(name="delivery alone", count=4_000, turn=deliver, prepare=subscribe_jobs, polls=UNBOUNDED),
    Line(
        name="delivery alone, template",
        count=4_000,
        turn=deliver,
        prepare=partial(subscribe_jobs, config={"template": TEMPLATE}),
        polls=UNBOUNDED,
    ),
    Line(name="Prefer: wait", count=1_000, turn=wait_for_jobs, polls=200.0, most=1.0),
    Line(name="drop-in: served reads", count=20_000, turn=served_reads, prepare=track_ended, polls=UNBOUNDED),
    Line(name="start, empty", count=1, turn=start, prepare=make_database, starts=True),
    Line(name="start after a kill", count=1_000, turn=restart, prepare=subscribe_and_end, starts=True),
    Line(name="start, 100,000 open jobs", count=100_000, turn=start, prepare=fill_with_open_jobs, starts=True),
)
