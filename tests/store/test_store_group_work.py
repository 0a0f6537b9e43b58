"""What is read of a group for its forecast: bounded, complete at the ends of each channel, and of one account."""

from typing import Any

import pytest

from relay.store.jobs import group_work
from relay.store.jobs.group_work import GroupReading
from relay.store.store import Store
from tests.support.store_kit import NOW, poll, registration, seen, track


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
