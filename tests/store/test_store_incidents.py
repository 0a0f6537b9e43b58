"""Incidents in the store: one for each cause, in the transaction of the failure, whatever happens at the same time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy import event as sqlalchemy_event

from relay.core.events.event import (
    CREATE_UNKNOWN,
    DELIVERY_EXPIRED,
    INCIDENT_CLOSED,
    INCIDENT_EVENTS,
    INCIDENT_GREW,
    INCIDENT_OPENED,
    SUBSCRIPTION_DISABLED,
    SUBSCRIPTION_RECOVERED,
    Hint,
)
from relay.core.jobs.connect_accounts import ConnectAccount, ListedAccount, Listing, compare
from relay.core.jobs.job import Problem
from relay.core.records import ListingRecord
from relay.store.databases import statements
from relay.store.outbox import incident_recorder
from relay.store.store import Store
from tests.support.scale import scaled
from tests.support.store_kit import (
    NOW,
    claim,
    claim_probe,
    deliver_all,
    deliveries,
    execute,
    intent,
    job_event,
    lease,
    list_accounts,
    poll,
    relay_event,
    result_of,
    rows,
    seen,
    subscription,
    together,
    track,
)

RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting",
    fix="Reconnect it in Revor",
    who="account owner",
    repeat="safe",
    points_at="connect_account",
)
CREDITS = Hint(
    meaning="The Revor account has too few credits", fix="Add credits in Revor", who="administrator", repeat="safe"
)
FAILED = "ai.revor.job.failed"
TYPES = (FAILED, "ai.revor.job.running", CREATE_UNKNOWN, DELIVERY_EXPIRED, SUBSCRIPTION_DISABLED)
OpenAgain = Callable[..., Awaitable[Store]]


async def fail(
    store: Store,
    *external_ids: str,
    now: float = NOW,
    code: str = "insufficient_credits",
    hint: Hint | None = CREDITS,
    connect: str | None = "acc_1",
    account: str = "default",
    **fields: Any,
) -> list[Any]:
    """Jobs that were tracked and have failed, all in one transaction."""
    tracked = (track(store, one, account=account, tracked_at=now) for one in external_ids)
    uids = await asyncio.gather(*tracked)
    problem = Problem(code=code, message="")
    observation = seen("failed", now, problem=problem, connect_account_id=connect, channel="linkedin")
    records = [
        poll(
            uid,
            0,
            events=[job_event(uid, 1, "failed", now=now, owner=f"revor/{account}")],
            now=now,
            seen=observation,
            outcome="failed",
            hint=hint,
            **fields,
        )
        for uid in uids
    ]
    return await together(store, *(store.jobs.record(record) for record in records))


async def told(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """The events about incidents, in order: type and data."""
    found = await rows(store, "SELECT type, body FROM events ORDER BY position")
    return [(row["type"], orjson.loads(row["body"])["data"]) for row in found if row["type"] in INCIDENT_EVENTS]


async def incidents(store: Store) -> list[dict[str, Any]]:
    return await rows(store, "SELECT * FROM incidents ORDER BY id")


async def the_incident(store: Store) -> Any:
    (shown,) = (await store.incidents.page(limit=10)).items
    return shown.incident


# --- of jobs


async def test_third_failure_opens_an_incident_in_the_transaction_of_the_failure(store: Store) -> None:
    await fail(store, "a", now=NOW)
    await fail(store, "b", now=NOW + 1)
    assert await told(store) == []
    assert (await store.incidents.page(limit=10)).items == ()

    await fail(store, "c", now=NOW + 2)

    ((type, data),) = await told(store)
    shown = await the_incident(store)
    assert type == INCIDENT_OPENED
    assert (data["incident"], data["kind"], data["state"], data["failed"]) == (shown.id, "jobs", "open", 3)
    assert (data["source"], data["account"], data["connect_account_id"]) == ("revor", "default", "acc_1")
    assert (data["code"], data["channel"], data["who"], data["repeat"]) == (
        *("insufficient_credits", "linkedin"),
        *("administrator", "safe"),
    )
    jobs = (await store.incidents.jobs(shown, limit=10)).items
    assert [job.external_id for job in jobs] == ["c", "b", "a"]


async def test_first_failure_that_points_at_the_account_opens_and_counts_its_open_jobs(store: Store) -> None:
    for n in range(4):
        await track(store, f"open {n}", connect_account_id="acc_1")
    await track(store, "another account's", connect_account_id="acc_2")

    await fail(store, "a", code="connect_account_reconnect_required", hint=RECONNECT)

    ((_, data),) = await told(store)
    assert (data["failed"], data["likely"]) == (1, 4)
    assert data["fix"] == "Reconnect it in Revor"


async def test_two_nodes_that_fail_at_the_same_cause_at_once_open_one_incident(
    database_url: str, open_again: OpenAgain
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a SQLite file has one node")
    nodes = [await open_again(), await open_again()]
    for n, node in enumerate(nodes * 5):
        await track(node, f"job {n}")
    await asyncio.gather(*(fail(node, *(f"{place} {n}" for n in range(5))) for place, node in enumerate(nodes)))

    assert [type for type, _ in await told(nodes[0])].count(INCIDENT_OPENED) == 1
    (found,) = await incidents(nodes[0])
    assert (found["state"], found["failed_count"]) == ("open", 10)


# --- limits


async def test_error_codes_that_all_differ_are_watched_up_to_a_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_recorder, "MAX_WATCHED", 5)
    for n in range(12):
        await fail(store, f"job {n}", code=f"code {n}", now=NOW + n)
    await fail(store, "of another account", code="code 0", account="other", now=NOW + 20)

    found = await incidents(store)

    assert [row["code"] for row in found] == [*(f"code {n}" for n in range(7, 12)), "code 0"]
    await fail(store, "again", "and again", code="code 11", now=NOW + 30)
    assert [data["code"] for _, data in await told(store)] == ["code 11"]


async def test_open_incidents_of_an_account_have_a_limit_and_further_failures_are_told_singly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_recorder, "MAX_OPEN", 2)
    await store.subscriptions.create(chat())
    for n in range(3):
        await fail(store, f"job {n}", code=f"code {n}", hint=RECONNECT, now=NOW + n)

    assert [data["code"] for _, data in await told(store)] == ["code 0", "code 1"]
    assert await sent(store) == {FAILED: ["pending"], INCIDENT_OPENED: ["pending"] * 2}


# --- collapse


def chat(id: str = "sub_chat", **fields: Any) -> Any:
    return subscription(id, **{"kind": "slack", "types": TYPES, "incidents": "collapse", **fields})


async def sent(store: Store, id: str = "sub_chat") -> dict[str, list[str]]:
    """The states of a subscription's deliveries by event type, without cancelled ones."""
    sql = "SELECT e.type, d.state FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.subscription_id = :id"
    found: dict[str, list[str]] = {}
    for row in await rows(store, sql, id=id):
        if row["state"] != "cancelled":
            found.setdefault(row["type"], []).append(row["state"])
    return found


