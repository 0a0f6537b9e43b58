"""Groups: counted in the transaction that changes their jobs, finished once a round, by any node."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from relay.core.erasure import Erased, ErasureRequest
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import Problem
from relay.core.polling.tracking import Registration
from relay.core.records import Registered
from relay.errors import Conflict
from relay.store.store import Store
from tests.support.store_kit import NOW, intent, poll, registration, rows, seen, track

SETTLE = 900.0
DAY = 86_400.0


@pytest.fixture
async def store(open_again: Callable[[], Awaitable[Store]]) -> Store:
    store = await open_again()
    configure(store)
    return store


def configure(store: Store, settle_seconds: float = SETTLE) -> list[str]:
    """The ids of groups that finish."""
    heard: list[str] = []

    store.group_ledger.configure(settle_seconds=settle_seconds, base_url="http://relay.example", finished=heard.extend)
    return heard


async def group(store: Store, name: str = "q4", **where: str) -> JobGroup:
    (found,) = await store.groups.find(name, **where)
    return found


async def end(store: Store, uid: str, status: str = "succeeded", now: float = NOW, **fields: Any) -> None:
    job = await store.jobs.get(uid)
    assert job is not None
    sequence, found = job.progress.sequence, seen(status, now, **fields)
    await store.jobs.record(poll(uid, sequence, status, outcome=status, now=now, seen=found))


async def told(store: Store) -> list[dict[str, Any]]:
    found = await rows(store, "SELECT body FROM events WHERE type = 'relay.group.finished' ORDER BY position")
    return [orjson.loads(row["body"]) for row in found]


async def register(store: Store, *registrations: Registration) -> list[Any]:
    return list(await store.jobs.register_many(registrations))


async def test_closed_group_finishes_with_its_last_job(store: Store) -> None:
    heard = configure(store)
    first, second = await track(store, "a", group="q4"), await track(store, "b", group="q4")
    await store.jobs.record(poll(first, 0, "running"))
    found = await group(store)
    assert (found.counts, found.finished_at) == ({"queued": 1, "running": 1}, None)
    closed = await store.groups.close(found, None, NOW)
    assert closed is not None
    assert (closed.closed_at, closed.finished_at) == (NOW, None)
    await end(store, first)
    await end(store, second, "failed", now=NOW + 5)
    found = await group(store)
    assert (found.counts, found.finished_at) == ({"succeeded": 1, "failed": 1}, NOW + 5)
    (event,) = await told(store)
    assert (event["subject"], event["group"], event["data"]["counts"]["failed"]) == ("q4", "q4", 1)
    assert heard == [found.id]


async def test_job_that_joins_later_opens_the_next_round(store: Store) -> None:
    uid = await track(store, "a", group="q4", group_size=1)
    await end(store, uid, "failed", now=NOW + 1, result_status=None)
    later = await track(store, "b", group="q4", tracked_at=NOW + 10)
    found = await group(store)
    assert (found.round, found.counts, found.closed_at, found.finished_at) == (2, {"queued": 1}, None, None)
    job = await store.jobs.get(later)
    assert job is not None
    assert job.group_round == 2
    await store.groups.close(found, None, NOW + 11)
    await end(store, later, now=NOW + 12)
    assert [event["data"]["round"] for event in await told(store)] == [1, 2]
    await store.jobs.purge(uid, NOW + 13)  # of the first round, which is not counted any more
    assert (await group(store)).counts == {"succeeded": 1}


async def test_job_that_is_tracked_again_joins_the_round_that_is_open(store: Store) -> None:
    uid = await track(store, "a", group="q4", group_size=1)
    await store.jobs.untrack(uid, NOW + 1)
    assert (await group(store)).counts == {"untracked": 1}
    assert await track(store, "a", tracked_at=NOW + 2) == uid  # without its group, which it keeps
    found = await group(store)
    assert (found.round, found.counts) == (2, {"queued": 1})
    await store.jobs.untrack(uid, NOW + 3)
    await track(store, "a", tracked_at=NOW + 4)
    assert (await group(store)).counts == {"queued": 1}


async def test_missing_jobs_are_told_after_the_settle_time(store: Store) -> None:
    await end(store, await track(store, "a", group="q4", group_size=3))
    assert (await group(store)).finished_at is None
    await store.groups.finish_due(NOW + SETTLE)
    found = await group(store)
    assert (found.missing, found.expected) == (2, 3)
    assert [event["data"]["missing"] for event in await told(store)] == [2]


async def test_known_job_joins_a_group_once(store: Store) -> None:
    uid = await track(store, "a")
    await end(store, uid, result_status="skipped")
    await track(store, "a", group="q4", tracked_at=NOW + 5)
    await track(store, "a", group="q4", tracked_at=NOW + 6)
    found = await group(store)
    assert (found.counts, found.skipped, found.first_at) == ({"succeeded": 1}, 1, NOW + 5)


async def test_job_keeps_its_first_group(store: Store) -> None:
    await track(store, "a", group="q4")
    refused, other, twice, made = await register(
        store,
        registration("a", group="q5", metadata={"changed": True}),
        registration("b", group="q5"),
        registration("b", group="q6"),
        registration("a", group="q5", intent=intent(), group_size=1),
    )
    assert isinstance(refused, Conflict)
    assert refused.code == "group_conflict"
    assert isinstance(other, Registered)
    assert isinstance(twice, Conflict)
    assert isinstance(made, Registered)
    assert (made.job.group, made.job.metadata) == ("q4", {})
    assert [part for part, _ in made.not_attached] == ["group"]
    assert (await group(store)).closed_at is None
    assert (await group(store, "q5")).counts == {"queued": 1}
    assert await store.groups.find("q6") == []


async def test_erased_jobs_are_not_counted(store: Store) -> None:
    failed, open_ = await track(store, "a", group="q4"), await track(store, "b", group="q4")
    await store.groups.close(await group(store), None, NOW)
    problem = Problem(code="no_such_person", message="no")
    await end(store, failed, "failed", problem=problem)
    assert (await group(store)).failures == {"no_such_person": 1}
    await store.jobs.purge(failed, NOW)
    found = await group(store)
    assert (found.counts, found.most_failures, found.finished_at) == ({"queued": 1}, [], None)
    await store.jobs.purge(open_, NOW)
    assert await store.groups.find("q4") == []
    assert await told(store) == []


async def test_groups_of_several_accounts_are_kept_apart(store: Store) -> None:
    await register(store, registration("a", group="q4"), registration("a", account="second", group="q4"))
    assert len(await store.groups.find("q4")) == 2
    assert (await group(store, account="second")).account == "second"
    view = store.within(("revor", "second"))
    assert [one.account for one in await view.groups.find("q4")] == ["second"]
    mine, others = await group(store, account="second"), await group(store, account="default")
    assert await view.groups.get(mine.id) == mine
    assert await view.groups.get(others.id) is None
    assert [one.account for one in (await view.groups.page(limit=10)).items] == ["second"]
    assert [one.account for one in (await store.groups.page(limit=10, source="revor", account="default")).items] == [
        "default"
    ]


async def test_retention_keeps_the_counts_and_at_last_deletes_the_group(store: Store) -> None:
    old, new = await track(store, "a", group="q4"), await track(store, "b", group="q4", tracked_at=NOW + 1)
    await end(store, old)
    await store.upkeep.delete_jobs(NOW + 1)
    assert (await group(store)).counts == {"succeeded": 1, "queued": 1}
    await end(store, new, now=NOW + DAY)
    await store.groups.close(await group(store), None, NOW + DAY)
    assert await store.upkeep.delete_groups(NOW + 2 * DAY) == (0, None)  # a job is left
    await store.upkeep.delete_jobs(NOW + 2 * DAY)
    assert await store.upkeep.delete_groups(NOW + DAY) == (0, None)  # it has not been finished for long
    assert await store.upkeep.delete_groups(NOW + 2 * DAY) == (1, None)
    assert await store.groups.find("q4") == []


async def erase(store: Store, request: ErasureRequest) -> Erased:
    total, cursor = Erased(), None
    while True:
        step = await store.erasure.step(request, cursor, NOW)
        total, cursor = total + step.erased, step.next_cursor
        if cursor is None:
            return total


@pytest.mark.parametrize("name", ["q4", 'Grüße "4" \\ ', " padded "])
async def test_nothing_of_an_erased_group_is_left(store: Store, name: str) -> None:
    gone, kept = await track(store, "a", group=name, group_size=2), await track(store, "b", group="other")
    await track(store, "c", group=name)
    await end(store, gone)
    await store.upkeep.delete_jobs(NOW + 1)
    await end(store, (await store.jobs.find("c"))[0].uid, now=NOW + 2)
    later = registration("d", group=name, account="second")
    await register(store, later)
    await store.intents.begin(create := intent(group=name, group_size=2))
    await store.intents.unknown(create.id, "no_answer")
    assert len(await told(store)) == 1
    found = await erase(store, ErasureRequest.of_group(name, "revor", "default"))
    assert (found.jobs, found.creates) == (1, 1)
    assert await told(store) == []
    assert [one.account for one in await store.groups.find(name)] == ["second"]
    assert await store.intents.get(create.id) is None
    job = await store.jobs.get(kept)
    assert job is not None
    assert (await group(store, "other")).counts == {"queued": 1}
    # a group whose jobs retention has removed
    await end(store, later.job.uid)
    await store.upkeep.delete_jobs(NOW + 1)
    await erase(store, ErasureRequest.of_group(name))
    assert await store.groups.find(name) == []
