"""What a poll records: state, events and deliveries in one transaction, and nothing of a stale or failed one."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from relay.core.deliveries.delivery import Timings
from relay.core.jobs.job import Progress
from relay.core.records import PollNote
from relay.errors import NotFound, StaleSequence, StoreError
from relay.store.databases import pages
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    attempt,
    claim,
    counts,
    deliveries,
    execute,
    intent,
    job_event,
    lease,
    poll,
    registration,
    relay_event,
    result_of,
    rows,
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


async def test_a_record_with_an_outcome_closes_the_job_and_ends_its_plan(store: Store) -> None:
    uid = await track(store)
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 60))
    await store.jobs.record(poll(uid, 0, "succeeded", outcome="succeeded", now=NOW + 3))
    job = await store.jobs.get(uid)
    assert job is not None
    assert (job.open, job.outcome, job.closed_at, job.next_poll_at) == (False, "succeeded", NOW + 3, None)


async def test_a_record_without_events_advances_the_job(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, events=(), progress=Progress(status="queued", sequence=0)))
    job = await store.jobs.get(uid)
    assert job is not None
    assert job.progress.status == "queued"


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


async def test_a_record_of_a_closed_job_is_stale(store: Store) -> None:
    uid = await track(store)
    await store.jobs.untrack(uid, NOW)
    with pytest.raises(StaleSequence):
        await store.jobs.record(poll(uid, 0, "queued"))


async def test_a_record_of_no_job_is_stale(store: Store) -> None:
    with pytest.raises(StaleSequence):
        await store.jobs.record(poll("job_none", 0, "queued"))


async def test_the_second_record_of_one_job_in_one_group_is_stale(store: Store) -> None:
    uid, other = await track(store), await track(store, "other")
    results = await together(
        store,
        store.jobs.record(poll(uid, 0, "queued")),
        store.jobs.record(poll(uid, 0, "queued")),
        store.jobs.record(poll(other, 0, "queued")),
    )
    assert [isinstance(result, StaleSequence) for result in results] == [False, True, False]
    assert (await counts(store))["events"] == 2


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


async def test_overdue_job_keeps_its_poll_counts(store: Store) -> None:
    uid = await track(store)
    error = {"code": "not_found", "message": "no such job"}
    note = PollNote(
        job_uid=uid,
        next_poll_at=NOW + 9,
        poll_step=4,
        polled_at=NOW,
        missing_count=3,
        missing_since=NOW - 5,
        last_error=error,
    )
    await store.jobs.note(note)
    overdue = poll(uid, 0, "overdue", seen=None, progress=Progress(sequence=1, overdue=True))
    await store.jobs.record(overdue)
    job = await store.jobs.get(uid)
    assert job is not None
    assert job.progress.overdue
    assert (job.missing_count, job.missing_since, job.last_error) == (3, NOW - 5, error)
    assert (job.poll_count, job.next_poll_at, job.poll_step, job.deadline_at) == (1, NOW + 9, 4, NOW + 604_800)


async def test_successful_poll_resets_earlier_failures(store: Store) -> None:
    uid = await track(store)
    error = {"code": "timeout", "message": "no answer"}
    failed = PollNote(job_uid=uid, next_poll_at=NOW + 9, polled_at=NOW, failure_count=2, last_error=error)
    await store.jobs.note(failed)
    job = await store.jobs.get(uid)
    assert job is not None
    assert (job.failure_count, job.last_error, job.poll_count, job.last_polled_at) == (2, error, 1, NOW)
    await store.jobs.record(poll(uid, 0, "queued"))
    job = await store.jobs.get(uid)
    assert job is not None
    assert (job.failure_count, job.missing_count, job.last_error, job.poll_count) == (0, 0, None, 2)


async def test_note_without_a_poll_counts_none(store: Store) -> None:
    uid = await track(store)
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 9))
    job = await store.jobs.get(uid)
    assert job is not None
    assert (job.poll_count, job.last_polled_at, job.next_poll_at) == (0, None, NOW + 9)


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


async def test_a_note_about_a_job_that_closed_meanwhile_changes_nothing(store: Store) -> None:
    uid = await track(store)
    await store.jobs.untrack(uid, NOW)
    before = await store.jobs.get(uid)
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 9, polled_at=NOW, failure_count=1))
    await store.jobs.note(PollNote(job_uid="job_none", next_poll_at=NOW + 9))
    assert await store.jobs.get(uid) == before


async def test_open_jobs_come_in_slices_without_their_bodies(store: Store) -> None:
    uids = sorted([await track(store, f"job {n}", metadata={"n": n}, tracked_at=NOW + n) for n in range(5)])
    await store.jobs.untrack(uids[1], NOW)
    await track(store, "elsewhere", account="other")
    first = await store.jobs.open_jobs("revor", "default", count=3)
    rest = await store.jobs.open_jobs("revor", "default", after_uid=first[-1].uid, count=3)
    assert [job.uid for job in (*first, *rest)] == [uids[0], *uids[2:]]
    assert not hasattr(first[0], "metadata")
    assert await store.jobs.open_counts() == {("revor", "default"): 4, ("revor", "other"): 1}


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


async def test_passed_deadlines_come_by_account_and_in_pages(store: Store) -> None:
    """However many jobs another account has."""
    for n in range(5):
        await track(store, f"gone {n}", account="gone", deadline_seconds=0.0)
    uids = [await track(store, f"job {n}", deadline_seconds=1.0 + n) for n in range(3)]
    uids += sorted([await track(store, f"same {n}", deadline_seconds=4.0) for n in range(2)])
    live, other = ("revor", "default"), ("revor", "other")
    await track(store, "not yet", account="other")
    assert await store.jobs.accounts_past_deadline([live, other], NOW + 9) == [live]
    assert await store.jobs.accounts_past_deadline([live, other], NOW) == []
    assert await store.jobs.accounts_past_deadline([], NOW) == []
    first = await store.jobs.past_deadline(*live, NOW + 9, count=4)
    rest = await store.jobs.past_deadline(*live, NOW + 9, after=first[-1], count=4)
    assert [uid for _, uid in (*first, *rest)] == uids


async def test_missing_jobs_and_events_are_not_found(store: Store) -> None:
    assert await store.jobs.get("job_none") is None
    assert await store.events.get("evt_none") is None
    assert await store.events.position_of("evt_none") is None
    assert await store.deliveries.get("dlv_none") is None
    assert await store.subscriptions.get("sub_none") is None
    for call in (
        store.jobs.untrack("job_none", NOW),
        store.jobs.purge("job_none", NOW),
        store.deliveries.retry("dlv_none", NOW),
        store.subscriptions.remove("sub_none", NOW),
        store.subscriptions.set_state("sub_none", "paused", NOW),
        store.subscriptions.replace(subscription("sub_none"), NOW),
    ):
        with pytest.raises(NotFound):
            await call


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


async def test_a_page_of_events_ends_before_it_is_too_large(store: Store) -> None:
    uid = await track(store, "job")
    sizes = [100, 100, 500, 100, 300, 100, 100]
    events = [job_event(uid, nth, body=b"x" * size) for nth, size in enumerate(sizes, 1)]
    await store.jobs.record(poll(uid, 0, "queued", events=events))
    beginning, found = 0, []
    while (tail := await store.events.tail(beginning, 50, 300)).events:
        found.append([len(event.body) for _, event in tail.events])
        assert tail.more or not (await store.events.tail(tail.events[-1][0])).events
        beginning = tail.events[-1][0]
    assert found == [[100, 100], [500], [100], [300], [100, 100]]
    first = await store.events.tail_of_job(uid, 0, 50, 300)
    assert ([sequence for sequence, _ in first.events], first.more) == ([1, 2], True)
    last = await store.events.tail_of_job(uid, 5, 50, 300)
    assert ([sequence for sequence, _ in last.events], last.more) == ([6, 7], False)
    assert (await store.events.tail_of_job(uid, 0, 2, 1_000)).more


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


async def test_positions_are_never_used_twice(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    newest = await store.events.newest_position()
    await store.jobs.purge(uid, NOW)
    await store.events.record(relay_event())
    assert await store.events.newest_position() > newest


async def test_a_jobs_events_can_be_read_on_from_a_sequence(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued", "scheduled", "running"))
    assert [event.sequence for event in await store.events.of_job(uid, after_sequence=1)] == [2, 3]
    assert [event.sequence for event in await store.events.of_job(uid, count=2)] == [1, 2]


async def test_attempts_are_kept_word_for_word(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued"))
    (one,) = await claim(store, "sub_1")
    made = attempt(
        *(1,),
        error="timeout",
        request_headers=(("content-type", "application/json"),),
        response_headers=(("set-cookie", "[redacted]"), ("set-cookie", "[redacted]")),
        response_excerpt="nö \x00",  # no database's text holds a NUL: it is shown as U+FFFD
        remote_ip="192.0.2.1",
        decision="HTTP 503 (attempt 1 of 2): tried again in 5 s",
        timings=Timings(dns_ms=2.5, connect_ms=10.0, first_byte_ms=0.412),
        excerpt_is_hex=True,
        next_attempt_at=NOW + 5.125,
    )
    await store.deliveries.record_attempt(result_of(one, "pending", attempt=made, due_at=NOW + 5))
    delivery = await store.deliveries.get(one.id)
    assert delivery is not None
    assert delivery.attempts == (replace(made, response_excerpt="nö \N{REPLACEMENT CHARACTER}"),)
    assert (delivery.state, delivery.next_attempt_at, delivery.attempt_count) == ("pending", NOW + 5, 1)
    assert len(await rows(store, "SELECT delivery_id FROM attempts")) == 1


async def test_concurrent_reads_each_get_their_own_job(store: Store) -> None:
    uids = [await track(store, f"ext-{number}") for number in range(20)]
    asked = [*uids, "job_nobody", "job_\0", "job_ü", uids[0]]
    found = await asyncio.gather(*(store.jobs.get(uid) for uid in asked))
    assert [None if job is None else job.uid for job in found] == [*uids, None, None, None, uids[0]]