async def test_chat_gets_the_incident_instead_of_the_failures_in_it_and_a_webhook_gets_every_failure(
    store: Store,
) -> None:
    await store.subscriptions.create(chat())
    await store.subscriptions.create(chat("sub_both", incidents="both"))
    await store.subscriptions.create(chat("sub_off", incidents="off"))
    await store.subscriptions.create(subscription("sub_hook"))

    await fail(store, "a")
    await fail(store, "b", now=NOW + 1)
    for n in range(10):
        await fail(store, f"c {n}", now=NOW + 2 + n)

    assert await sent(store) == {FAILED: ["pending"] * 2, INCIDENT_OPENED: ["pending"], INCIDENT_GREW: ["blocked"]}
    both = {FAILED: ["pending"] * 12, INCIDENT_OPENED: ["pending"], INCIDENT_GREW: ["blocked"]}
    assert await sent(store, "sub_both") == both
    assert await sent(store, "sub_off") == await sent(store, "sub_hook") == {FAILED: ["pending"] * 12}
    shown = await the_incident(store)
    ended = [row for row in await deliveries(store, "sub_chat") if row["state"] == "cancelled"]
    assert {row["reason"] for row in ended} == {f"incident {shown.id}"}
    assert all(row["ended_at"] is not None and row["lease_token"] is None for row in ended)


async def test_collapsed_delivery_is_not_claimed_with_the_record(store: Store) -> None:
    await store.subscriptions.create(chat())
    await store.subscriptions.create(subscription("sub_hook"))

    (recorded,) = await fail(store, "a", hint=RECONNECT, lease=lease("sub_chat", "sub_hook"))

    assert [one.subscription_id for one in recorded.claimed] == ["sub_hook"]
    assert recorded.due is False


