"""Registration: tracked, found, resumed, with callbacks and with events."""

from collections.abc import Sequence
from typing import Any

import pytest

from relay.core.jobs.job import Progress
from relay.core.records import PollNote
from relay.errors import Conflict
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    counts,
    deliver_all,
    deliveries,
    job_event,
    poll,
    registration,
    result_of,
    rows,
    seen,
    states,
    subscription,
    together,
    track,
)


async def callback(store: Store, url: str = "https://callback.example/1", id: str = "sub_callback") -> str:
    return await callback_for(store, url, id, NOW)


async def test_create_fields_are_kept_unless_sent_again(store: Store) -> None:
    said = {"metadata": {"a": [1, "é"]}, "truncated": True}
    first = registration("a", request=said, connect_account_id="acc_1")
    assert (await store.jobs.register(first)).job == await store.jobs.get(first.job.uid)
    for fields, request, account_id in (
        ({}, said, "acc_1"),
        ({"connect_account_id": "acc_2"}, said, "acc_2"),
        ({"request": {"metadata": {}}}, {"metadata": {}}, "acc_2"),
    ):
        job = (await store.jobs.register(registration("a", **fields))).job
        assert (job.request, job.connect_account_id) == (request, account_id)


async def test_tracked_job_keeps_its_trace(store: Store) -> None:
    first, second = (f"00-{digit * 32}-{digit * 16}-01" for digit in "ab")
    for id, of_first in (("a", first), ("b", None)):
        assert (await store.jobs.register(registration(id, trace=of_first))).created
        assert (await store.jobs.register(registration(id, trace=second, metadata={"b": 1}))).job.trace == of_first


NEW: dict[str, dict[str, Any]] = {
    "plain": {},
    "with metadata": {"metadata": {"odd": '\0 " \\ \\u0000 é \N{GRINNING FACE}', "large": 2**70, "list": [1.5, None]}},
    "of a create": {"request": {"metadata": {"a": "\0"}}, "connect_account_id": "acc_1", "spacing_seconds": 1.7},
    "traced": {"trace": f"00-{'a' * 32}-{'b' * 16}-01 foo=1,bar=2"},
    "weighed, of a group": {"priority": "high", "group": "Q4"},
    "seen": {
        "seen": seen("running", started_at=NOW - 0.1, attempt_count=2, channel="email", upstream={"id": '"\0'}),
        "progress": Progress(status="running", phase="running", sequence=1, running_sent=True, running_started_at=0.3),
    },
}


@pytest.mark.parametrize("names", [*((name,) for name in NEW), tuple(NEW)], ids=" and ".join)
async def test_new_jobs_are_stored_as_they_are_returned(store: Store, names: Sequence[str]) -> None:
    made = [
        registration(f"{name} {at}", tracked_at=at, deadline_seconds=0.1, **NEW[name])
        for name in names
        for at in (NOW + 0.1, NOW + 1 / 3)
    ]
    found = await store.jobs.register_many(made)
    assert [one.job for one in found if one.created] == [one.job for one in made]
    assert [await store.jobs.get(one.job.uid) for one in made] == [one.job for one in made]


@pytest.mark.parametrize(
    "fields", [{"account": "\ud800"}, {"connect_account_id": "\ud800"}], ids=["plain", "of a create"]
)
async def test_a_job_that_cannot_be_written_fails_alone(store: Store, fields: dict[str, Any]) -> None:
    made = [registration("a"), registration("b", **fields), registration("c")]
    results = await together(store, *(store.jobs.register(one) for one in made))
    assert [isinstance(one, Exception) for one in results] == [False, True, False]
    assert [await store.jobs.get(one.job.uid) for one in made] == [made[0].job, None, made[2].job]


async def test_duplicates_inside_one_batch_make_one_job(store: Store) -> None:
    batch = [registration("a", metadata={"n": n}) for n in range(3)]
    results = await store.jobs.register_many(batch)
    assert [result.created for result in results] == [True, False, False]
    assert {result.job.uid for result in results} == {batch[0].job.uid}
    assert [result.job.metadata for result in results] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert (await counts(store))["jobs"] == 1


async def test_duplicates_in_one_group_of_writes_make_one_job(store: Store) -> None:
    results = await together(store, *(store.jobs.register(registration("a")) for _ in range(5)))
    assert [result.created for result in results] == [True, False, False, False, False]
    assert len({result.job.uid for result in results}) == 1


