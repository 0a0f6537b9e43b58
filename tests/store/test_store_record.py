"""What a poll records: state, events and deliveries in one transaction, and nothing of a stale or failed one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from relay.core.jobs.job import Progress
from relay.core.records import PollNote
from relay.errors import StaleSequence, StoreError
from relay.store.databases import pages
from relay.store.outbox import recording
from relay.store.outbox.recording import open_pairs
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    counts,
    deliveries,
    execute,
    intent,
    job_event,
    lease,
    poll,
    registration,
    relay_event,
    seen,
    states,
    subscription,
    together,
    track,
)


async def test_state_events_and_deliveries_are_committed_together(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    before = store.database.commit_count
    record = poll(uid, 0, "queued", "running", seen=seen("running", started_at=NOW - 1, upstream={"status": "running"}))
    await store.jobs.record(record)
    assert store.database.commit_count == before + 1
    job = await store.jobs.get(uid)
    assert job is not None
    assert job.progress == record.progress
    assert (job.started_at, job.upstream, job.last_polled_at) == (NOW - 1, {"status": "running"}, NOW)
    assert job.poll_count == 1
    assert await store.events.of_job(uid) == list(record.events)
    assert await states(store) == ["pending", "blocked"]


async def test_open_deliveries_are_looked_for_only_behind_the_first_event_of_a_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    first, second = await track(store, "a"), await track(store, "b")
    await store.jobs.record(poll(first, 0, "queued"))
    asked: list[list[str]] = []

    def noted(connection: Connection, uids: Sequence[str], **options: Any) -> set[tuple[str, str]]:
        asked.append(list(uids))
        return open_pairs(connection, uids, **options)

    monkeypatch.setattr(recording, "open_pairs", noted)
    await together(
        store,
        store.jobs.record(poll(first, 1, "running")),
        store.jobs.record(poll(second, 0, "queued", "running")),
    )
    assert asked == [[first]]
    assert await states(store) == ["pending", "blocked", "pending", "blocked"]


@pytest.mark.parametrize("expected", [0, 2, 3])
async def test_a_record_with_another_sequence_is_stale_and_changes_nothing(store: Store, expected: int) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    before = await store.jobs.get(uid), await counts(store)
    with pytest.raises(StaleSequence):
        await store.jobs.record(poll(uid, expected, "running"))
    assert (await store.jobs.get(uid), await counts(store)) == before


@pytest.mark.parametrize(("expected", "written"), [(None, True), (1, True), (0, False), (2, False)])
async def test_a_poll_is_not_written_over_one_that_was_recorded_since_it_was_sent(
    store: Store, expected: int | None, written: bool
) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    before = await store.jobs.get(uid), await counts(store)
    note = PollNote(job_uid=uid, next_poll_at=NOW + 60, polled_at=NOW + 1, expected_poll_count=expected)
    record = poll(uid, 1, "running", expected_poll_count=expected if expected != 1 else 2)
    await store.jobs.note(note)
    if written:
        await store.jobs.record(record)
        job = await store.jobs.get(uid)
        assert job is not None
        assert (job.poll_count, job.next_poll_at, job.progress.status) == (3, NOW + 60, "running")
    else:
        with pytest.raises(StaleSequence):
            await store.jobs.record(replace(record, expected_poll_count=expected))
        assert (await store.jobs.get(uid), await counts(store)) == before


async def test_only_the_failing_item_of_a_group_is_undone(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uids = [await track(store, name) for name in "abcde"]
    await store.jobs.record(poll(uids[0], 0, "queued", events=[job_event(uids[0], 1, id="evt_taken")]))
    results = await together(
        store,
        store.jobs.record(poll(uids[1], 0, "queued")),
        store.jobs.record(poll(uids[2], 0, "running", events=[job_event(uids[2], 1, id="evt_taken")])),
        store.jobs.record(poll(uids[3], 0, "queued", "running", lease=lease("sub_1"))),
        store.jobs.note(PollNote(job_uid=uids[2], next_poll_at=NOW + 5)),
        store.jobs.register(registration("f")),
        store.jobs.untrack(uids[4], NOW),
    )
    assert isinstance(results[1], StoreError)
    assert "\n" not in str(results[1])
    assert not any(isinstance(result, Exception) for result in (*results[:1], *results[2:]))
    jobs = [await store.jobs.get(uid) for uid in uids]
    assert [job.progress.sequence for job in jobs if job] == [1, 1, 0, 2, 0]
    assert jobs[2] is not None
    assert (jobs[2].progress, jobs[2].upstream, jobs[2].next_poll_at) == (Progress(), None, NOW + 5)
    assert (await counts(store))["events"] == 4
    assert [row["job_uid"] for row in await deliveries(store)] == sorted([uids[0], uids[1], uids[3], uids[3]])
    assert results[2].claimed[0].event.sequence == 1


async def test_event_with_a_used_sequence_fails_alone(store: Store) -> None:
    uid, other = await track(store), await track(store, "other")
    await store.jobs.record(poll(uid, 0, "queued"))
    twice = replace(poll(uid, 1, "running"), events=(job_event(uid, 1, "running"),))
    results = await together(store, store.jobs.record(twice), store.jobs.record(poll(other, 0, "queued")))
    assert [isinstance(result, StoreError) for result in results] == [True, False]


async def test_the_error_of_a_batch_function_in_the_middle_leaves_nothing_half_written(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    record = poll(uid, 0, "queued", "running")
    await execute(  # in the way of the last row that is written: the second event's delivery
        store,
        "INSERT INTO deliveries (id, event_id, subscription_id, state, priority, due_at, attempt_count, made_count,"
        " created_at) VALUES ('dlv_1', :event_id, 'sub_1', 'dead', 0, 0.0, 0, 0, 0.0)",
        event_id=record.events[1].id,
    )
    with pytest.raises(StoreError, match="event_id"):
        await store.jobs.record(record)
    found = await counts(store)
    assert (found["events"], found["deliveries"]) == (0, 1)
    assert (await store.jobs.find("a job"))[0].progress.sequence == 0
    await store.jobs.record(poll(uid, 0, "queued"))
    assert sorted(await states(store)) == ["dead", "pending"]


async def test_back_off_step_is_kept_until_a_poll_finds_something(store: Store) -> None:
    uid = await track(store)
    (job,) = await store.jobs.open_jobs("revor", "default")
    assert (job.next_poll_at, job.poll_step) == (None, 0)
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 9, poll_step=60, polled_at=NOW))
    (job,) = await store.jobs.open_jobs("revor", "default")
    assert (job.next_poll_at, job.poll_step) == (NOW + 9, 60)
    assert (await store.jobs.find("a job"))[0].poll_step == 60
    await store.jobs.record(poll(uid, 0, "queued"))
    (job,) = await store.jobs.open_jobs("revor", "default")
    assert (job.next_poll_at, job.poll_step) == (NOW + 9, 0)


async def test_passed_deadline_is_listed_until_it_is_reported(store: Store) -> None:
    uid = await track(store, "a", deadline_seconds=1.0)
    await track(store, "b", deadline_seconds=100.0)
    closed = await track(store, "c", deadline_seconds=1.0)
    await store.jobs.untrack(closed, NOW)
    place = ("revor", "default")
    assert await store.jobs.past_deadline(*place, NOW) == []
    assert await store.jobs.past_deadline(*place, NOW + 2) == [(NOW + 1, uid)]
    await store.jobs.record(poll(uid, 0, "overdue", seen=None, progress=Progress(sequence=1, overdue=True)))
    assert await store.jobs.past_deadline(*place, NOW + 2) == []
    assert await store.jobs.accounts_past_deadline([place], NOW + 2) == []


async def test_events_stream_in_the_order_of_their_commits(store: Store) -> None:
    beginning = await store.events.newest_position()
    assert (await store.events.tail(beginning)).events == (await store.events.tail(0)).events == []
    uids = [await track(store, f"job {n}") for n in range(10)]
    await together(store, *(store.jobs.record(poll(uid, 0, "queued", "running")) for uid in uids))
    await store.events.record(relay_event())
    positions = [position for position, _ in (await store.events.tail(beginning)).events]
    assert positions == sorted(set(positions))
    assert len(positions) == 21
    assert [position for position, _ in (await store.events.tail(0)).events] == positions
    newest = await store.events.newest_position()
    assert newest >= positions[-1]
    assert (await store.events.tail(newest)).events == []
    half = positions[10]
    middle = (await store.events.tail(half, 1)).events[0]
    assert middle[0] == positions[11]
    assert await store.events.position_of(middle[1].id) == positions[11]
    assert await store.events.get(middle[1].id) == middle[1]
    assert (await store.events.tail(positions[-1])).events == []


async def test_a_page_of_a_list_ends_before_it_is_too_large(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 1_000)
    uids = []
    for number, size in enumerate([100, 400, 2_000, 300, 300, 300]):
        uids.append(await track(store, f"job-{number}"))
        seen_of_it = seen(upstream={"of": "x" * size})
        await store.jobs.record(poll(uids[-1], 0, "queued", seen=seen_of_it, events=[]))
        await store.events.record(relay_event(now=NOW + number, body=b"x" * size))
        sent = intent(NOW + number)
        await store.intents.begin(replace(sent, metadata={"of": "x" * size}))
        await store.intents.unknown(sent.id, "no_answer")
    for page in (store.jobs.page, store.events.page, partial(store.intents.page, now=NOW)):
        counts, cursor = [], None
        while True:
            found = await page(limit=4, cursor=cursor)
            counts.append(len(found.items))
            cursor = found.next_cursor
            if cursor is None:
                break
        assert sum(counts) == 6
        assert len(counts) >= 3  # two pages of four rows, without the limit