async def test_later_event_of_a_job_does_not_wait_for_a_collapsed_one(store: Store) -> None:
    await store.subscriptions.create(chat())
    await fail(store, "a", hint=RECONNECT)
    (uid,) = [row["uid"] for row in await rows(store, "SELECT uid FROM jobs")]

    await store.events.record(job_event(uid, 2, "running"))

    assert (await sent(store))["ai.revor.job.running"] == ["pending"]


async def test_earlier_event_of_a_job_is_still_sent(store: Store) -> None:
    await store.subscriptions.create(chat())
    uid = await track(store)
    events = [job_event(uid, 1, "running"), job_event(uid, 2, "failed", owner="revor/default")]
    observation = seen("failed", NOW, problem=Problem(code="x", message=""))
    await store.jobs.record(poll(uid, 0, events=events, seen=observation, outcome="failed", hint=RECONNECT))

    done = await deliver_all(store, "sub_chat")

    assert {one.event.type for one in done} == {"ai.revor.job.running", INCIDENT_OPENED}


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "https://revor.ai/api/v1/outreach/jobs"},  # never gets an event about the relay
        {"created_at": NOW + 60},  # was not there when the incident opened
        {"owner": "revor/default"},
    ],
)
async def test_failures_are_collapsed_only_for_those_who_were_told_of_the_incident(
    store: Store, fields: dict[str, Any]
) -> None:
    await fail(store, "a", hint=RECONNECT)
    await store.subscriptions.create(chat(**fields))

    await fail(store, "b", now=NOW + 70, hint=RECONNECT)

    gets = [] if "owner" in fields else ["pending"]
    assert (await sent(store)).get(FAILED, []) == gets


# --- the end


async def test_recovery_of_the_account_closes_its_incidents_and_stands_for_the_account_event(store: Store) -> None:
    await store.subscriptions.create(chat(types=(*TYPES, "ai.revor.account.recovered")))
    await fail(store, "a", hint=RECONNECT, code="reconnect")
    await fail(store, "b", hint=RECONNECT, code="reconnect", connect="acc_2")
    for n in range(3):
        await fail(store, f"c {n}", code="credits")

    await recover(store, "acc_1", now=NOW + 9)

    closed = [data for type, data in await told(store) if type == INCIDENT_CLOSED]
    assert [(data["code"], data["connect_account_id"], data["closed_because"]) for data in closed] == [
        ("reconnect", "acc_1", "account_recovered")
    ]
    assert "ai.revor.account.recovered" not in await sent(store)
    await recover(store, "acc_1", now=NOW + 10)
    assert len([1 for type, _ in await told(store) if type == INCIDENT_CLOSED]) == 1
    assert (await sent(store))["ai.revor.account.recovered"] == ["pending"]


async def test_incident_of_an_account_that_flaps_is_closed_without_an_event_of_the_account(store: Store) -> None:
    """The account changes so often that its events are held back: that it ends connected closes the incident."""
    await store.subscriptions.create(chat(types=(*TYPES, "ai.revor.account.recovered")))
    now = NOW

    async def listed(state: str) -> int:
        """Two listings of this state. Returns the number of events that they made."""
        nonlocal now
        made = 0
        for _ in range(2):
            now += 60
            known = await store.connect_accounts.known("revor", "default")
            listing = Listing(accounts={"acc_1": ListedAccount(id="acc_1", state=state)})
            found = compare(known, listing, now, confirm_seconds=30.0)
            news = []
            for account, kind in found.news:
                event = relay_event(f"ai.revor.account.{kind}", now=now, owner="revor/default")
                news.append((account, event))
            record = ListingRecord(known=known, now=now, changed=found.changed, news=tuple(news))
            assert await store.connect_accounts.record(record)
            made += len(news)
        return made

    assert await listed("ok") == 0
    while await listed("needs_reconnect"):
        await listed("ok")
    await fail(store, "a", hint=RECONNECT, code="reconnect", now=now)
    assert (await the_incident(store)).state == "open"

    assert await listed("ok") == 0, "the account flaps, so nothing tells that it has recovered"

    shown = await the_incident(store)
    assert (shown.state, shown.closed_because, shown.closed_at) == ("closed", "account_recovered", now)
    assert [type for type, _ in await told(store)] == [INCIDENT_OPENED, INCIDENT_CLOSED]
    assert (await sent(store))[INCIDENT_CLOSED] == ["blocked"]


