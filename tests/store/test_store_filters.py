"""Filters in the store: wherever events are matched to subscriptions, and once for each distinct filter."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay import tasks
from relay.core.deliveries.replay import ReplayRequest
from relay.core.events.event import INCIDENT_OPENED, Event, Hint
from relay.core.jobs.job import Problem
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import MAX_OWNER_COMPARISONS, UNREADABLE, Filters, filters_of
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Conflict
from relay.ids import new_id
from relay.store.databases.postgres import PostgresDatabase
from relay.store.deliveries import replays
from relay.store.store import Store
from relay.store.subscriptions import filters, subscriptions
from tests.support.store_kit import (
    NOW,
    PUBLISHED_TYPE,
    SOURCE,
    deliver_all,
    deliveries,
    job_event,
    lease,
    poll,
    publication,
    seen,
    subscription,
    track,
)

FAILED = "ai.revor.job.failed"
LINKEDIN = {"exact": {"channel": "linkedin"}}
EMAIL = {"exact": {"channel": "email"}}
RECONNECT = Hint(meaning="reconnect", fix="do", who="account owner", repeat="safe", points_at="connect_account")


def event_of(uid: str, sequence: int, kind: str, channel: str | None = "linkedin", deal: int = 42) -> Event:
    document: dict[str, Any] = {
        "id": "e",
        "source": SOURCE,
        "type": f"ai.revor.job.{kind}",
        "status": kind,
        "data": {"metadata": {"deal": deal}},
    }
    if channel is not None:
        document["channel"] = channel
    return job_event(uid, sequence, kind, body=orjson.dumps(document), owner="revor/default")


async def record(store: Store, channel: str | None = "linkedin", deal: int = 42, name: str = "a job") -> list[Event]:
    """A job with three events."""
    uid = await track(store, name)
    events = [event_of(uid, nth, kind, channel, deal) for nth, kind in enumerate(("queued", "running", "failed"), 1)]
    await store.jobs.record(poll(uid, 0, "queued", "running", "failed", events=events))
    return events


async def got(store: Store, id: str) -> list[int]:
    """The sequences of the deliveries of a subscription."""
    return [row["sequence"] for row in await deliveries(store, id)]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the comparisons that were evaluated."""
    found: list[str] = []
    holds = EventView.holds

    def counted(self: EventView, one: Any) -> bool:
        if one.key not in self._results:
            found.append(one.key)
        return holds(self, one)

    monkeypatch.setattr(EventView, "holds", counted)
    return found


