"""Filters in the store: wherever events are matched to subscriptions, and once for each distinct filter."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.events import INCIDENT_OPENED, Event, Hint
from relay.core.filters import EventView, Filters
from relay.core.job import Problem
from relay.core.replay import ReplayRequest
from relay.errors import SettingsError
from relay.expressions.event_filters import (
    MAX_PARSED,
    MAX_REMEMBERED,
    MAX_SLICE_SECONDS,
    EventFilters,
    check_extras,
)
from relay.ids import new_id
from relay.store import replay_steps, replays
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    SOURCE,
    deliver_all,
    deliveries,
    job_event,
    lease,
    poll,
    relay_event,
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
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Filters]:
    """The filters that were evaluated."""
    found: list[Filters] = []
    passes = Filters.passes

    def counted(
        self: Filters, view: EventView, failed: Callable[..., object] = lambda failure: None, limit: float = 1
    ) -> bool:
        found.append(self)
        return passes(self, view, failed, limit)

    monkeypatch.setattr(Filters, "passes", counted)
    return found


async def test_a_subscription_gets_the_events_that_its_filters_let_through(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_all"))
    await store.subscriptions.create(subscription("sub_linkedin", filters=(LINKEDIN,)))
    await store.subscriptions.create(subscription("sub_email", filters=(EMAIL,)))
    both = ({"exact": {"status": "failed"}}, {"not": EMAIL})
    await store.subscriptions.create(subscription("sub_both", types=(FAILED,), filters=both))
    await store.subscriptions.create(subscription("sub_owned", filters=(LINKEDIN,), owner="revor/default"))
    await store.subscriptions.create(subscription("sub_other", filters=(LINKEDIN,), owner="revor/other"))
    cel = {"cel": 'data.metadata.deal > 40 && channel == "linkedin"'}
    await store.subscriptions.create(subscription("sub_cel", filters=(cel,)))
    await record(store)
    await record(store, "email", name="another")
    assert len(await got(store, "sub_all")) == 6
    for id in ("sub_linkedin", "sub_email", "sub_owned", "sub_cel"):
        assert await got(store, id) == [1, 2, 3], id
    assert await got(store, "sub_both") == [3]
    assert await got(store, "sub_other") == []


async def test_a_thousand_subscriptions_with_ten_filters_cost_ten_evaluations(
    store: Store, evaluated: list[Filters], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        filters = ({"prefix": {"type": f"ai.{'revor'[: number % 10]}"}},)
        await store.subscriptions.create(subscription(f"sub_{number}", filters=filters))
    await store.subscriptions.create(subscription("sub_plain"))
    event = relay_event("ai.revor.job.x", job_uid=None, body=b'{"type": "ai.revor.job.x"}')
    await store.events.record(replace(event, type="ai.revor.account.added"))
    assert evaluated == []  # no subscription gets this type
    await record(store)
    assert len(evaluated) == 3 * 6  # the prefixes of "revor", for three events
    assert len(set(evaluated)) == 6


async def test_what_was_evaluated_for_a_reservation_is_not_evaluated_again(
    store: Store, evaluated: list[Filters]
) -> None:
    made = subscription("sub_1", filters=(LINKEDIN,))
    await store.subscriptions.create(made)
    uid = await track(store)
    event = event_of(uid, 1, "queued")
    filters = store.filters.parsed(made.filters)
    assert filters is not None
    assert store.filters.of(event).passes(filters, made.owner)
    recorded = await store.jobs.record(poll(uid, 0, "queued", events=[event], lease=lease("sub_1")))
    assert [one.subscription_id for one in recorded.claimed] == ["sub_1"]
    assert evaluated == [filters]


def test_results_and_parsed_filters_are_kept_up_to_a_limit() -> None:
    every = EventFilters()
    for number in range(MAX_REMEMBERED + 1):
        every.of(event_of("job", number, "queued"))
    assert len(every._results) == 1
    for number in range(MAX_PARSED + 1):
        every.parsed([{"exact": {"channel": str(number)}}])
    assert len(every._parsed) == 1


async def test_without_filters_nothing_is_evaluated_or_parsed(
    store: Store, evaluated: list[Filters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventView, "__init__", lambda self, body: pytest.fail("an event was parsed"))
    await store.subscriptions.create(subscription("sub_1"))
    await record(store)
    assert await got(store, "sub_1") == [1, 2, 3]
    assert evaluated == []


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


async def test_an_expression_that_fails_is_counted_and_does_not_match(store: Store) -> None:
    failures: list[str] = []
    store.filters.on_failure = failures.append
    await store.subscriptions.create(subscription("sub_1", filters=({"cel": "data.metadata.stage == 3"},)))
    await record(store)
    assert await got(store, "sub_1") == []
    assert failures == ["missing"] * 3


async def test_a_node_that_lacks_an_extra_says_which_subscription_needs_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.subscriptions.create(subscription("sub_1", filters=({"any": [LINKEDIN, {"cel": "true"}]},)))
    await store.subscriptions.create(subscription("sub_2", filters=({"exact": {"channel": "cel"}},)))
    check_extras(await store.subscriptions.all())
    monkeypatch.setattr("relay.expressions.cel.find_spec", lambda name: None)
    with pytest.raises(SettingsError) as refused:
        check_extras(await store.subscriptions.all())
    assert "subscription sub_1" in str(refused.value)
    assert "pip install 'revor-relay[cel]'" in str(refused.value)
    await store.subscriptions.remove("sub_1", NOW)
    check_extras(await store.subscriptions.all())


async def test_filters_that_this_node_cannot_read_let_nothing_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    store.filters.on_failure = failures.append
    monkeypatch.setattr("relay.expressions.cel.find_spec", lambda name: None)
    await store.subscriptions.create(subscription("sub_1", filters=({"cel": "true"},)))
    await store.subscriptions.create(subscription("sub_2", filters=(LINKEDIN,)))
    await record(store)
    assert await got(store, "sub_1") == []
    assert await got(store, "sub_2") == [1, 2, 3]  # it harms no other
    assert failures == ["unavailable"] * 3


async def test_earlier_events_pass_the_same_filters(store: Store) -> None:
    await record(store, "email")
    await record(store, name="another", deal=7)
    await store.subscriptions.create(subscription("sub_1", filters=(EMAIL,), start_at=0.0))
    deals = ({"cel": "data.metadata.deal < 10"},)
    await store.subscriptions.create(subscription("sub_2", filters=deals, start_at=NOW - 5))
    assert await got(store, "sub_1") == [1, 2, 3]
    assert await got(store, "sub_2") == [1, 2, 3]
    assert not {row["event_id"] for row in await deliveries(store, "sub_1")} & {
        row["event_id"] for row in await deliveries(store, "sub_2")
    }


@pytest.fixture
def costly(store: Store, evaluated: list[Filters]) -> None:
    """Each evaluation takes so long that four of them are the time of a slice."""
    store.filters.steady = lambda: len(evaluated) * MAX_SLICE_SECONDS / 4


@pytest.mark.usefixtures("costly")
async def test_costly_filters_make_the_slices_of_past_events_short(store: Store, evaluated: list[Filters]) -> None:
    for number in range(5):
        await record(store, "email" if number % 2 else "linkedin", name=f"job {number}")
    made = subscription("sub_1", filters=(LINKEDIN,), start_at=0.0)
    more = await store.database.write(store.subscriptions._create, (made, None))
    counted = [len(evaluated)]
    while more:
        more = await store.database.write(store.subscriptions._fill, "sub_1")
        counted.append(len(evaluated))
    assert counted == [4, 8, 12, 15]
    assert await got(store, "sub_1") == [1, 2, 3] * 3
    assert [one.event.sequence for one in await deliver_all(store, "sub_1")].count(3) == 3


@pytest.mark.usefixtures("costly")
@pytest.mark.parametrize("only", ["undelivered", "all"])
async def test_costly_filters_make_the_slices_of_a_replay_short(
    store: Store, evaluated: list[Filters], monkeypatch: pytest.MonkeyPatch, only: Any
) -> None:
    for number in range(5):
        await record(store, "email" if number % 2 else "linkedin", name=f"job {number}")
    await store.subscriptions.create(subscription("sub_1", filters=(LINKEDIN,)))
    reads: list[int] = []
    count_filtered = replays._count_filtered

    def counting(*args: Any) -> Any:
        before = len(evaluated)
        found = count_filtered(*args)
        reads.append(len(evaluated) - before)
        return found

    monkeypatch.setattr(replays, "_count_filtered", counting)
    request = ReplayRequest(
        id=new_id("rpl", NOW), subscription_id="sub_1", since=NOW - 9, until=NOW + 9, now=NOW, only=only
    )
    made = await store.replays.create(request)
    assert made.matched == 9
    assert reads == [4, 4, 4, 3]
    evaluated.clear()
    counted: list[int] = []
    more = True
    while more:
        more = (await store.replays.advance(made.id, "node", NOW)).more
        counted.append(len(evaluated))
    assert counted == [4, 8, 12, 15]
    assert await got(store, "sub_1") == [1, 2, 3] * 3
    assert len(await deliver_all(store, "sub_1")) == 9
    await store.replays.advance(made.id, "node", NOW)
    ended = await store.replays.get(made.id)
    assert ended is not None
    assert (ended.state, ended.delivered, ended.left) == ("done", 9, 0)


@pytest.mark.parametrize("only", ["undelivered", "all"])
async def test_a_replay_counts_and_sends_what_passes_the_filters(
    store: Store, monkeypatch: pytest.MonkeyPatch, only: Any
) -> None:
    monkeypatch.setattr(replays, "FILTERED_COUNT_SLICE", 4)
    monkeypatch.setattr(replay_steps, "FILTERED_SLICE", 4)
    for number in range(4):
        await record(store, "email" if number % 2 else "linkedin", deal=number, name=f"job {number}")
    filters = (EMAIL, {"cel": "data.metadata.deal > 1"}, {"not": {"exact": {"status": "running"}}})
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


async def test_a_replay_whose_filters_let_nothing_through_is_done(store: Store) -> None:
    await record(store)
    await store.subscriptions.create(subscription("sub_1", filters=(EMAIL,)))
    request = ReplayRequest(id=new_id("rpl", NOW), subscription_id="sub_1", since=NOW - 9, until=NOW + 9, now=NOW)
    made = await store.replays.create(request)
    assert (made.matched, made.state) == (0, "done")


async def test_a_retry_of_dead_deliveries_asks_no_filters(store: Store) -> None:
    made = subscription("sub_1")
    await store.subscriptions.create(made)
    await record(store)
    await store.subscriptions.replace(replace(made, filters=(EMAIL,)), NOW)
    request = ReplayRequest(
        id=new_id("rpl", NOW), subscription_id="sub_1", since=NOW - 9, until=NOW + 9, now=NOW, only="pending"
    )
    assert (await store.replays.create(request)).matched == 3


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
        (({"cel": "status == 'failed' || data.kind == 'jobs' && data.failed >= 1"},), True),
        (({"cel": "data.metadata.deal > 1"},), False),
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


async def test_changed_filters_begin_anew_with_incidents(store: Store) -> None:
    chat = subscription("sub_chat", types=(FAILED,), incidents="collapse", filters=({"exact": {"status": "failed"}},))
    await store.subscriptions.create(chat)
    await fail(store, "a")
    await store.subscriptions.replace(replace(chat, filters=(LINKEDIN,)), NOW + 10)
    await fail(store, "b", now=NOW + 20)  # it was not told of this incident: its filters held it back
    assert [row["state"] for row in await deliveries(store, "sub_chat")] == ["pending", "pending"]


async def test_expensive_filters_of_one_owner_share_the_time_for_an_event_and_cost_no_other_owner_its_events(
    store: Store,
) -> None:
    pytest.importorskip("cel")
    costly = " || ".join(["data.metadata.deal == {}"] * 20)  # a millisecond for this event
    failures: list[str] = []
    store.filters.on_failure = failures.append
    for number in range(100):
        filters = ({"cel": costly.replace("{}", str(number)) + " || true"},)
        await store.subscriptions.create(subscription(f"sub_{number}", filters=filters, owner="revor/default"))
    await store.subscriptions.create(subscription("sub_other", filters=filters))
    await store.subscriptions.create(subscription("sub_cheap", filters=({"cel": "true"},), owner="revor/default"))
    uid = await track(store)
    body = {"id": "e", "source": SOURCE, "type": FAILED, "data": {"metadata": {"deal": 42, "list": [[1]] * 200}}}
    event = job_event(uid, 1, "failed", body=orjson.dumps(body), owner="revor/default")
    await store.jobs.record(poll(uid, 0, "failed", events=[event]))
    assert await got(store, "sub_other") == [1]  # its owner has one filter
    assert await got(store, "sub_cheap") == [1]
    assert await got(store, "sub_7") == []
    assert failures == ["too_costly"] * 100