async def recover(store: Store, *connect_account_ids: str, now: float) -> None:
    """As the watch of the accounts records it."""
    await list_accounts(store, ("revor", "default"), *connect_account_ids, state="needs_reconnect", now=now - 0.5)
    known = await store.connect_accounts.known("revor", "default")
    news = []
    for id in connect_account_ids:
        event = relay_event("ai.revor.account.recovered", now=now, owner="revor/default")
        account = ConnectAccount(source="revor", account="default", id=id, state="ok", since=now, told_state="ok")
        news.append((account, event))
    record = ListingRecord(known=known, now=now, changed=tuple(account for account, _ in news), news=tuple(news))
    assert await store.connect_accounts.record(record)


async def succeed(store: Store, external_id: str, now: float, started_at: float | None, connect: str = "acc_1") -> None:
    uid = await track(store, external_id, tracked_at=now - 1)
    observation = seen("succeeded", now, started_at=started_at, connect_account_id=connect)
    await store.jobs.record(poll(uid, 0, "succeeded", now=now, seen=observation, outcome="succeeded"))


@pytest.mark.parametrize(
    ("started_at", "connect", "looked_at", "closed"),
    [
        (NOW + 5, "acc_1", NOW + 900, True),
        (None, "acc_1", NOW + 900, True),
        (NOW + 5, "acc_1", NOW + 899, False),
        (NOW - 5, "acc_1", NOW + 900, False),
        (NOW + 5, "acc_2", NOW + 900, False),
    ],
)
async def test_closes_15_minutes_after_the_last_failure_if_a_success_of_its_key_began_later(
    store: Store, started_at: float | None, connect: str, looked_at: float, closed: bool
) -> None:
    await fail(store, "a", "b", "c")
    await succeed(store, "d", NOW + 100, started_at, connect)

    await store.incidents.review(looked_at)
    await store.incidents.review(looked_at)

    assert [type for type, _ in await told(store)] == [INCIDENT_OPENED, INCIDENT_CLOSED][: 1 + closed]
    assert (await the_incident(store)).closed_because == ("succeeded" if closed else None)


async def test_failure_while_upkeep_looks_keeps_the_incident_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail(store, "a", "b", "c")
    await succeed(store, "d", NOW + 100, NOW + 50)
    write = store.database.write

    async def fails_first(batch: Any, item: Any) -> Any:
        monkeypatch.undo()
        await fail(store, "e", now=NOW + 899)
        return await write(batch, item)

    monkeypatch.setattr(store.database, "write", fails_first)
    await store.incidents.review(NOW + 900)

    assert (await the_incident(store)).state == "open"


# --- creates and sinks


async def test_creates_of_unknown_fate_are_one_incident(store: Store) -> None:
    await store.subscriptions.create(chat())
    for n in range(4):
        one = intent(reason="no_answer", channel="linkedin")
        await store.intents.begin(one)
        await store.intents.unknown(one.id, "no_answer")
        event = relay_event(CREATE_UNKNOWN, subject=one.id, now=NOW + n, owner="revor/default")
        assert await store.intents.report(one, event)
        assert not await store.intents.report(one, event)

    ((type, data),) = await told(store)
    assert (type, data["kind"], data["failed"], data["code"]) == (INCIDENT_OPENED, "creates", 3, "no_answer")
    assert (await the_incident(store)).failed == 4
    assert await sent(store) == {CREATE_UNKNOWN: ["pending"] * 2, INCIDENT_OPENED: ["pending"]}
    assert (await store.incidents.jobs(await the_incident(store), limit=5)).items == ()
    await succeed(store, "before", NOW + 50, NOW + 50)
    await execute(store, "UPDATE jobs SET tracked_at = :at", at=NOW)
    await store.incidents.review(NOW + 1000)
    assert (await the_incident(store)).state == "open"
    await succeed(store, "after", NOW + 1100, NOW + 1050)
    await store.incidents.review(NOW + 2000)
    assert (await the_incident(store)).closed_because == "succeeded"