async def test_a_batch_larger_than_a_statement_takes_parameters_is_fine(store: Store) -> None:
    batch = [registration(f"job {n}") for n in range(10_000)]
    assert all(result.created for result in await store.jobs.register_many(batch))
    assert not any(result.created for result in await store.jobs.register_many(batch))


@pytest.mark.parametrize("odd", ['a"b', "a,b", "a/b", "ключ", "a' OR 1=1 --", "%", "\\", "{}", " "])
async def test_any_printable_id_is_found_again(store: Store, odd: str) -> None:
    await track(store, odd)
    assert not (await store.jobs.register(registration(odd))).created
    assert [job.external_id for job in await store.jobs.find(odd)] == [odd]


async def test_untracked_job_is_resumed_and_continues_its_sequence(store: Store) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued", "running"))
    closed = await store.jobs.untrack(uid, NOW + 1)
    assert (closed.outcome, closed.closed_at) == ("untracked", NOW + 1)
    again = await store.jobs.register(registration("a", tracked_at=NOW + 2))
    assert again.resumed
    assert not again.created
    assert again.job.uid == uid
    assert again.job.open
    assert again.job.outcome is None
    assert again.job.progress.sequence == 2
    await store.jobs.record(poll(uid, 2, "succeeded", outcome="succeeded"))
    assert [event.sequence for event in await store.events.of_job(uid)] == [1, 2, 3]


async def test_job_that_was_not_found_is_resumed_with_reset_counts(store: Store) -> None:
    uid = await track(store, "a")
    await store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 9, poll_step=7, failure_count=2, missing_count=3))
    await store.jobs.record(poll(uid, 0, "not_found", outcome="not_found", seen=None))
    again = await store.jobs.register(registration("a", deadline_seconds=77.0))
    assert again.resumed
    assert (again.job.missing_count, again.job.missing_since, again.job.failure_count) == (0, None, 0)
    assert (again.job.next_poll_at, again.job.poll_step) == (None, 0)
    assert again.job.deadline_at == NOW + 77
    assert not again.job.progress.overdue


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "cancelled"])
async def test_a_job_that_ended_stays_closed(store: Store, outcome: str) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, outcome, outcome=outcome))
    again = await store.jobs.register(registration("a"))
    assert not again.resumed
    assert not again.job.open
    assert again.job.outcome == outcome


async def test_a_callback_gets_the_events_of_its_jobs_only(store: Store) -> None:
    sub = await callback(store)
    mine = await track(store, "mine", callback_subscription_id=sub)
    other = await track(store, "other")
    await store.jobs.record(poll(mine, 0, "queued"))
    await store.jobs.record(poll(other, 0, "queued"))
    assert {row["job_uid"] for row in await deliveries(store, sub)} == {mine}


async def test_a_callback_added_later_gets_all_events_in_order_from_the_first(store: Store) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued", "running"))
    await store.jobs.record(poll(uid, 2, "retrying"))
    sub = await callback(store)
    await store.jobs.register(registration("a", callback_subscription_id=sub, tracked_at=NOW + 5))
    await store.jobs.record(poll(uid, 3, "running", "succeeded", outcome="succeeded"))
    assert await states(store, sub) == ["pending", "blocked", "blocked", "blocked", "blocked"]
    delivered = await deliver_all(store, sub, now=NOW + 6)
    assert [one.event.sequence for one in delivered] == [1, 2, 3, 4, 5]


async def test_two_callbacks_of_a_job_get_each_event_once(store: Store) -> None:
    one = await callback(store, "https://callback.example/1", "sub_1")
    two = await callback(store, "https://callback.example/2", "sub_2")
    uid = await track(store, "a", callback_subscription_id=one)
    await store.jobs.register(registration("a", callback_subscription_id=two))
    await store.jobs.record(poll(uid, 0, "queued"))
    assert [row["subscription_id"] for row in await deliveries(store)] == [one, two]


SUCCEEDED, FAILED = "ai.revor.job.succeeded", "ai.revor.job.failed"


async def test_a_callback_with_types_gets_only_these_and_still_in_order(store: Store) -> None:
    sub = await callback(store)
    ends = await track(store, "ends", callback_subscription_id=sub, callback_types=(SUCCEEDED, FAILED))
    every = await track(store, "every", callback_subscription_id=sub)
    for uid in (ends, every):
        await store.jobs.record(poll(uid, 0, "queued", "running", "failed"))
        await store.jobs.record(poll(uid, 3, "succeeded"))
    got = [(row["job_uid"], row["sequence"], row["state"]) for row in await deliveries(store, sub)]
    assert [one[1:] for one in got if one[0] == ends] == [(3, "pending"), (4, "blocked")]
    assert [one[1] for one in got if one[0] == every] == [1, 2, 3, 4]
    delivered = [one.event.sequence for one in await deliver_all(store, sub) if one.order_key == ends]
    assert delivered == [3, 4]


