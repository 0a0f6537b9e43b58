"""Erasure on both databases: nothing of the person is left, everything else is, and a run that was cut off goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.core.erasure import Erased, ErasureRequest
from relay.core.events.event import CREATE_UNKNOWN, DELIVERY_EXPIRED, DELIVERY_UNCERTAIN, INCIDENT_EVENTS
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.jobs import erasure
from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    PUBLISHED_TYPE,
    attempt,
    claim,
    execute,
    intent,
    job_event,
    poll,
    publication,
    registration,
    relay_event,
    result_of,
    rows,
    subscription,
)

CANARY = "kim.canary@example.com"
PERSON = {"contact": {"email": CANARY}, "deal": 42}
BY_EMAIL = ErasureRequest(name="email", value=CANARY)
LATER = NOW + 2 * IN_FLIGHT_SECONDS
TABLES = ("jobs", "events", "deliveries", "attempts", "intents", "job_callbacks", "subscriptions")


async def erase(store: Store, request: ErasureRequest, now: float = LATER) -> Erased:
    total, cursor = Erased(), None
    while True:
        step = await store.erasure.step(request, cursor, now)
        total, cursor = total + step.erased, step.next_cursor
        if cursor is None:
            return total


async def happen(store: Store, uid: str, sequence: int, kind: str, metadata: Any, job: str) -> str:
    body = orjson.dumps({"type": f"ai.revor.job.{kind}", "data": {"metadata": metadata, "request": {"metadata": {}}}})
    event = job_event(uid, sequence, kind, now=NOW + sequence, body=body, subject=job, owner="revor/default")
    await store.jobs.record(poll(uid, sequence - 1, kind, now=NOW + sequence, events=[event]))
    return event.id


async def a_life(store: Store, job: str, metadata: Any, tells: str = DELIVERY_EXPIRED, **fields: Any) -> str:
    """A job with a delivered, a dead and a pending event, and a report of the dead one. Returns its uid."""
    made = await store.jobs.register(registration(job, metadata=metadata, **fields))
    uid = made.job.uid
    first = await happen(store, uid, 1, "queued", metadata, job)
    (one,) = await claim(store, "sub_all", 1, now=NOW + 1)
    echo = attempt(response_excerpt=f"thank you for {metadata}", status_code=200)
    await store.deliveries.record(result_of(one, now=NOW + 1, attempt=echo))
    second = await happen(store, uid, 2, "running", metadata, job)
    (one,) = await claim(store, "sub_all", 1, now=NOW + 2)
    report = orjson.dumps(
        {"type": tells, "data": {"delivery": one.id, "event": second, "job": job, "subscription": "sub_all"}}
    )
    await store.deliveries.record(
        result_of(
            one,
            "dead",
            now=NOW + 2,
            events=(relay_event(tells, subject="sub_all", body=report, now=NOW + 2),),
        )
    )
    await happen(store, uid, 3, "failed", metadata, job)
    assert first
    return uid


async def a_create(store: Store, metadata: Any, **fields: Any) -> str:
    made = intent(metadata=metadata, **fields)
    await store.intents.begin(made)
    await store.intents.unknown(made.id, "no_answer")
    body = orjson.dumps({"type": CREATE_UNKNOWN, "data": {"metadata": metadata, "request": {"metadata": {}}}})
    await store.intents.report(made, relay_event(CREATE_UNKNOWN, subject=made.id, body=body))
    return made.id


async def everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    """All rows but the events of incidents: these say nothing of a person, and stay."""
    keys = {"jobs": "uid", "attempts": "position", "events": "position", "job_callbacks": "job_uid"}
    found = {table: await rows(store, f"SELECT * FROM {table} ORDER BY {keys.get(table, 'id')}") for table in TABLES}
    incidents = [row for row in found["events"] if row["type"] in INCIDENT_EVENTS]
    assert CANARY.encode() not in b"".join(bytes(row["body"]) for row in incidents)
    return {**found, "events": [row for row in found["events"] if row not in incidents]}


@pytest.fixture
async def filled(store: Store) -> Store:
    await store.subscriptions.create(subscription("sub_all"))
    await store.subscriptions.create(subscription("sub_relay", types=(DELIVERY_EXPIRED, CREATE_UNKNOWN)))
    await a_life(store, "other", {"email": "someone@example.com"})
    await a_create(store, {"email": "someone@example.com"})
    return store


async def test_nothing_of_a_person_is_left_and_everything_else_is(filled: Store) -> None:
    before = await everything(filled)
    uid = await a_life(filled, "the job", PERSON)
    await a_life(filled, "captured", {}, request={"metadata": {"email": [CANARY]}})
    await a_create(filled, PERSON)
    found = await erase(filled, BY_EMAIL)
    assert found == Erased(jobs=2, events=9, deliveries=9, attempts=4, creates=1)
    assert await everything(filled) == before
    assert await filled.jobs.get(uid) is None
    assert await erase(filled, BY_EMAIL) == Erased()


@pytest.mark.parametrize("tells", [DELIVERY_EXPIRED, DELIVERY_UNCERTAIN])
async def test_what_reports_a_delivery_is_erased_with_its_job(filled: Store, tells: str) -> None:
    before = await everything(filled)
    await a_life(filled, "the job", PERSON, tells)
    assert tells in [row["type"] for row in (await everything(filled))["events"] if row not in before["events"]]
    await erase(filled, BY_EMAIL)
    assert await everything(filled) == before


async def test_events_that_outlived_their_job_are_erased(filled: Store) -> None:
    before = await everything(filled)
    uid = await a_life(filled, "the job", PERSON)
    id = await a_create(filled, PERSON)
    await execute(filled, "DELETE FROM jobs WHERE uid = :uid", uid=uid)
    await execute(filled, "DELETE FROM intents WHERE id = :id", id=id)
    found = await erase(filled, BY_EMAIL)
    assert (found.jobs, found.creates, found.events) == (0, 0, 4)
    # What reported the dead delivery names the job by its id only, and retention removes it.
    left = await everything(filled)
    assert [row["type"] for row in left["events"] if row not in before["events"]] == [DELIVERY_EXPIRED]
    assert CANARY.encode() not in b"".join(bytes(row["body"]) for row in left["events"])


@pytest.mark.parametrize("by_uid", [False, True])
async def test_a_job_is_erased_with_the_create_that_made_it(filled: Store, by_uid: bool) -> None:
    before = await everything(filled)
    uid = await a_life(filled, "the job", {})
    id = await a_create(filled, {})
    await execute(filled, "UPDATE intents SET job_id = 'the job', fate = 'sent' WHERE id = :id", id=id)
    found = await erase(filled, ErasureRequest(job=uid if by_uid else "the job"))
    assert (found.jobs, found.events, found.creates) == (1, 4 if by_uid else 5, 0 if by_uid else 1)
    if not by_uid:
        assert await everything(filled) == before


async def test_a_job_of_another_account_stays(filled: Store) -> None:
    await a_life(filled, "the job", PERSON)
    before = await everything(filled)
    for request in (
        ErasureRequest(job="the job", source="revor", account="b"),
        ErasureRequest(name="email", value=CANARY, account="b"),
    ):
        assert await erase(filled, request) == Erased()
    assert await everything(filled) == before


async def test_a_run_that_was_cut_off_is_run_again(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "SLICE", 3)
    before = await everything(filled)
    for nth in range(8):
        await a_life(filled, f"job {nth}", PERSON)
        await a_create(filled, PERSON)
    full = await filled.erasure.step(BY_EMAIL, None, LATER)
    assert full.erased.jobs in (2, 3)  # a slice of three rows, one of which may be another person's
    cursor, seen = full.next_cursor, 1
    while cursor is not None and seen < 5:
        cursor, seen = (await filled.erasure.step(BY_EMAIL, cursor, LATER)).next_cursor, seen + 1
    found = await erase(filled, BY_EMAIL)
    assert found.jobs + found.creates + found.events > 0
    assert await everything(filled) == before


async def test_no_byte_of_the_person_stays_in_the_files_of_sqlite(
    filled: Store, scattered: Callable[[], bytes] | None
) -> None:
    if scattered is None:
        pytest.skip("PostgreSQL keeps dead rows until it vacuums")
    await a_life(filled, "the job", PERSON)
    await a_create(filled, PERSON)
    assert CANARY.encode() in scattered()
    await erase(filled, BY_EMAIL)
    assert CANARY.encode() not in scattered()
    assert CANARY[::-1].encode() not in scattered()  # the tests' cipher turns it round


@pytest.fixture
def scattered(filled: Store) -> Callable[[], bytes] | None:
    """Every byte of the database's files."""
    database = filled.database
    if not isinstance(database, SqliteDatabase):
        return None
    files = [Path(f"{database.path}{end}") for end in ("", "-wal")]
    return lambda: b"".join(file.read_bytes() for file in files if file.exists())


