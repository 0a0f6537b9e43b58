"""What the last event about a job's progress said is kept with the job, in the commit that has the event."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from relay.core.jobs.job import Advance, Progress, Told, detect
from relay.core.records import PollRecord
from relay.errors import StaleSequence, StoreError
from relay.store.databases.statements import run_many
from relay.store.jobs import jobs, registrations
from relay.store.jobs.registrations import SET_TOLD
from relay.store.store import Store
from tests.support.store_kit import NOW, job_event, poll, registration, rows, seen, together, track

TOLD = Told(NOW, 28, 14, 50, "verify “all”")
RUNNING = Progress(status="running", phase="running", sequence=2, running_sent=True, told=TOLD)


def told(uid: str, expected: int = 0, *, stage: str = "verify “all”", **fields: Any) -> PollRecord:
    """A poll that tells of progress."""
    advance = Advance(percent=28, done=14, total=50, stage=stage, is_told=True)
    observation = seen("running", advance=advance)
    transitions, progress = detect(Progress(sequence=expected), observation)
    events = [job_event(uid, one.sequence, one.kind) for one in transitions]
    return poll(uid, expected, events=events, seen=observation, progress=progress, **fields)


async def test_progress_is_kept_with_the_event_about_it(store: Store) -> None:
    uid = await track(store)
    before = store.database.commit_count
    record = told(uid)
    await store.jobs.record(record)
    assert store.database.commit_count == before + 1
    job = await store.jobs.get(uid)
    assert job is not None
    assert job.progress == record.progress == RUNNING
    assert await store.events.of_job(uid) == list(record.events)


async def test_stale_or_refused_record_keeps_nothing(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(told(uid))
    before = await store.jobs.get(uid)
    with pytest.raises(StaleSequence):
        await store.jobs.record(told(uid, 1, stage="rank"))
    again = told(uid, 2, stage="rank")
    twice = (again.events[0], again.events[0])
    with pytest.raises(StoreError):
        await store.jobs.record(poll(uid, 2, events=twice, seen=again.seen, progress=again.progress))
    assert await store.jobs.get(uid) == before


async def test_later_record_keeps_what_was_told(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(told(uid))
    ended = Progress(status="succeeded", phase="succeeded", sequence=3, told=TOLD)
    await store.jobs.record(poll(uid, 2, "succeeded", progress=ended, outcome="succeeded"))
    job = await store.jobs.get(uid)
    assert job is not None
    assert (job.outcome, job.progress.told) == ("succeeded", TOLD)


async def test_registration_keeps_the_progress_that_its_answer_shows(store: Store) -> None:
    uid, other = await together(
        store,
        *(
            store.jobs.register(one)
            for one in (
                registration("a", seen=seen("running"), progress=RUNNING),
                registration(
                    "b", seen=seen("running"), progress=Progress(status="running", phase="running", sequence=1)
                ),
            )
        ),
    )
    assert [one.job.progress.told for one in (uid, other)] == [TOLD, None]
    found = [await store.jobs.get(one.job.uid) for one in (uid, other)]
    assert [job and job.progress.told for job in found] == [TOLD, None]


async def test_job_without_such_events_costs_no_statement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Sequence[Mapping[str, Any]]] = []

    def noted(connection: Connection, statement: Any, values: Sequence[Mapping[str, Any]]) -> int:
        if statement is SET_TOLD and values:
            written.append(values)
        return run_many(connection, statement, values)

    for module in (jobs, registrations):
        monkeypatch.setattr(module, "run_many", noted)
    uid, other = await track(store), await track(store, "other")
    await together(store, store.jobs.record(told(uid)), store.jobs.record(poll(other, 0, "queued", "running")))
    assert [[one["uid"] for one in values] for values in written] == [[uid]]
    assert [row["told"] for row in await rows(store, "SELECT told FROM jobs WHERE external_id = 'other'")] == [None]


async def test_erased_job_takes_it_along(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(told(uid))
    await store.jobs.purge(uid, NOW)
    assert await rows(store, "SELECT told FROM jobs") == []
    with pytest.raises(StaleSequence):
        await store.jobs.record(told(uid, 2, stage="rank"))
    assert await rows(store, "SELECT 1 FROM events") == []