async def expire(store: Store, id: str, count: int, *, now: float = NOW, owner: str | None = None) -> None:
    """Deliveries of a subscription that are given up."""
    for n in range(count):
        uid = await track(store, f"{id} {now} {n}")
        await store.jobs.record(poll(uid, 0, "running", now=now))
        (claimed,) = [one for one in await claim(store, id, now=now) if one.order_key == uid]
        event = relay_event(DELIVERY_EXPIRED, subject=id, now=now, owner=owner)
        result = result_of(claimed, "dead", now=now, reason="http_503", events=(event,), sink=f"https://{id}.example")
        await store.deliveries.record(result)


async def test_sink_that_gives_up_deliveries_is_an_incident_told_elsewhere(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_a", types=None, sink="https://a.example/hook"))
    await store.subscriptions.create(chat("sub_twin", sink="https://a.example/hook"))
    await store.subscriptions.create(chat())

    await expire(store, "sub_a", 4)

    ((type, data),) = await told(store)
    assert (type, data["kind"], data["subscription"], data["failed"]) == (INCIDENT_OPENED, "sink", "sub_a", 3)
    assert (data["sink"], data["code"], data["who"]) == ("https://sub_a.example", "http_503", "administrator")
    assert (await sent(store))[INCIDENT_OPENED] == ["pending"]
    assert (await sent(store))[DELIVERY_EXPIRED] == ["pending"] * 2
    assert INCIDENT_OPENED not in await sent(store, "sub_twin")
    assert (await sent(store, "sub_twin"))[DELIVERY_EXPIRED] == ["pending"] * 4, (
        "what it does not get stands for nothing"
    )


async def test_disabled_sink_is_an_incident_until_its_probe_is_delivered(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_a"))
    await store.subscriptions.create(chat(types=(*TYPES, SUBSCRIPTION_RECOVERED)))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "running"))
    (claimed,) = await claim(store, "sub_a")
    event = relay_event(SUBSCRIPTION_DISABLED, subject="sub_a")
    await store.deliveries.record(
        result_of(claimed, "pending", due_at=NOW, disable="410 Gone", probe_at=NOW + 60, events=(event,))
    )
    assert [(type, data["code"]) for type, data in await told(store)] == [(INCIDENT_OPENED, "410 Gone")]
    probe = await claim_probe(store, "sub_a", NOW + 60, lease(until=NOW + 100))
    assert probe.claimed is not None
    recovered = relay_event(SUBSCRIPTION_RECOVERED, subject="sub_a", now=NOW + 61)
    await store.deliveries.record(result_of(probe.claimed, now=NOW + 61, events=(recovered,)))

    assert [type for type, _ in await told(store)] == [INCIDENT_OPENED, INCIDENT_CLOSED]
    assert (await the_incident(store)).closed_because == "subscription_recovered"
    running = {"ai.revor.job.running": ["pending"]}
    assert await sent(store) == {**running, INCIDENT_OPENED: ["pending"], INCIDENT_CLOSED: ["blocked"]}


@pytest.mark.parametrize("end", ["resume", "remove", "another sink"])
async def test_incident_of_a_sink_ends_with_what_a_person_does(store: Store, end: str) -> None:
    made = subscription("sub_a")
    await store.subscriptions.create(made)
    await expire(store, "sub_a", 3)

    if end == "resume":
        await store.subscriptions.set_state("sub_a", "paused", NOW + 1)
        assert (await the_incident(store)).state == "open"
        await store.subscriptions.set_state("sub_a", "enabled", NOW + 2)
    elif end == "remove":
        await store.subscriptions.remove("sub_a", NOW + 2)
    else:
        await store.subscriptions.replace(replace(made, description="same sink"), NOW + 1)
        assert (await the_incident(store)).state == "open"
        await store.subscriptions.replace(replace(made, sink="https://new.example/"), NOW + 2)

    shown = await the_incident(store)
    because = "subscription_removed" if end == "remove" else "subscription_resumed"
    assert (shown.state, shown.closed_because, shown.closed_at) == ("closed", because, NOW + 2)


# --- crashes and any history


class Crash(Exception):
    """Stands for the end of the process: the open transaction is undone."""


