"""What is read of a group for its forecast: bounded, complete at the ends of each channel, and of one account."""

from dataclasses import replace
from typing import Any

import pytest

from relay.store.jobs import group_work, groups
from relay.store.jobs.group_work import GroupReading
from relay.store.store import Store
from tests.support.store_kit import NOW, fail_for, list_accounts, poll, registration, seen, track


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
    assert (reading.health, reading.accounts, reading.others, reading.ended) == ("ok", (), (), ())


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


async def end(store: Store, uid: str, at: float, **fields: Any) -> None:
    observed = seen("succeeded", at, channel="email", **fields)
    await store.jobs.record(poll(uid, 0, "succeeded", outcome="succeeded", now=at, seen=observed))


async def test_accounts_of_open_jobs_and_of_the_last_ended_ones_are_read_the_most_urgent_first(store: Store) -> None:
    place = ("revor", "default")
    await list_accounts(store, place, "acc_ok", channel="email", name="Grace", now=NOW)
    await list_accounts(store, place, "acc_bad", "acc_idle", channel="linkedin", state="needs_reconnect", now=NOW + 1)
    await list_accounts(store, place, "acc_new", state="new", now=NOW + 2)
    await list_accounts(store, place, "acc_unused", state="cannot_send", now=NOW + 3)
    await fail_for(store, "acc_fails", now=NOW + 4)
    await fill(store, 3, name="q4", channel="linkedin", connect_account_id="acc_bad")
    for number, id in enumerate(("acc_ok", "acc_ok", "acc_new", "acc_fails", None)):
        await track(store, f"job {number}", group="q4", connect_account_id=id)
    await track(store, "of another group", group="q5", connect_account_id="acc_ok")
    await end(store, await track(store, "ended", group="q4"), NOW + 5, connect_account_id="acc_idle")
    accounts = (await read(store)).accounts
    assert [(one.id, one.waiting, one.cannot_send, one.trouble is not None) for one in accounts] == [
        ("acc_bad", 3, True, False),
        ("acc_fails", 1, True, True),
        ("acc_idle", 0, True, False),
        ("acc_ok", 2, False, False),
        ("acc_new", 1, False, False),
    ]
    bad, fails, *_ = accounts
    assert (bad.channel, bad.state, bad.since, bad.is_least) == ("linkedin", "needs_reconnect", NOW + 1, False)
    assert (fails.channel, fails.name, fails.state, fails.since) == (None, None, None, None)


async def test_jobs_of_an_account_are_at_least_those_read_of_a_large_group(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_work, "OPEN_READ", 5)
    monkeypatch.setattr(group_work, "EDGE_READ", 2)
    await fill(store, 6, connect_account_id="acc_1")
    (account,) = (await read(store)).accounts
    assert (account.waiting, account.is_least) == (4, True)


async def test_ends_are_counted_by_span_up_to_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "COUNTED_ENDS", 3)
    for number, after in enumerate((0, 9.5, 10, 20, 21, 22, 23, 40)):
        await end(store, await track(store, f"job {number}", group="q4"), NOW + after)
    await end(store, await track(store, "of another group", group="q5"), NOW)
    await track(store, "open", group="q4")
    spans = [(NOW, NOW + 10), (NOW + 10, NOW + 20), (NOW + 20, NOW + 30), (NOW + 30, NOW + 40)]
    (group,) = await store.groups.find("q4")
    assert await store.groups.ends(group, spans) == [2, 1, 3, 0]
    assert await store.groups.ends(replace(group, account="other"), spans) == [0, 0, 0, 0]
