"""A store limited to one account: rows of others do not exist, on both databases."""

import pytest

from relay.core.deliveries.replay import ReplayRequest
from relay.core.records import Page
from relay.errors import Conflict
from relay.store.deliveries import replay_statements
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    deliveries,
    execute,
    job_event,
    poll,
    relay_event,
    subscription,
    track,
)

A, B = ("revor", "a"), ("revor", "b")
OWNER = {A: "revor/a", B: "revor/b"}


async def happen(store: Store, account: tuple[str, str], uid: str, sequence: int, kind: str, now: float = NOW) -> str:
    """An event of a job. Returns its id."""
    event = job_event(uid, sequence, kind, now=now, owner=OWNER[account])
    await store.jobs.record(poll(uid, sequence - 1, kind, now=now, events=[event]))
    return event.id


async def a_job(store: Store, account: tuple[str, str], id: str = "shared") -> str:
    return await track(store, id, source=account[0], account=account[1])


async def targets(store: Store) -> list[tuple[str, str | None]]:
    return sorted((row["subscription_id"], row["owner"]) for row in await deliveries(store))


async def test_a_subscription_of_an_account_gets_what_is_about_that_account(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_all"))
    for account in (A, B):
        name = account[1]
        await store.within(account).subscriptions.create(subscription(f"sub_{name}"))
        types = ("relay.source.down", "ai.revor.job.failed")
        await store.within(account).subscriptions.create(subscription(f"sub_{name}_relay", types=types))
    jobs = {account: await a_job(store, account) for account in (A, B)}
    await happen(store, A, jobs[A], 1, "running")
    assert await targets(store) == [("sub_a", "revor/a"), ("sub_all", None)]
    await happen(store, B, jobs[B], 1, "failed")
    assert await targets(store) == [
        ("sub_a", "revor/a"),
        ("sub_all", None),
        ("sub_all", None),
        ("sub_b", "revor/b"),
        ("sub_b_relay", "revor/b"),
    ]
    await store.events.record(relay_event(owner="revor/a"))
    await store.events.record(relay_event(owner=None))
    await store.events.record(relay_event(owner="revor/c"))
    assert [one for one in await targets(store) if one[0].endswith("relay")] == [
        ("sub_a_relay", "revor/a"),
        ("sub_b_relay", "revor/b"),
    ]


async def test_the_past_and_replays_are_limited_too(store: Store) -> None:
    jobs = {account: await a_job(store, account) for account in (A, B)}
    for sequence in (1, 2):
        for account in (A, B):
            await happen(store, account, jobs[account], sequence, "running")
    await store.events.record(relay_event(owner="revor/b"))
    mine = store.within(A)
    await mine.subscriptions.create(subscription("sub_a", start_at=0.0))
    assert await targets(store) == [("sub_a", "revor/a")] * 2
    await mine.subscriptions.create(subscription("sub_new"))
    request = ReplayRequest(id="rpl_1", subscription_id="sub_new", since=0.0, until=NOW + 1, now=NOW + 1)
    # Whoever asks: the subscription's events are those of its account.
    assert (await store.replays.create(request)).matched == 2
    while not (await store.replays.advance("rpl_1", "node", NOW + 1)).queued:
        pass
    assert await targets(store) == [("sub_a", "revor/a")] * 2 + [("sub_new", "revor/a")] * 2


async def test_pages_of_events_go_on_from_an_event_that_was_erased_meanwhile(store: Store) -> None:
    uid = await a_job(store, A)
    ids = [await happen(store, A, uid, sequence, "running", NOW + sequence) for sequence in (1, 2, 3)]
    first: Page = await store.within(A).events.page(limit=1)
    assert [one.id for one in first.items] == ids[2:]
    await execute(store, "DELETE FROM events WHERE id = :id", id=ids[2])
    rest = await store.within(A).events.page(limit=9, cursor=first.next_cursor)
    assert [one.id for one in rest.items] == ids[1::-1]


async def test_a_tail_passes_the_events_of_others_without_showing_them(store: Store) -> None:
    jobs = {account: await a_job(store, account) for account in (A, B)}
    start = await store.events.newest_position()
    for sequence in (1, 2, 3):
        await happen(store, B, jobs[B], sequence, "running")
    shown = await happen(store, A, jobs[A], 1, "running")
    mine = store.within(A).events
    first = await mine.tail(start, 2)
    assert (first.events, first.more) == ([], True)
    second = await mine.tail(first.last, 9)
    assert ([one.id for _, one in second.events], second.more) == ([shown], False)
    assert (await mine.tail(second.last, 9)).last == second.last


async def test_one_account_cannot_use_up_the_replays_of_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_statements, "MAX_RUNNING_OF_ACCOUNT", 2)
    monkeypatch.setattr(replay_statements, "MAX_RUNNING", 5)
    for account in (A, B):
        await store.within(account).subscriptions.create(subscription(f"sub_{account[1]}", state="paused"))
        await happen(store, account, await a_job(store, account), 1, "running")

    async def replay(view: Store, name: str, nth: int) -> None:
        request = ReplayRequest(
            id=f"rpl_{name}{nth}", subscription_id=f"sub_{name}", since=0.0, until=NOW + 1, now=NOW + 1, only="all"
        )
        await view.replays.create(request)

    for nth in range(2):
        await replay(store.within(A), "a", nth)
    with pytest.raises(Conflict, match="2 replays of this account"):
        await replay(store.within(A), "a", 3)
    await replay(store.within(B), "b", 0)
    for nth in range(4, 6):
        await replay(store, "a", nth)
    with pytest.raises(Conflict, match="too many replays are running"):
        await replay(store.within(B), "b", 1)