class Crashes:
    """Ends the process before its n-th statement: that one and all later ones fail. `left`: n; None: never."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        driven = statements._driven

        def counted(*args: Any) -> Any:
            self._statement()
            return driven(*args)

        monkeypatch.setattr(statements, "_driven", counted)
        database: Any = store.database
        engine = database._writing.sync_engine if hasattr(database, "_writing") else database._engine
        sqlalchemy_event.listen(engine, "before_cursor_execute", lambda *_: self._statement())

    def _statement(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Crash


async def everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    tables = {"jobs": "uid", "events": "id", "deliveries": "id", "incidents": "id"}
    return {table: await rows(store, f"SELECT * FROM {table} ORDER BY {key}") for table, key in tables.items()}


async def test_crash_between_any_two_lines_opens_no_incident_twice_and_loses_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.subscriptions.create(chat())
    await fail(store, "a", "b")
    uid = await track(store, "c")
    failed = seen("failed", NOW, problem=Problem(code="insufficient_credits", message=""), connect_account_id="acc_1")
    record = poll(
        uid,
        0,
        events=[job_event(uid, 1, "failed", owner="revor/default")],
        seen=failed,
        outcome="failed",
        hint=CREDITS,
    )
    steps: list[tuple[Callable[[], Awaitable[Any]], list[str]]] = [
        (lambda: store.jobs.record(record), [INCIDENT_OPENED]),
        (lambda: store.incidents.review(NOW + 86_400), [INCIDENT_OPENED, INCIDENT_CLOSED]),
    ]
    crashes = Crashes(store, monkeypatch)
    for write, expected in steps:
        before, nth = await everything(store), 0
        while True:
            nth += 1
            crashes.left = nth
            try:
                await write()
            except Crash:
                crashes.left = None
                assert await everything(store) == before, nth
            else:
                break
        crashes.left = None
        assert nth > 5
        assert [type for type, _ in await told(store)] == expected
        (found,) = await incidents(store)
        assert found["failed_count"] == 3
    assert (await sent(store))[FAILED] == ["pending"] * 2


RECOUNT = """
SELECT i.id, i.state, i.failed_count, (
  SELECT COUNT(*) FROM jobs j
  WHERE j.source = i.source AND j.account = i.account AND j.error_code = i.code AND j.outcome = 'failed'
    AND COALESCE(j.connect_account_id, '') = COALESCE(i.connect_account_id, '')
    AND j.closed_at >= i.first_failure_at AND j.closed_at <= i.last_failure_at
) AS recounted
FROM incidents i WHERE i.state <> 'watching'
"""


@pytest.mark.parametrize("seed", range(scaled(1, 20)))
async def test_counts_equal_a_recount_of_the_jobs_after_any_history(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    await store.subscriptions.create(chat())
    now, number = NOW, 0
    for _ in range(scaled(40, 200)):
        now += rng.choice([0.25, 5.0, 120.0, 950.0, 5_000.0, 90_000.0])
        connect = rng.choice(["acc_1", "acc_2", None])
        step = rng.choice(["fail", "fail", "fail", "fail many", "succeed", "recover", "review", "review"])
        number += 100
        if step.startswith("fail"):
            code, hint = rng.choice([("reconnect", RECONNECT), ("credits", CREDITS), ("odd", None)])
            count = 12 if step == "fail many" else 1
            ids = [f"job {number + n}" for n in range(count)]
            account = rng.choice(["default", "default", "other"])
            await fail(store, *ids, now=now, code=code, hint=hint, connect=connect, account=account)
        elif step == "succeed":
            await succeed(store, f"job {number}", now, now - rng.choice([1.0, 400.0]), connect or "acc_1")
        elif step == "recover" and connect is not None:
            await recover(store, connect, now=now)
        else:
            await store.incidents.review(now)
        for row in await rows(store, RECOUNT):
            assert row["failed_count"] == row["recounted"], (seed, step, row)
    events: dict[str, list[str]] = {}
    for type, data in await told(store):
        events.setdefault(data["incident"], []).append(type)
    assert len(events) > 2
    for types in events.values():
        assert types[0] == INCIDENT_OPENED
        assert types.count(INCIDENT_OPENED) == 1
        assert INCIDENT_CLOSED not in types[:-1]
    states = {row["id"]: row["state"] for row in await rows(store, RECOUNT)}
    assert states == {id: "closed" if types[-1] == INCIDENT_CLOSED else "open" for id, types in events.items()}
    # each failure was told once: by itself, or as a part of an incident that the same subscription got
    failures = await rows(
        store, "SELECT d.state FROM deliveries d JOIN events e ON e.id = d.event_id WHERE e.type = :type", type=FAILED
    )
    assert len(failures) == len(await rows(store, "SELECT uid FROM jobs WHERE outcome = 'failed'"))