async def test_a_callback_with_types_added_later_gets_what_matches_from_the_first(store: Store) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued", "failed", "retrying"))
    sub = await callback(store)
    again = registration("a", callback_subscription_id=sub, callback_types=(SUCCEEDED, FAILED), tracked_at=NOW + 5)
    await store.jobs.register(again)
    await store.jobs.record(poll(uid, 3, "running", "succeeded", outcome="succeeded"))
    assert [row["sequence"] for row in await deliveries(store, sub)] == [2, 5]
    assert await states(store, sub) == ["pending", "blocked"]


async def test_a_url_has_one_callback_subscription(store: Store) -> None:
    made = await together(
        store,
        callback_for(store, "https://callback.example/1", "sub_1", NOW),
        callback_for(store, "https://callback.example/1", "sub_2", NOW),
        callback_for(store, "https://callback.example/2", "sub_3", NOW),
    )
    assert made == ["sub_1", "sub_1", "sub_3"]


async def test_a_callback_that_was_removed_meanwhile_is_refused(store: Store) -> None:
    sub = await callback(store)
    await store.subscriptions.remove(sub, NOW)
    results = await together(
        store,
        store.jobs.register(registration("a", callback_subscription_id=sub)),
        store.jobs.register(registration("b")),
    )
    assert isinstance(results[0], Conflict)
    assert results[1].created
    assert [row["external_id"] for row in await rows(store, "SELECT external_id FROM jobs")] == ["b"]


async def test_a_job_registered_with_events_has_them_recorded_with_it(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    wanted = registration("a")
    events = tuple(job_event(wanted.job.uid, n, kind) for n, kind in enumerate(("queued", "scheduled"), 1))
    known = Progress(status="scheduled", phase="scheduled", sequence=2)
    result = await store.jobs.register(
        registration(
            "a",
            uid=wanted.job.uid,
            events=events,
            progress=known,
            seen=seen("scheduled", scheduled_at=NOW + 60, channel="email", upstream={"id": "a"}),
        )
    )
    assert result.job == await store.jobs.get(wanted.job.uid)
    assert result.job.progress == known
    assert (result.job.channel, result.job.scheduled_at, result.job.upstream) == ("email", NOW + 60, {"id": "a"})
    assert await states(store) == ["pending", "blocked"]
    assert await store.events.of_job(wanted.job.uid) == list(events)


async def test_events_of_a_registration_that_finds_its_job_tracked_are_dropped(store: Store) -> None:
    await track(store, "a")
    wanted = registration("a")
    result = await store.jobs.register(
        registration("a", uid=wanted.job.uid, events=(job_event(wanted.job.uid, 1, "queued"),))
    )
    assert not result.created
    assert (await counts(store))["events"] == 0


async def test_untracking_leaves_pending_deliveries_and_a_closed_job_alone(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "succeeded", outcome="succeeded"))
    assert (await store.jobs.untrack(uid, NOW + 5)).outcome == "succeeded"
    assert len(await claim(store, "sub_1")) == 1


async def test_purging_deletes_a_job_and_everything_of_it(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    sub = await callback(store)
    uid = await track(store, "a", callback_subscription_id=sub)
    kept = await track(store, "b")
    await store.jobs.record(poll(uid, 0, "queued", "running"))
    await store.jobs.record(poll(kept, 0, "queued"))
    await deliver_all(store, "sub_1")
    assert (await store.jobs.purge(uid, NOW)).external_id == "a"
    left = await counts(store)
    assert {**left, "subscriptions": 0} == {
        **dict.fromkeys(("jobs", "events", "deliveries", "attempts"), 1),
        **dict.fromkeys(("subscriptions", "secrets", "job_callbacks"), 0),
    }
    assert (await store.jobs.register(registration("a"))).created


async def test_result_of_a_delivery_of_a_purged_job_is_refused(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued"))
    (one,) = await claim(store, "sub_1")
    await store.jobs.purge(uid, NOW)
    assert not (await store.deliveries.record(result_of(one)))[0].kept
    assert (await counts(store))["attempts"] == 0
