"""What is read of a group for its forecast: bounded, complete at the ends of each channel, and of one account."""

from typing import Any

import pytest

from relay.core.records import AccountState, SavedStatistics
from relay.store.jobs import group_work
from relay.store.jobs.group_work import GroupReading
from relay.store.store import Store
from tests.support.store_kit import NOW, list_accounts, poll, registration, seen, track


async def read(store: Store, name: str = "q4", since: float = 0.0) -> GroupReading:
    return await store.group_work.read("revor", "default", name, since=since)


async def fill(
    store: Store, count: int, *, channel: str | None = "email", name: str = "q4", **fields: Any
) -> list[str]:
    """Jobs of a group, scheduled a minute apart."""
    found = await store.jobs.register_many([registration(f"{name} {channel} {n}", group=name) for n in range(count)])
    uids = [each.job.uid for each in found]  # type: ignore[union-attr]
    for number, uid in enumerate(uids):
        values = {"action": "send", "channel": channel, "scheduled_at": NOW + number * 60.0, **fields}
        await store.jobs.record(poll(uid, 0, "scheduled", seen=seen("scheduled", NOW, **values)))
    return uids


async def end(store: Store, uid: str, at: float, channel: str | None = "email") -> None:
    found = seen("succeeded", at, channel=channel, started_at=at - 7)
    await store.jobs.record(poll(uid, 1, "succeeded", outcome="succeeded", now=at, seen=found))


async def test_a_small_group_is_read_whole(store: Store) -> None:
    await fill(store, 3)
    await fill(store, 2, channel=None, scheduled_at=None)
    await track(store, "not polled yet", group="q4")
    reading = await read(store)
    assert {part.channel: len(part.first) for part in reading.jobs} == {"email": 3, None: 3}
    assert not any(part.is_cut or part.last for part in reading.jobs)
    (email,) = (part for part in reading.jobs if part.channel == "email")
    assert email.first[1].scheduled_at == NOW + 60
    assert (email.first[1].status, email.first[1].seen_at, email.first[1].tracked_at) == ("scheduled", NOW, NOW)
    assert (reading.health, reading.broken, reading.others, reading.ended) == ("ok", (), (), ())


async def test_of_a_large_group_the_ends_of_each_channel_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_work, "OPEN_READ", 10)
    monkeypatch.setattr(group_work, "EDGE_READ", 3)
    await fill(store, 10)
    await fill(store, 4, channel="linkedin")
    await fill(store, 2, channel="whatsapp")
    await fill(store, 5, channel="fax", scheduled_at=None)
    await fill(store, 4, channel=None, scheduled_at=None)
    parts = {part.channel: part for part in (await read(store)).jobs}
    assert list(parts) == ["email", "fax", "linkedin", "whatsapp", None]
    ends = (parts["email"].first, parts["email"].last)
    places = [[round(((job.scheduled_at or 0) - NOW) / 60) for job in some] for some in ends]
    assert places == [[0, 1, 2], [7, 8, 9]]
    assert [len(parts[name].last) for name in ("linkedin", "whatsapp", "fax", None)] == [1, 0, 0, 0]
    assert [parts[name].is_cut for name in ("email", "linkedin", "whatsapp", "fax", None)] == [
        *(True, True, False, True, True)
    ]


async def test_other_jobs_of_the_account_are_read_beside_it(store: Store) -> None:
    await fill(store, 2)
    await fill(store, 1, name="another")
    await track(store, "in no group")
    await track(store, "of another account", account="b", group="q4")
    reading = await read(store)
    assert len(reading.others) == 2
    assert sum(len(part.first) for part in reading.jobs) == 2


async def test_the_jobs_that_ended_last_are_read(store: Store) -> None:
    own, other = await fill(store, 4), await fill(store, 1, name="another")
    for number, uid in enumerate((*own[:3], *other)):
        await end(store, uid, NOW + number)
    elsewhere = await track(store, "of another account", account="b", group="q4")
    await store.jobs.record(poll(elsewhere, 0, "succeeded", outcome="succeeded"))
    ended = (await read(store, since=NOW + 1)).ended
    assert [(job.channel, job.started_at, job.closed_at, job.in_group) for job in ended] == [
        ("email", NOW - 5, NOW + 2, True),
        ("email", NOW - 6, NOW + 1, True),
        ("email", NOW - 4, NOW + 3, False),
    ]


async def test_trouble_of_the_accounts_is_read(store: Store) -> None:
    await fill(store, 2, connect_account_id="acc_1")
    await fill(store, 1, name="another", connect_account_id="acc_2")
    await fill(store, 1, channel="linkedin", connect_account_id="acc_4")
    for id, state in (("acc_1", "needs_reconnect"), ("acc_2", "cannot_send"), ("acc_3", "ok"), ("acc_4", "new")):
        await list_accounts(store, ("revor", "default"), id, state=state, channel="linkedin", name="Ada")
    await store.accounts.set(AccountState(source="revor", name="default", state="down", since=NOW))
    reading = await read(store)
    assert reading.health == "down"
    assert [(each.id, each.channel, each.name, each.state) for each in reading.broken] == [
        ("acc_1", "linkedin", "Ada", "needs_reconnect")
    ]


async def test_statistics_are_found_by_name(store: Store) -> None:
    await store.learned.save(
        [SavedStatistics(source="revor", name=name, event_count=1.0, values="{}") for name in ("a", "b", "c")], NOW
    )
    found = await store.learned.find("revor", ["a", "c", "d", "\0"])
    assert sorted(row.name for row in found) == ["a", "c"]
    assert await store.learned.find("another", ["a"]) == []
