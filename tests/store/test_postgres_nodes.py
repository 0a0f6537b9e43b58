"""Two nodes on one PostgreSQL database: each sees the other's writes at once, and neither blocks the other."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import pytest
import time_machine
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine, ExceptionContext

from relay.clock import wall_clock
from relay.core.deliveries.delivery import Claimed
from relay.core.events import event as core_events
from relay.core.events.event import CREDITS_LOW, SUBSCRIPTION_RECOVERED, Event
from relay.core.records import AccountState, PollNote, StoredAnswer
from relay.errors import NotFound, StaleSequence
from relay.ids import new_id
from relay.store.store import Store
from tests.support.store_databases import call_in_transaction, emptied_postgres
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    claim_probe,
    counts,
    deliver_all,
    deliveries,
    job_event,
    lease,
    poll,
    record_one,
    registration,
    relay_event,
    result_of,
    rows,
    states,
    subscription,
    together,
    track,
)

ROUNDS = 25


@pytest.fixture
def database_url() -> str:
    """PostgreSQL only: no other database is shared by nodes."""
    return emptied_postgres()


@pytest.fixture
async def other(store: Store, open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A second node on the database of `store`."""
    return await open_again()


class Open:
    """A transaction held open by a group of a store's writer."""

    def __init__(self, writes: Sequence["asyncio.Future[Any]"], end: Callable[[], None]) -> None:
        self.writes = writes
        self._end = end

    async def commit(self) -> list[Any]:
        self._end()
        return await asyncio.gather(*self.writes, return_exceptions=True)


@asynccontextmanager
async def uncommitted(store: Store, *writes: Awaitable[Any]) -> AsyncIterator[Open]:
    """The database has run these writes; they are committed when the block or `commit` ends."""
    done, end = asyncio.Event(), asyncio.Event()
    database: Any = store.database
    before = {writer: writer._transaction for writer in (database.writer, database.caller)}

    def stopping(transaction: Callable[[], Any]) -> Callable[[], Any]:
        @asynccontextmanager
        async def stopped() -> AsyncIterator[Any]:
            async with transaction() as run:
                yield run
                done.set()
                async with asyncio.timeout(30):
                    await end.wait()

        return stopped

    def as_before() -> None:
        for writer, transaction in before.items():
            writer._transaction = transaction

    database.writer._transaction = stopping(database.writer._transaction)
    database.caller._transaction = stopping(partial(call_in_transaction, database))
    tasks = [asyncio.ensure_future(write) for write in writes]
    try:
        async with asyncio.timeout(30):
            await done.wait()
        as_before()
        yield Open(tasks, end.set)
    finally:
        as_before()
        end.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def blocked(store: Store, count: int = 1) -> None:
    """Waits until this many backends of the database wait for a lock."""
    query = "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30):
        while (await rows(store, query))[0]["n"] < count:  # noqa: ASYNC110 - the database sends no notification
            await asyncio.sleep(0.002)


# --- claims and marks


