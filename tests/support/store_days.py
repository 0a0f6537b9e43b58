"""Days in the life of a store by a clock of its own: jobs start and end, events are delivered, upkeep runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from relay.config.settings import RetentionSettings
from relay.core.deliveries.delivery import Attempt
from relay.core.events.event import Origin, from_transition
from relay.core.jobs.job import Job, Observation, Progress, detect
from relay.core.polling.tracking import Registration
from relay.core.records import AttemptResult, Lease, PollRecord
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.metrics import Metrics
from relay.node.upkeep import DAY_SECONDS, Retention
from relay.store.store import Store
from tests.support.store_kit import registration

BEGIN = 1_800_000_000.0
EVENTS_A_JOB = 2
CHUNK_JOBS = 500
ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs",
    type_prefix="ai.revor.job",
    dataschema="https://relay.example/schemas/job-status.v1.json",
)
SENT = (
    ("content-type", "application/cloudevents+json"),
    ("user-agent", "revor-relay/0.1.0"),
    ("webhook-id", "evt_01m89nddrfnyht2pcg0k3ftrhs"),
    ("webhook-timestamp", "1800000000"),
    ("webhook-signature", "[redacted]"),
)
ANSWERED = (
    ("date", "Fri, 15 Jan 2027 08:00:00 GMT"),
    ("content-type", "application/json"),
    ("content-length", "15"),
    ("connection", "keep-alive"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The end of a day: the database's size and number of events."""

    number: int
    size_bytes: int
    events: int


async def days(
    store: Store, count: int, events_a_day: int, *, settings: RetentionSettings | None = None, steps_a_day: int = 24
) -> AsyncIterator[Day]:
    """Days of jobs that end, with two events each; every event has one delivery with one attempt. Retention runs
    once per step, not once a minute, and not at all if `settings` is None."""
    await store.subscriptions.create(Subscription(id="sub_days", sink="https://sink.example/hook", created_at=BEGIN))
    now = BEGIN
    retention = None
    if settings is not None:
        retention = Retention(store.upkeep, Metrics(), lambda: now, settings)
    jobs_a_day = events_a_day // EVENTS_A_JOB
    made = 0
    for number in range(1, count + 1):
        for step in range(steps_a_day):
            now = BEGIN + (number - 1 + step / steps_a_day) * DAY_SECONDS
            wanted = (number - 1) * jobs_a_day + jobs_a_day * (step + 1) // steps_a_day
            while made < wanted:
                chunk = range(made, min(wanted, made + CHUNK_JOBS))
                await _live(store, chunk, now)
                made = chunk.stop
            if retention is not None:
                await retention.run_once()
        yield Day(
            number=number, size_bytes=await store.database.size_bytes(), events=await store.database.read(_count_events)
        )


async def _live(store: Store, numbers: range, now: float) -> None:
    """Jobs are registered, polled at their end and delivered, in three commits for all of them."""
    pairs = [_job(number, now) for number in numbers]
    await store.jobs.register_many([made for made, _ in pairs])
    taken = await asyncio.gather(*(store.jobs.record(record) for _, record in pairs))
    waiting = [one for recorded in taken for one in recorded.claimed]
    while waiting:
        marked = await asyncio.gather(
            *(
                store.deliveries.record(
                    AttemptResult(
                        claimed=one,
                        state="delivered",
                        now=now,
                        attempt=Attempt(
                            number=1,
                            started_at=now,
                            duration_ms=38.25,
                            status_code=200,
                            request_headers=SENT,
                            response_headers=ANSWERED,
                            response_excerpt='{"status":"ok"}',
                            remote_ip="203.0.113.9",
                        ),
                        next_lease=Lease(token=f"after {one.id}", until=now + 45.0),
                        next_count=1,
                    )
                )
                for one in waiting
            )
        )
        waiting = [one for (mark,) in marked for one in mark.next]


def _job(number: int, now: float) -> tuple[Registration, PollRecord]:
    """A job, and the poll that saw its whole life."""
    uid, external_id = new_id("job", now), f"1699a819-188d-48b6-b6be-{number:012x}"
    item = {
        **{"id": external_id, "status": "succeeded", "action": "outreach.dispatch", "channel": "email"},
        **{"scheduled_at": "2026-05-20T10:00:00.000Z", "started_at": "2026-05-20T10:00:01.000Z"},
        **{"finished_at": "2026-05-20T10:00:08.000Z", "attempt_count": 1, "next_attempt_at": None, "error": None},
    }
    seen = Observation(
        status="succeeded", observed_at=now, started_at=now - 7, finished_at=now, attempt_count=1, upstream=item
    )
    job = Job(uid=uid, external_id=external_id, source="revor", account="default", metadata={"deal": number})
    transitions, progress = detect(Progress(), seen)
    events = tuple(from_transition(new_id("evt", now), job, t, ORIGIN, seen=seen) for t in transitions)
    assert len(events) == EVENTS_A_JOB
    made = registration(external_id, uid=uid, metadata=job.metadata, tracked_at=now)
    lease = Lease(token=f"lease {number // CHUNK_JOBS}", until=now + 45.0, subscription_ids=frozenset({"sub_days"}))
    return made, PollRecord(
        job_uid=uid,
        expected_sequence=0,
        progress=progress,
        events=events,
        now=now,
        seen=seen,
        outcome="succeeded",
        lease=lease,
    )


def _count_events(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT COUNT(*) FROM events").scalar_one())