async def test_what_waited_for_an_erased_event_of_a_job_that_stays_is_sent(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_all"))
    uid = (await store.jobs.register(registration("job", metadata=PERSON))).job.uid
    await happen(store, uid, 1, "queued", PERSON, "job")
    await store.jobs.register(registration("job", metadata={"deal": 42}))
    later = await happen(store, uid, 2, "running", {"deal": 42}, "job")
    assert (await erase(store, BY_EMAIL)).events == 1
    assert [one.event.id for one in await claim(store, "sub_all", now=LATER)] == [later]


async def a_published_life(store: Store) -> None:
    """Events of another program: some are about the person, some in the group, and later ones wait behind them."""
    await store.subscriptions.create(subscription("sub_shop", types=(PUBLISHED_TYPE,)))
    about: tuple[dict[str, Any], ...] = (
        {"data": {"metadata": {"who": {"email": [CANARY]}}}},
        {"data": {"metadata": {}}, "group": "spring"},
        {"subject": CANARY, "data": CANARY},
        {"data": {"metadata": {"email": "other@example.com"}}},
    )
    await store.published.record([publication(str(n), key="a", **one) for n, one in enumerate(about)])


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (BY_EMAIL, ["1", "2", "3"]),
        (ErasureRequest.of_group("spring"), ["0", "2", "3"]),
        (ErasureRequest(subject=CANARY), ["0", "1", "3"]),
        (ErasureRequest(subject=CANARY, account="b"), ["0", "1", "2", "3"]),
        (ErasureRequest(job=CANARY), ["0", "1", "2", "3"]),
    ],
)
async def test_published_events_are_erased_and_later_ones_go_out(
    store: Store, request_: ErasureRequest, left: list[str]
) -> None:
    await a_published_life(store)
    found = await erase(store, request_)
    assert (found.events, found.deliveries) == (4 - len(left), 4 - len(left))
    seen = []
    while batch := await claim(store, "sub_shop", now=LATER + 1):
        seen += [one.event.document()["id"] for one in batch]
        for one in batch:
            await store.deliveries.record(result_of(one, "delivered"))
    assert seen == left