async def test_a_subscription_gets_the_events_that_its_filters_let_through(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_all"))
    await store.subscriptions.create(subscription("sub_linkedin", filters=(LINKEDIN,)))
    await store.subscriptions.create(subscription("sub_email", filters=(EMAIL,)))
    both = ({"exact": {"status": "failed"}}, {"not": EMAIL})
    await store.subscriptions.create(subscription("sub_both", types=(FAILED,), filters=both))
    await store.subscriptions.create(subscription("sub_owned", filters=(LINKEDIN,), owner="revor/default"))
    await store.subscriptions.create(subscription("sub_other", filters=(LINKEDIN,), owner="revor/other"))
    deals = ({"range": {"/data/metadata/deal": {"gt": 40}}}, LINKEDIN)
    await store.subscriptions.create(subscription("sub_deals", filters=deals))
    await record(store)
    await record(store, "email", name="another")
    assert len(await got(store, "sub_all")) == 6
    for id in ("sub_linkedin", "sub_email", "sub_owned", "sub_deals"):
        assert await got(store, id) == [1, 2, 3], id
    assert await got(store, "sub_both") == [3]
    assert await got(store, "sub_other") == []


async def test_what_was_evaluated_for_a_reservation_is_not_evaluated_again(store: Store, evaluated: list[str]) -> None:
    made = subscription("sub_1", filters=(LINKEDIN,))
    await store.subscriptions.create(made)
    uid = await track(store)
    event = event_of(uid, 1, "queued")
    filters = filters_of(made.filters)
    assert filters is not None
    assert filters.passes(EventView(event.body, event.compared))
    recorded = await store.jobs.record(poll(uid, 0, "queued", events=[event], lease=lease("sub_1")))
    assert [one.subscription_id for one in recorded.claimed] == ["sub_1"]
    assert len(evaluated) == 1


async def test_changed_filters_hold_from_the_next_event_on(store: Store) -> None:
    made = subscription("sub_1", filters=(EMAIL,))
    await store.subscriptions.create(made)
    await record(store)
    await store.subscriptions.replace(replace(made, filters=(LINKEDIN,)), NOW)
    await record(store, name="another")
    assert len(await got(store, "sub_1")) == 3
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    assert found.filters == (LINKEDIN,)
    await store.subscriptions.replace(replace(made, filters=()), NOW)
    await record(store, "email", name="a third")
    assert len(await got(store, "sub_1")) == 6


# --- filters that cannot be read


OLD = ({"cel": "data.metadata.deal > 40"},)
DEALS = ({"range": {"/data/metadata/deal": {"gt": 40}}},)


async def hold(store: Store) -> list[Subscription]:
    return await store.subscriptions.hold_unreadable(await store.subscriptions.all(), NOW)


async def states(store: Store, id: str) -> list[tuple[int, str, str | None]]:
    return [(row["sequence"], row["state"], row["reason"]) for row in await deliveries(store, id)]


@pytest.mark.parametrize("state", ["enabled", "paused", "disabled", "pending"])
async def test_filters_that_cannot_be_read_pause_their_subscription(store: Store, state: Any) -> None:
    await store.subscriptions.create(subscription("sub_old", filters=OLD, state=state, probe_at=NOW))
    await store.subscriptions.create(subscription("sub_1", filters=(LINKEDIN,)))
    version = store.subscriptions.version
    found = await hold(store)
    assert [(one.id, one.state, one.probe_at) for one in found] == [
        ("sub_1", "enabled", None),
        ("sub_old", "paused", None),
    ]
    stored = await store.subscriptions.get("sub_old")
    assert stored is not None
    assert (stored.state, stored.probe_at, stored.handshake_at) == ("paused", None, None)
    assert stored.state_reason is not None
    assert stored.state_reason.startswith(f"{UNREADABLE}: filters[0].cel: ")
    assert "docs/operate/upgrading.md" in stored.state_reason
    assert store.subscriptions.version > version
    again = store.subscriptions.version
    await hold(store)
    assert store.subscriptions.version == again


async def test_events_wait_while_filters_cannot_be_read(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_old", filters=OLD))
    await record(store, deal=42)  # before it is noticed
    await hold(store)
    await record(store, deal=7, name="small")
    assert await got(store, "sub_old") == [1, 2, 3] * 2
    assert {row["state"] for row in await deliveries(store, "sub_old")} == {"pending", "blocked"}
    with pytest.raises(Conflict, match="cannot be read") as refused:
        await store.subscriptions.set_state("sub_old", "enabled", NOW)
    assert refused.value.code == "filters_unreadable"
    assert {row["state"] for row in await deliveries(store, "sub_old")} == {"pending", "blocked"}


async def held_with_waiting(store: Store) -> Subscription:
    """A subscription with old filters; jobs with a deal of 42, 7 and 42 wait for it."""
    old = subscription("sub_old", filters=OLD)
    await store.subscriptions.create(old)
    await hold(store)
    for name, deal in (("a", 42), ("b", 7), ("c", 42)):
        await record(store, deal=deal, name=name)
    return old


async def test_resuming_after_a_correction_sends_what_passes_and_cancels_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SLICE", 2)
    old = await held_with_waiting(store)
    await store.subscriptions.replace(replace(old, filters=DEALS), NOW)
    stored = await store.subscriptions.get("sub_old")
    assert stored is not None
    assert stored.state == "paused"  # PUT changes no state
    await record(store, deal=8, name="d")  # the corrected filters hold from here on
    await store.subscriptions.set_state("sub_old", "enabled", NOW)
    cancelled = [one for one in await states(store, "sub_old") if one[1] == "cancelled"]
    assert cancelled == [(sequence, "cancelled", "filtered") for sequence in (1, 2, 3)]
    sent = await deliver_all(store, "sub_old")
    assert [one.event.sequence for one in sent].count(3) == 2
    assert len(sent) == 6


async def test_a_crash_while_what_waits_is_filtered_leaves_the_subscription_paused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SLICE", 2)
    old = await held_with_waiting(store)
    await store.subscriptions.replace(replace(old, filters=DEALS), NOW)
    slices: list[object] = []
    real = subscriptions._filter_some

    def crashes(connection: Any, items: Any) -> Any:
        slices.append(items)
        if len(slices) == 3:
            raise RuntimeError("killed")
        return real(connection, items)

    monkeypatch.setattr(subscriptions, "_filter_some", crashes)
    with pytest.raises(Exception, match="killed"):
        await store.subscriptions.set_state("sub_old", "enabled", NOW)
    stored = await store.subscriptions.get("sub_old")
    assert stored is not None
    assert (stored.state, (stored.state_reason or "").startswith(UNREADABLE)) == ("paused", True)
    monkeypatch.setattr(subscriptions, "_filter_some", real)
    await store.subscriptions.set_state("sub_old", "enabled", NOW)
    assert len(await deliver_all(store, "sub_old")) == 6


# --- room for comparisons


def comparing(id: str, count: int, first: int = 0, **more: Any) -> Subscription:
    """A subscription with so many distinct comparisons, 32 at most in one."""
    return subscription(id, filters=({"exact": {f"/data/n{first + n}": 1 for n in range(count)}},), **more)


def several(count: int, **more: Any) -> list[Subscription]:
    return [comparing(f"sub_{first}", min(32, count - first), first, **more) for first in range(0, count, 32)]


async def test_an_owner_has_two_thousand_distinct_comparisons(store: Store) -> None:
    for one in several(MAX_OWNER_COMPARISONS):
        await store.subscriptions.create(one)
    await store.subscriptions.create(comparing("sub_same", 32, 100))
    with pytest.raises(Conflict, match="2,001 distinct comparisons, and 2,000 are allowed") as refused:
        await store.subscriptions.create(comparing("sub_more", 1, MAX_OWNER_COMPARISONS))
    assert (refused.value.code, refused.value.status) == ("too_many_comparisons", 409)
    assert await store.subscriptions.get("sub_more") is None
    await store.subscriptions.create(comparing("sub_other", 32, 9_000, owner="revor/default"))
    await store.subscriptions.create(subscription("sub_plain"))


async def test_the_most_comparisons_with_the_worst_operands_cost_no_other_owner_its_events(store: Store) -> None:
    text = "a" * 2_400
    for number in range(0, MAX_OWNER_COMPARISONS, 32):
        places = [{"contains": {"/data/metadata/text": f"{'a' * 100}{number + n}b"}} for n in range(32)]
        places = places[: MAX_OWNER_COMPARISONS - number]
        filters = ({"any": [*places[:-1], {"not": places[-1]}]},)
        await store.subscriptions.create(subscription(f"sub_{number}", filters=filters))
    await store.subscriptions.create(subscription("sub_other", filters=(LINKEDIN,), owner="revor/default"))
    uid = await track(store)
    body = {"id": "e", "source": SOURCE, "type": FAILED, "channel": "linkedin", "data": {"metadata": {"text": text}}}
    event = job_event(uid, 1, "failed", body=orjson.dumps(body), owner="revor/default")
    await store.jobs.record(poll(uid, 0, "failed", events=[event]))
    assert len(event.compared) == MAX_OWNER_COMPARISONS + 1
    assert await got(store, "sub_other") == [1]
    assert await got(store, "sub_0") == [1]  # nothing is given up: each of them is evaluated


@pytest.mark.parametrize("what", ["record", "earlier events", "replay", "resume"])
async def test_where_the_event_loop_evaluates_filters_others_have_their_turn_between_two_events(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if not isinstance(store.database, PostgresDatabase):
        pytest.skip("SQLite evaluates them in a thread")
    filters = OLD if what == "resume" else DEALS
    made = subscription("sub_1", types=(PUBLISHED_TYPE,), filters=filters, start_at=0.0)
    if what == "resume":
        await store.subscriptions.create(made)
        await hold(store)
    if what in ("earlier events", "replay", "resume"):
        await store.published.record([publication(str(number)) for number in range(5)])
    seen: list[str] = []
    passes = Filters.passes

    def noted(self: Filters, view: EventView) -> bool:
        seen.append("event")
        return passes(self, view)

    async def others() -> None:
        while True:
            seen.append("others")
            await asyncio.sleep(0)

    if what == "replay":
        await store.subscriptions.create(replace(made, start_at=None))
    monkeypatch.setattr(Filters, "passes", noted)
    monkeypatch.setattr(tasks, "TURN_SECONDS", 0.0)
    beside = asyncio.create_task(others())
    if what == "record":
        await store.subscriptions.create(made)
        await store.published.record([publication(str(number)) for number in range(5)])
    elif what == "earlier events":
        await store.subscriptions.create(made)
    elif what == "replay":
        request = ReplayRequest(id=new_id("rpl", NOW), subscription_id="sub_1", since=0.0, until=NOW + 9, now=NOW)
        await store.replays.create(request)
    else:
        await store.subscriptions.replace(replace(made, filters=DEALS), NOW)
        await store.subscriptions.set_state("sub_1", "enabled", NOW)
    beside.cancel()
    assert seen.count("event") >= 5
    assert ("event", "event") not in itertools.pairwise(seen)


# --- past events and replays


@pytest.mark.parametrize("only", ["undelivered", "all"])
async def test_a_replay_counts_and_sends_what_passes_the_filters(
    store: Store, monkeypatch: pytest.MonkeyPatch, only: Any
) -> None:
    monkeypatch.setattr(replays, "FILTERED_COUNT_SLICE", 4)
    monkeypatch.setattr(replays, "FILTERED_SLICE", 4)
    for number in range(4):
        await record(store, "email" if number % 2 else "linkedin", deal=number, name=f"job {number}")
    filters = (EMAIL, {"range": {"/data/metadata/deal": {"gt": 1}}}, {"not": {"exact": {"status": "running"}}})
    await store.subscriptions.create(subscription("sub_1", filters=filters))
    request = ReplayRequest(
        id=new_id("rpl", NOW), subscription_id="sub_1", since=NOW - 9, until=NOW + 9, now=NOW, only=only
    )
    made = await store.replays.create(request)
    assert made.matched == 2
    while (await store.replays.advance(made.id, "node", NOW)).more:
        pass
    sent = await deliver_all(store, "sub_1")
    assert [one.event.sequence for one in sent] == [1, 3]
    await store.replays.advance(made.id, "node", NOW)
    ended = await store.replays.get(made.id)
    assert ended is not None
    assert (ended.state, ended.matched, ended.delivered, ended.left) == ("done", 2, 2, 0)
    again = await store.replays.create(replace(request, id=new_id("rpl", NOW)))
    assert again.matched == (2 if only == "all" else 0)


# --- incidents


async def fail(store: Store, name: str, now: float = NOW, channel: str = "linkedin") -> None:
    uid = await track(store, name, tracked_at=now)
    observation = seen(
        "failed", now, problem=Problem(code="reconnect", message=""), connect_account_id="acc_1", channel=channel
    )
    event = replace(event_of(uid, 1, "failed", channel), recorded_at=now, time=now)
    await store.jobs.record(poll(uid, 0, events=[event], now=now, seen=observation, outcome="failed", hint=RECONNECT))


@pytest.mark.parametrize(
    ("filters", "collapses"),
    [
        ((), True),
        ((LINKEDIN,), True),
        (({"exact": {"account": "default"}},), False),  # its failures here have no account
        (({"any": [{"exact": {"status": "failed"}}, {"prefix": {"type": "relay.incident."}}]},), True),
        (({"exact": {"status": "failed"}},), False),
        (({"prefix": {"type": "ai.revor."}},), False),
        (({"any": [{"exact": {"status": "failed"}}, {"range": {"/data/failed": {"gte": 1}}}]},), True),
        (({"range": {"/data/metadata/deal": {"gt": 1}}},), False),
    ],
)
async def test_a_failure_is_collapsed_only_where_the_filters_let_the_incident_through(
    store: Store, filters: tuple[dict[str, Any], ...], collapses: bool
) -> None:
    chat = subscription("sub_chat", types=(FAILED,), incidents="collapse", filters=filters)
    await store.subscriptions.create(chat)
    await fail(store, "a")  # in the transaction that opens the incident
    await fail(store, "b", now=NOW + 1)  # afterwards: the event that opened it is read
    rows = await deliveries(store, "sub_chat")
    kept = [row for row in rows if row["state"] != "cancelled"]
    opened = [one.event.type for one in await deliver_all(store, "sub_chat", now=NOW + 2)].count(INCIDENT_OPENED)
    passes = filters != ({"exact": {"account": "default"}},)
    if collapses:
        assert (len(rows), len(kept), opened) == (3, 1, 1)
    elif passes:
        assert (len(rows), len(kept), opened) == (2, 2, 0)
    else:
        assert (len(rows), opened) == (1, 1)