async def test_starting_node_leaves_leases_and_requests_of_others_alone(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued"))
    (one,) = await claim(store, "sub_1")
    assert await store.idempotency.begin("key", "digest", "holder", NOW, 0.0) == NOW
    other = await open_again()
    assert await claim(other, "sub_1") == ()
    assert await other.idempotency.begin("key", "digest", "holder", NOW, 0.0) == StoredAnswer(body_digest="digest")
    assert (await store.deliveries.record(result_of(one)))[0].kept


async def test_claims_at_the_same_time_never_take_the_same_delivery(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {n}") for n in range(300)]
    await store.jobs.register_many(batch)
    await asyncio.gather(*(store.jobs.record(poll(one.job.uid, 0, "queued")) for one in batch))
    taken = await asyncio.gather(*(claim((store, other)[nth % 2], "sub_1", 7) for nth in range(60)))
    ids = [one.id for part in taken for one in part]
    assert len(ids) == len(set(ids))
    assert all(len(part) <= 7 for part in taken)
    rest = [one.id for node in (store, other) for one in await claim(node, "sub_1", 500)]
    assert len(ids) + len(rest) == 300 == len({*ids, *rest})


async def test_claim_skips_rows_locked_by_another_claim(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    for nth in range(4):
        await store.jobs.record(poll(await track(store, f"job {nth}"), 0, "queued"))
    async with uncommitted(store, claim(store, "sub_1", 2)) as first:
        async with asyncio.timeout(10):
            second = await claim(other, "sub_1", 2)
        (mine,) = await first.commit()
    assert len(mine) == 2
    assert not {one.id for one in mine} & {one.id for one in second}


# --- order


@pytest.mark.parametrize("first", ["record", "mark"])
async def test_follower_recorded_while_its_head_ends_is_promoted(store: Store, other: Store, first: str) -> None:
    """Each waits for the other's commit and then sees its writes."""
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    for nth in range(ROUNDS):
        if nth == 0:
            await store.jobs.record(poll(uid, 0, "queued"))
        (head,) = await claim(store, "sub_1")
        record, mark = (
            other.jobs.record(poll(uid, nth + 1, "running")),
            record_one(store, result_of(head)),
        )
        begins, follows = ((other, record), mark) if first == "record" else ((store, mark), record)
        async with uncommitted(*begins) as open_one:
            task = asyncio.ensure_future(follows)
            await blocked(store)
            assert not any(isinstance(result, Exception) for result in await open_one.commit())
            await task
        assert await states(store) == ["delivered"] * (nth + 1) + ["pending"]
    assert await store.upkeep.promote_heads(NOW) == (0, (uid, "sub_1", ROUNDS + 1))


def told(type: str, subject: str) -> Event:
    """An event about the relay, which keeps the order of its subject."""
    return core_events.relay_event(new_id("evt", NOW), type, NOW, {}, dataschema="http://x", subject=subject)


def source_events(count: int, *accounts: str) -> list[Event]:
    return [
        told(f"relay.source.{'recovered' if nth % 2 else 'down'}", account)
        for nth in range(count)
        for account in accounts
    ]


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What the database has refused: a group that is refused runs again, and no test would notice."""
    found: list[str] = []

    def refused(context: ExceptionContext) -> None:
        found.append(str(context.original_exception))

    event.listen(Engine, "handle_error", refused)
    yield found
    event.remove(Engine, "handle_error", refused)


async def test_jobs_and_events_about_the_relay_that_are_recorded_and_delivered_at_once_never_deadlock(
    store: Store, other: Store, errors: list[str]
) -> None:
    """Streams are locked behind jobs, and all of a transaction in one order: also by an attempt that ends the head of a
    job, and has an event of its own."""
    types = ("ai.revor.job.failed", "relay.source.down", "relay.source.recovered", SUBSCRIPTION_RECOVERED)
    for id in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(id, types=types))
    accounts = [f"revor/{nth}" for nth in range(4)]
    ended = asyncio.Event()

    async def record(node: Store) -> None:
        for nth, about in enumerate(source_events(5, *accounts)):
            uid = await track(node, new_id("evt", NOW))
            failed = poll(uid, 0, events=[job_event(uid, 1, "failed")], outcome="failed")
            await asyncio.gather(
                node.jobs.record(failed),
                node.accounts.set(AccountState(source="revor", name=f"{nth % 4}", since=NOW), about),
            )

    async def attempt(node: Store, one: Claimed) -> None:
        made = [told(SUBSCRIPTION_RECOVERED, one.subscription_id)] if one.event.job_uid is not None else []
        await node.deliveries.record(result_of(one, events=tuple(made)))

    async def deliver(node: Store, id: str) -> None:
        while True:
            last = ended.is_set()
            claimed = await claim(node, id, 7)
            await asyncio.gather(*(attempt(node, one) for one in claimed))
            if last and not claimed:
                return

    async def record_all() -> None:
        await asyncio.gather(*(record(node) for node in (store, other) for _ in range(2)))
        ended.set()

    async with asyncio.timeout(120):
        await asyncio.gather(record_all(), deliver(store, "sub_1"), deliver(other, "sub_2"))
    while any([await deliver_all(node, id) for node, id in ((store, "sub_1"), (other, "sub_2"))]):
        pass  # what one has told the other
    assert errors == []
    assert set(await states(store)) == {"delivered"}


async def test_no_interleaving_leaves_a_follower_blocked(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uids = [await track(store, f"job {n}") for n in range(4)]

    async def record(uid: str) -> None:
        for nth in range(ROUNDS):
            await other.jobs.record(poll(uid, nth, "running"))

    async def deliver() -> list[Any]:
        done: list[Any] = []
        while len(done) < ROUNDS * len(uids):
            done += await deliver_all(store, "sub_1")
            await asyncio.sleep(0)
        return done

    async with asyncio.timeout(60):
        done, *_ = await asyncio.gather(deliver(), *(record(uid) for uid in uids))
    for uid in uids:
        assert [one.event.sequence for one in done if one.order_key == uid] == list(range(1, ROUNDS + 1))
    assert set(await states(store)) == {"delivered"}


# --- subscriptions


async def test_filters_that_another_node_stores_and_this_one_cannot_read_lose_no_event(
    store: Store, other: Store
) -> None:
    made = subscription("sub_1", filters=({"exact": {"channel": "email"}},))
    await store.subscriptions.create(made)
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    assert await deliveries(store, "sub_1") == []
    await other.subscriptions.replace(replace(made, filters=({"cel": "true"},)), NOW)  # as an older version does
    await store.jobs.record(poll(uid, 1, "running"))  # before it has paused the subscription
    found = await store.subscriptions.hold_unreadable(await store.subscriptions.all(), NOW)
    assert [one.state for one in found] == ["paused"]
    await other.jobs.record(poll(uid, 2, "failed"))
    assert [row["sequence"] for row in await deliveries(store, "sub_1")] == [2, 3]


async def test_callback_created_on_one_node_gets_events_recorded_on_another(store: Store, other: Store) -> None:
    await other.events.record(relay_event())
    for nth, node in enumerate((store, store, other, store)):
        callback = await callback_for(node, f"https://callback.example/{nth}", new_id("sub", NOW), NOW)
        uid = await track(node, f"job {nth}", callback_subscription_id=callback)
        recorder = other if node is store else store
        await recorder.jobs.record(poll(uid, 0, "queued"))
        assert [row["subscription_id"] for row in await deliveries(store) if row["job_uid"] == uid] == [callback]
        await node.jobs.purge(uid, NOW)
        assert await other.upkeep.delete_callbacks(NOW + 1) == (1, None)
        await recorder.events.record(relay_event())  # which now knows that there is none


async def test_subscription_and_event_created_at_once_make_one_delivery_or_none(store: Store, other: Store) -> None:
    """With `start_at` past events are delivered too, so there is exactly one delivery, whichever came first."""
    uid = await track(store)
    for nth in range(ROUNDS):
        made = subscription(f"sub_{nth}", start_at=NOW - 1)
        order: list[Awaitable[Any]] = [
            store.subscriptions.create(made),
            other.jobs.record(poll(uid, nth, "running")),
        ]
        await asyncio.gather(*(order if nth % 2 else reversed(order)))
    found = [(row["subscription_id"], row["sequence"]) for row in await deliveries(store)]
    assert len(found) == len(set(found)) == ROUNDS * ROUNDS


async def test_event_recorded_while_its_subscription_is_removed_leaves_nothing_open(store: Store, other: Store) -> None:
    uid = await track(store)
    for nth in range(5):
        await store.subscriptions.create(subscription(f"sub_{nth}"))
        async with uncommitted(other, other.jobs.record(poll(uid, nth, "running"))) as recording:
            removal = asyncio.ensure_future(store.subscriptions.remove(f"sub_{nth}", NOW))
            await blocked(store)
            await recording.commit()
            await removal
        await other.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 1))
    assert await states(store) == ["cancelled"] * 5


async def test_follower_recorded_while_its_subscription_is_removed_is_cancelled_with_its_head(
    store: Store, other: Store
) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    async with uncommitted(other, other.jobs.record(poll(uid, 1, "running"))) as recording:
        removal = asyncio.ensure_future(store.subscriptions.remove("sub_1", NOW))
        await blocked(store)
        await recording.commit()
        await removal
    assert await states(store) == ["cancelled"] * 2
    assert await store.upkeep.promote_heads(NOW) == (0, None)


@pytest.mark.parametrize("end", ["delivered", "dead"])
async def test_follower_promoted_while_its_subscription_is_removed_is_cancelled(
    store: Store, other: Store, end: str
) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued", "running", "failed"))
    (head,) = await claim(other, "sub_1")
    marking = result_of(head, end, next_lease=lease(token="next"))
    async with uncommitted(other, record_one(other, marking)) as mark:
        removal = asyncio.ensure_future(store.subscriptions.remove("sub_1", NOW))
        await blocked(store)
        (marked,) = await mark.commit()
        await removal
    assert await states(store) == [end, "cancelled", "cancelled"]
    assert not (await other.deliveries.record(result_of(marked.next[0])))[0].kept


async def test_manual_retry_while_the_subscription_is_removed_is_refused_or_cancelled(
    store: Store, other: Store
) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued"))
    (one,) = await deliver_all(store, "sub_1")
    async with uncommitted(other, other.deliveries.retry(one.id, NOW)) as retrying:
        removal = asyncio.ensure_future(store.subscriptions.remove("sub_1", NOW))
        await blocked(store)
        await retrying.commit()
        await removal
    assert await states(store) == ["cancelled"]


async def test_concurrent_manual_retries_of_one_job_keep_its_order(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(await track(store), 0, "queued", "running"))
    first, second = await deliver_all(store, "sub_1")
    for open_one, follows in ((first, second), (second, first)):
        async with uncommitted(store, store.deliveries.retry(open_one.id, NOW)) as retrying:
            retry = asyncio.ensure_future(other.deliveries.retry(follows.id, NOW))
            await blocked(store)
            await retrying.commit()
            await retry
        assert await states(store) == ["pending", "blocked"]
        assert [one.event.sequence for one in await deliver_all(store, "sub_1")] == [1, 2]


@pytest.mark.parametrize("who", ["a subscription from the earliest event on", "a callback added to its job"])
async def test_retention_keeps_an_event_that_a_new_subscription_is_about_to_get(
    store: Store, other: Store, who: str
) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued"))
    if who.startswith("a callback"):
        sub = await callback_for(store, "https://callback.example", "sub_1", NOW)
        adding: Awaitable[Any] = other.jobs.register(registration("a", callback_subscription_id=sub))
    else:
        adding = other.subscriptions.create(subscription("sub_1", start_at=0.0))
    async with uncommitted(other, adding) as added:
        deleting = asyncio.ensure_future(store.upkeep.delete_events(NOW + 1))
        await blocked(store)
        await added.commit()
        assert (await deleting)[0] == 0
    assert [one.event.sequence for one in await deliver_all(store, "sub_1")] == [1]


async def test_purging_a_job_deletes_deliveries_of_a_concurrent_new_subscription(store: Store, other: Store) -> None:
    uid = await track(store, "a")
    await store.jobs.record(poll(uid, 0, "queued"))
    async with uncommitted(other, other.subscriptions.create(subscription("sub_1", start_at=0.0))) as made:
        purge = asyncio.ensure_future(store.jobs.purge(uid, NOW))
        await blocked(store)
        await made.commit()
        await purge
    left = await counts(store)
    assert (left["jobs"], left["events"], left["deliveries"]) == (0, 0, 0)


async def test_callback_url_gets_one_subscription_under_concurrent_requests(store: Store, other: Store) -> None:
    for nth in range(ROUNDS):
        url = f"https://callback.example/{nth}"
        ids = await asyncio.gather(
            callback_for(store, url, f"sub_{nth}_one", NOW),
            callback_for(other, url, f"sub_{nth}_two", NOW),
        )
        assert len(set(ids)) == 1
    assert (await counts(store))["subscriptions"] == ROUNDS


async def test_callback_added_while_events_are_recorded_gets_each_once(store: Store, other: Store) -> None:
    callback = await callback_for(store, "https://callback.example", "sub_1", NOW)
    for nth in range(ROUNDS):
        uid = await track(store, f"job {nth}")
        await store.jobs.record(poll(uid, 0, "queued"))
        again = registration(f"job {nth}", callback_subscription_id=callback)
        await asyncio.gather(
            store.jobs.register(again), other.jobs.register(again), other.jobs.record(poll(uid, 1, "running"))
        )
        found = [row for row in await deliveries(store) if row["job_uid"] == uid]
        assert [(row["sequence"], row["state"]) for row in found] == [(1, "pending"), (2, "blocked")]


# --- jobs


async def test_concurrent_registrations_of_the_same_jobs_create_each_once(store: Store, other: Store) -> None:
    for nth in range(ROUNDS):
        names = [f"job {nth} {n}" for n in range(10)]
        mine = [registration(name) for name in names]
        others = [registration(name) for name in reversed(names)]
        first, second = await asyncio.gather(store.jobs.register_many(mine), other.jobs.register_many(others))
        by_name = {one.job.external_id: one for one in second}
        for one in first:
            assert by_name[one.job.external_id].job.uid == one.job.uid
            assert one.created != by_name[one.job.external_id].created
    assert (await counts(store))["jobs"] == 10 * ROUNDS


async def test_second_record_of_one_sequence_is_stale(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    for nth in range(ROUNDS):
        results = await asyncio.gather(
            *(node.jobs.record(poll(uid, nth, "running")) for node in (store, other)), return_exceptions=True
        )
        assert sorted(type(result) for result in results if isinstance(result, Exception)) == [StaleSequence]
    assert [event.sequence for event in await store.events.of_job(uid)] == list(range(1, ROUNDS + 1))
    assert len(await deliveries(store)) == ROUNDS


async def test_purging_a_job_while_an_event_is_recorded_leaves_nothing(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    async with uncommitted(other, other.jobs.record(poll(uid, 0, "running"))) as recording:
        purge = asyncio.ensure_future(store.jobs.purge(uid, NOW))
        await blocked(store)
        await recording.commit()
        await purge
    found = await counts(store)
    assert (found["jobs"], found["events"], found["deliveries"]) == (0, 0, 0)
    with pytest.raises(NotFound):
        await other.jobs.purge(uid, NOW)


async def test_opposite_lock_orders_do_not_block_each_other(store: Store, other: Store) -> None:
    """Groups of each node touch the same jobs, in opposite orders and in every way."""
    await store.subscriptions.create(subscription("sub_1"))
    names = [f"job {n}" for n in range(20)]
    uids = {one.job.external_id: one.job.uid for one in await store.jobs.register_many([*map(registration, names)])}

    def everything(node: Store, order: Sequence[str], sequence: int) -> list[Awaitable[Any]]:
        return [
            *(node.jobs.note(PollNote(job_uid=uids[name], next_poll_at=NOW + sequence)) for name in order),
            *(node.jobs.register(registration(name, metadata={"n": sequence})) for name in order),
            *(node.jobs.record(poll(uids[name], sequence, "running")) for name in order),
            *(claim(node, "sub_1", 5) for _ in range(3)),
        ]

    for sequence in range(4):
        async with asyncio.timeout(60):
            results = await asyncio.gather(
                *everything(store, names, sequence),
                *everything(other, names[::-1], sequence),
                return_exceptions=True,
            )
        failed = [result for result in results if isinstance(result, Exception)]
        assert {type(error) for error in failed} <= {StaleSequence}
        assert len(failed) == len(names)
    assert (await counts(store))["events"] == 4 * len(names)


async def test_deadlock_is_retried(store: Store, other: Store) -> None:
    uids = [await track(store, f"job {n}") for n in range(2)]
    waiting = [asyncio.Event(), asyncio.Event()]
    update = text("UPDATE jobs SET weight = weight + 1 WHERE uid = :uid")
    tries: list[int] = []

    def opposite(connection: Connection, items: Sequence[int]) -> list[None]:
        for own in items:
            tries.append(own)
            connection.execute(update, {"uid": uids[own]})
            waiting[own].set()
            while not waiting[1 - own].is_set():
                connection.execute(text("SELECT pg_sleep(0.002)"))
            connection.execute(update, {"uid": uids[1 - own]})
        return [None] * len(items)

    async with asyncio.timeout(30):
        await asyncio.gather(store.database.write(opposite, 0), other.database.write(opposite, 1))
    assert len(tries) > 2
    assert {row["weight"] for row in await rows(store, "SELECT weight FROM jobs")} == {3.0}


# --- the stream


async def test_a_stream_stops_below_an_event_that_is_not_committed_yet(store: Store, other: Store) -> None:
    beginning = await store.events.newest_position()
    before, early, late = (relay_event(subject=name) for name in ("before", "early", "late"))
    await store.events.record(before)
    async with uncommitted(store, store.events.record(early)) as open_one:
        await other.events.record(late)
        shown = (await other.events.tail(beginning)).events
        assert [event.subject for _, event in shown] == ["before"]
        newest = await other.events.newest_position()
        assert newest < (await other.events.position_of(late.id) or 0)
        await open_one.commit()
    rest = (await other.events.tail(shown[-1][0])).events
    assert [event.subject for _, event in rest] == ["early", "late"]
    assert [event.subject for _, event in (await other.events.tail(newest)).events] == ["early", "late"]


@asynccontextmanager
async def foreign_transaction(store: Store) -> AsyncIterator[None]:
    """Another program's transaction that has written elsewhere and stays open during the block."""
    database: Any = store.database
    connection = await asyncpg.connect(database.url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        async with connection.transaction():
            await connection.fetch("SELECT pg_current_xact_id()")
            yield
    finally:
        await connection.close()


async def test_stream_knows_that_an_open_transaction_hides_later_events(store: Store) -> None:
    beginning = await store.events.newest_position()
    shown, hidden = relay_event(subject="shown"), relay_event(subject="hidden")
    await store.events.record(shown)
    async with foreign_transaction(store):
        before = await store.events.tail(beginning)
        await store.events.record(hidden)
        during = await store.events.tail(beginning)
        resumed = await store.events.tail(during.events[-1][0])
    after = await store.events.tail(during.events[-1][0])
    assert [(one.hidden, [event.id for _, event in one.events]) for one in (before, during, resumed, after)] == [
        (False, [shown.id]),
        (True, [shown.id]),
        (True, []),
        (False, [hidden.id]),
    ]
    assert (await store.events.tail(after.events[-1][0])).hidden is False


async def test_a_stream_of_many_nodes_skips_nothing_and_repeats_nothing(store: Store, other: Store) -> None:
    position = await store.events.newest_position()
    writing = True
    seen: list[str] = []

    async def write(node: Store, name: str) -> None:
        for nth in range(60):
            await asyncio.gather(*(node.events.record(relay_event(subject=f"{name} {nth} {n}")) for n in range(3)))

    async def read(node: Store) -> None:
        nonlocal position
        while True:
            last = not writing
            found = (await node.events.tail(position, 7)).events
            seen.extend(str(event.subject) for _, event in found)
            positions = [position, *(one for one, _ in found)]
            assert positions == sorted(set(positions))
            position = positions[-1]
            if last and not found:
                return

    reading = asyncio.ensure_future(read(store))
    async with asyncio.timeout(60):
        await asyncio.gather(write(store, "a"), write(other, "b"))
        writing = False
        await reading
    assert len(seen) == len(set(seen)) == 360


# --- requests and accounts


async def test_request_begun_on_both_nodes_at_once_is_new_on_one(store: Store, other: Store) -> None:
    for nth in range(ROUNDS):
        answers = await asyncio.gather(
            *(node.idempotency.begin(f"key {nth}", "digest", "holder", NOW, 0.0) for node in (store, other))
        )
        assert answers.count(NOW) == 1
        assert answers.count(StoredAnswer(body_digest="digest")) == 1
    for nth in range(ROUNDS):  # and so when the keys have grown old
        answers = await asyncio.gather(
            *(node.idempotency.begin(f"key {nth}", "new", "holder", NOW + 9, NOW + 1) for node in (store, other))
        )
        assert answers.count(NOW + 9) == 1


async def test_an_account_is_polled_by_one_node_at_a_time(store: Store, other: Store) -> None:
    for nth in range(ROUNDS):
        held = await asyncio.gather(
            *(
                node.accounts.hold("revor", f"account {nth}", name, NOW, NOW + 15)
                for name, node in (("one", store), ("two", other))
            )
        )
        assert sorted(held) == [False, True]
    assert not await other.accounts.hold("revor", "account 0", "three", NOW + 14, NOW + 29)
    assert await other.accounts.hold("revor", "account 0", "three", NOW + 15, NOW + 30)
    await other.holders.release_accounts(["three"])
    assert await store.accounts.hold("revor", "account 0", "one", NOW + 16, NOW + 31)


@pytest.mark.parametrize("seconds", [60.0, -60.0])
async def test_node_whose_clock_changes_takes_no_lease_of_others_and_loses_none(
    store: Store, other: Store, seconds: float
) -> None:
    clock, set_clock = store.clock(wall_clock), other.clock(wall_clock)
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {nth}") for nth in range(2)]
    await store.jobs.register_many(batch)
    await asyncio.gather(*(store.jobs.record(poll(one.job.uid, 0, "queued")) for one in batch))

    since = clock() - NOW

    async def take(node: Store, name: str, now: float, account: str) -> tuple[int, bool]:
        """The number of deliveries, and whether it gets the account's polling lease."""
        now -= since
        taken = await claim(node, "sub_1", 1, now=now)
        return len(taken), await node.accounts.hold("revor", account, name, now, now + 10)

    assert await take(store, "one", clock(), "a") == (1, True)
    with time_machine.travel(time.time() + seconds, tick=True):
        assert await take(other, "two", set_clock(), "b") == (1, True)  # what is free
        assert await take(other, "two", set_clock(), "a") == (0, False)
    assert await take(store, "one", clock(), "b") == (0, False)


async def test_one_node_probes_a_disabled_subscription_and_one_enables_it(store: Store, other: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {nth}") for nth in range(4)]
    await store.jobs.register_many(batch)
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "queued")) for one in batch))
    (first,) = await claim(store, "sub_1", 1)
    await store.deliveries.record(result_of(first, "pending", due_at=NOW, disable="only failures", probe_at=NOW))
    for turn in range(ROUNDS):
        now = NOW + 100 * turn
        leases = lease(until=now + 45), lease(until=now + 45)
        nodes = (store, other)
        found = await asyncio.gather(
            *(claim_probe(node, "sub_1", now, held) for node, held in zip(nodes, leases, strict=True))
        )
        (probe,) = (one.claimed for one in found if one.claimed is not None)
        assert {one.next_at for one in found} == {now + 45}
        await store.deliveries.record(result_of(probe, "pending", now=now, due_at=now, probe_at=now + 100))
    # both try it, one after the other's lease has run out, and both answers come
    now = NOW + 100 * ROUNDS
    probes = [
        (await claim_probe(node, "sub_1", now + 50 * nth, lease(until=now + 50 * nth + 45))).claimed
        for nth, node in enumerate((store, other))
    ]
    marks = [
        result_of(probe, now=now + 60 + nth, events=(relay_event("relay.subscription.recovered", now=now + 60),))
        for nth, probe in enumerate(probes)
        if probe is not None
    ]
    assert len(marks) == 2
    marked = await asyncio.gather(*(record_one(node, mark) for node, mark in zip((store, other), marks, strict=True)))
    assert [one.kept for one in marked] == [False, True]
    types = [event.type for _, event in (await other.events.tail(0)).events]
    assert types.count("relay.subscription.recovered") == 1
    enabled = [await node.subscriptions.get("sub_1") for node in (store, other)]
    assert [(one.state, one.state_reason) for one in enabled if one is not None] == [("enabled", "recovered")] * 2


async def test_low_credits_that_both_nodes_read_at_once_are_told_once(store: Store, other: Store) -> None:
    """Also of an account that has no row yet."""
    for number in range(ROUNDS):
        place = ("revor", f"account {number}")
        marks = (
            node.accounts.mark_credits(*place, expected=None, since=NOW + one, event=relay_event(CREDITS_LOW))
            for one, node in enumerate((store, other))
        )
        assert sorted(await asyncio.gather(*marks)) == [False, True]
    assert len(await rows(store, "SELECT id FROM events")) == ROUNDS
