"""List pages: every row once, newest first, with every filter; foreign cursors are refused."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.records import Page
from relay.errors import InvalidRequest
from relay.ids import least_id
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    deliveries,
    execute,
    job_event,
    poll,
    relay_event,
    result_of,
    seen,
    subscription,
    track,
)


async def walk(page: Callable[..., Awaitable[Page[Any]]], limit: int, **filters: Any) -> list[Any]:
    """All items of a list, page by page."""
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(100):
        found = await page(limit=limit, cursor=cursor, **filters)
        assert len(found.items) == limit or found.next_cursor is None
        items += found.items
        cursor = found.next_cursor
        if cursor is None:
            return items
    raise AssertionError("the list does not end")


@pytest.fixture
async def full(store: Store) -> Store:
    """Twelve jobs, some closed; two events each; three subscriptions and a callback; deliveries in every state."""
    for name, fields in {
        "sub_1": {},
        "sub_2": {"types": ("ai.revor.job.failed",)},
        "sub_3": {"types": ("relay.source.down",)},
    }.items():
        await store.subscriptions.create(subscription(name, **fields))
    await callback_for(store, "https://callback.example", "sub_4", NOW)
    for nth in range(12):
        account, source = ("other", "revor") if nth % 4 == 0 else ("default", "second" if nth % 5 == 0 else "revor")
        uid = await track(store, f"job {nth}", tracked_at=NOW + nth, account=account, source=source)
        last = "failed" if nth % 3 == 0 else "running"
        outcome = "failed" if nth % 3 == 0 else None
        owner = f"{source}/{account}"
        events = [job_event(uid, at, kind, now=NOW + nth, owner=owner) for at, kind in enumerate(("queued", last), 1)]
        await store.jobs.record(poll(uid, 0, "queued", last, now=NOW + nth, outcome=outcome, events=events))
    await store.events.record(relay_event(now=NOW + 6))
    for nth, one in enumerate(await claim(store, "sub_1", now=NOW + 20)):
        await store.deliveries.record(result_of(one, ("delivered", "dead", "pending")[nth % 3], now=NOW + 20))
    await store.subscriptions.remove("sub_3", NOW + 20)
    await store.subscriptions.create(subscription("sub_3"))
    return store


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, lambda job: True),
        ({"status": "failed"}, lambda job: job.progress.status == "failed"),
        ({"status": "none"}, lambda job: False),
        ({"open": True}, lambda job: job.open),
        ({"open": False}, lambda job: not job.open),
        ({"account": "other"}, lambda job: job.account == "other"),
        ({"source": "second"}, lambda job: job.source == "second"),
        (
            {"source": "revor", "account": "default", "open": True, "status": "running"},
            lambda job: job.source == "revor" and job.account == "default" and job.open,
        ),
    ],
)
async def test_jobs(full: Store, filters: dict[str, Any], wanted: Callable[[Any], bool]) -> None:
    everything = await walk(full.jobs.page, 500)
    assert len(everything) == 12
    assert [job.uid for job in everything] == sorted((job.uid for job in everything), reverse=True)
    for limit in (1, 3, 5, 12, 500):
        assert await walk(full.jobs.page, limit, **filters) == [job for job in everything if wanted(job)]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, lambda event: True),
        ({"types": ("ai.revor.job.failed",)}, lambda event: event.type == "ai.revor.job.failed"),
        (
            {"types": ("ai.revor.job.failed", "ai.revor.webset.failed", "ai.revor.job.queued")},
            lambda event: event.type in ("ai.revor.job.failed", "ai.revor.job.queued"),
        ),
        ({"since": NOW + 3}, lambda event: event.recorded_at >= NOW + 3),
        ({"until": NOW + 3}, lambda event: event.recorded_at < NOW + 3),
        ({"since": NOW + 3, "until": NOW + 3}, lambda event: False),
        (
            {"types": ("ai.revor.job.queued",), "since": NOW + 3, "until": NOW + 7},
            lambda event: event.type == "ai.revor.job.queued" and NOW + 3 <= event.recorded_at < NOW + 7,
        ),
        (
            {"types": ("ai.revor.job.queued", "ai.revor.job.running"), "since": NOW + 3, "until": NOW + 7},
            lambda event: "failed" not in event.type and NOW + 3 <= event.recorded_at < NOW + 7 and event.job_uid,
        ),
    ],
)
async def test_events(full: Store, filters: dict[str, Any], wanted: Callable[[Any], bool]) -> None:
    everything = await walk(full.events.page, 500)
    assert len(everything) == 26  # 25 of jobs, and that an incident has opened
    moments = [event.recorded_at for event in everything]
    assert moments == sorted(moments, reverse=True)
    for limit in (1, 4, 25, 500):
        assert await walk(full.events.page, limit, **filters) == [event for event in everything if wanted(event)]


MOMENT_ROWS = 5
BOTH = ("ai.revor.job.failed", "ai.revor.job.running")


async def test_rows_that_share_a_value_and_a_time_come_once(store: Store) -> None:
    """Whichever filters a page is walked along, and wherever it ends."""
    for name in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(name))
    for nth in range(3 * MOMENT_ROWS):
        moment, of_other = NOW + nth // MOMENT_ROWS, nth % 3 == 0
        account = "other" if of_other else "default"
        fields = {"group": f"group {nth % 2}", "connect_account_id": "acc_1"}
        uid = await track(store, f"job {nth}", tracked_at=moment, account=account, **fields)
        kind = "failed" if nth % 2 else "running"
        event = job_event(uid, 1, kind, now=moment, owner=f"revor/{account}", subject=f"subject {nth % 2}")
        await store.jobs.record(
            poll(uid, 0, kind, now=moment, events=[event], seen=seen(kind, moment, channel="email"))
        )
    jobs = await walk(store.jobs.page, 500)
    events = await walk(store.events.page, 500)
    sent = await walk(store.deliveries.page, 500)
    assert (len(jobs), len(events), len(sent)) == (3 * MOMENT_ROWS, 3 * MOMENT_ROWS, 6 * MOMENT_ROWS)
    times = {"since": NOW + 1, "until": NOW + 2}
    of_jobs: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
        ({"group": "group 1"}, lambda job: job.group == "group 1"),
        ({"connect_account": "acc_1", "account": "other"}, lambda job: job.account == "other"),
        ({"channel": "email", **times}, lambda job: job.tracked_at == NOW + 1),
    ]
    of_events: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
        ({"subject": "subject 1"}, lambda event: event.subject == "subject 1"),
        (
            {"types": ("ai.revor.job.failed",), **times},
            lambda event: "failed" in event.type and event.recorded_at == NOW + 1,
        ),
        ({"types": BOTH}, lambda event: True),
        ({"types": BOTH, **times}, lambda event: event.recorded_at == NOW + 1),
        ({"types": BOTH, "subject": "subject 0"}, lambda event: event.subject == "subject 0"),
        ({"types": BOTH[:1], "subject": "subject 1"}, lambda event: event.subject == "subject 1"),
        ({"types": BOTH[:1], "subject": "subject 0"}, lambda event: False),
    ]
    for limit in (1, MOMENT_ROWS - 1, MOMENT_ROWS):
        for filters, wanted in of_jobs:
            assert await walk(store.jobs.page, limit, **filters) == [job for job in jobs if wanted(job)]
        for filters, wanted in of_events:
            assert await walk(store.events.page, limit, **filters) == [event for event in events if wanted(event)]
            own = store.within(("revor", "other")).events.page
            assert await walk(own, limit, **filters) == [
                event for event in events if wanted(event) and event.owner == "revor/other"
            ]
        for name in ("sub_1", "sub_2"):
            for times, begun in ({}, ""), ({"since": NOW + 1}, least_id("dlv", NOW + 1)):
                found = await walk(store.deliveries.page, limit, subscription_id=name, **times)
                assert found == [one for one in sent if one.subscription_id == name and one.id >= begun]


@pytest.mark.parametrize("state", [None, "pending", "delivered", "dead", "cancelled"])
async def test_deliveries(full: Store, state: str | None) -> None:
    await execute(full, "UPDATE deliveries SET state = 'cancelled' WHERE sequence = 2 AND subscription_id = 'sub_2'")
    rows = await deliveries(full)
    shown = {"blocked": "pending"}
    wanted = {row["id"] for row in rows if state in (None, shown.get(row["state"], row["state"]))}
    assert len(wanted) > 3
    for limit in (1, 4, 500):
        found = await walk(full.deliveries.page, limit, state=state)
        assert [one.id for one in found] == sorted(wanted, reverse=True)
        for name in ("sub_1", "sub_2", "sub_none"):
            of_one = await walk(full.deliveries.page, limit, state=state, subscription_id=name)
            assert of_one == [one for one in found if one.subscription_id == name]
        event_id = rows[0]["event_id"]
        of_event = await walk(full.deliveries.page, limit, state=state, event_id=event_id)
        assert of_event == [one for one in found if one.event_id == event_id]


async def test_row_inserted_while_paging_shifts_nothing(store: Store) -> None:
    for nth in range(4):
        await track(store, f"job {nth}", tracked_at=NOW + nth)
    first = await store.jobs.page(limit=2)
    await track(store, "newer", tracked_at=NOW + 9)
    second = await store.jobs.page(limit=2, cursor=first.next_cursor)
    assert [job.external_id for job in (*first.items, *second.items)] == ["job 3", "job 2", "job 1", "job 0"]
    assert second.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "=", "zzzz", "é", "\ud800", "a" * 201, "am9iXw===", "null", "evt_1", "+/"])
async def test_invalid_cursor_is_refused_by_every_list(store: Store, cursor: str) -> None:
    for page in (store.jobs.page, store.events.page, store.deliveries.page, store.subscriptions.page):
        with pytest.raises(InvalidRequest) as refused:
            await page(limit=5, cursor=cursor)
        assert refused.value.status == 422
        assert [error.code for error in refused.value.errors] == ["invalid_cursor"]


async def test_a_cursor_of_another_list_is_refused(full: Store) -> None:
    pages = {
        "jobs": full.jobs.page,
        "events": full.events.page,
        "deliveries": full.deliveries.page,
        "subscriptions": full.subscriptions.page,
    }
    cursors = {name: (await page(limit=1)).next_cursor for name, page in pages.items()}
    for name, cursor in cursors.items():
        assert cursor is not None
        for other, page in pages.items():
            if other != name:
                with pytest.raises(InvalidRequest):
                    await page(limit=1, cursor=cursor)
