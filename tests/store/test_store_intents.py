"""Creates in flight and of unknown fate: begun, ended, listed, settled by a repeat, cut off, deleted."""

from dataclasses import replace

import pytest

from relay.core.events.event import Event
from relay.core.records import Intent
from relay.errors import Conflict
from relay.proxy.unrecorded import UnknownCreates
from relay.store.jobs.intents import CUT_OFF, IN_FLIGHT_SECONDS
from relay.store.store import Store
from tests.support.store_kit import NOW, intent, registration, relay_event, rows, together, track

LATER = NOW + 60.0
"""When a repeat is answered: what was sent at NOW may still be in flight."""


async def begun(store: Store, *intents: Intent) -> None:
    """Creates that were stored and sent."""
    for one in intents:
        await store.intents.begin(one)


async def unknown(store: Store, *intents: Intent, reason: str = "no_answer") -> None:
    """Creates that were sent and whose fate is unknown."""
    await begun(store, *intents)
    for one in intents:
        await store.intents.unknown(one.id, reason)


async def left(store: Store) -> set[str]:
    """All ids in the table, in flight or not."""
    return {row["id"] for row in await rows(store, "SELECT id FROM intents")}


async def listed(store: Store, now: float = LATER) -> list[Intent]:
    return list((await store.intents.page(limit=500, now=now)).items)


# --- one create's way


async def test_create_in_flight_is_stored_and_not_listed(store: Store) -> None:
    one = intent(idempotency_key="key")
    await begun(store, one)
    assert await left(store) == {one.id}
    assert await listed(store) == []
    assert await store.intents.count_unknown(LATER) == 0


@pytest.mark.parametrize("key", [None, "key", "k" * 255, "\u00e9\u00ff"])
@pytest.mark.parametrize(("reason", "status_code"), [("no_answer", None), ("server_error", 502), ("unreadable", 202)])
async def test_intent_of_unknown_fate_is_listed_with_its_reason(
    store: Store, key: str | None, reason: str, status_code: int | None
) -> None:
    one = intent(idempotency_key=key, body_digest="0f" * 32)
    await begun(store, one)
    await store.intents.unknown(one.id, reason, status_code)
    assert await listed(store) == [replace(one, reason=reason, status_code=status_code)]
    assert await store.intents.count_unknown(LATER) == 1


# --- in flight for too long


async def test_one_in_flight_for_longer_than_any_node_waits_was_cut_off(store: Store) -> None:
    one = intent()
    await begun(store, one)
    assert await listed(store, NOW + IN_FLIGHT_SECONDS) == []
    assert await store.intents.count_unknown(NOW + IN_FLIGHT_SECONDS) == 0
    too_late = NOW + IN_FLIGHT_SECONDS + 1
    assert await listed(store, too_late) == [replace(one, reason=CUT_OFF)]
    assert await store.intents.count_unknown(too_late) == 1


async def test_an_answer_that_comes_late_all_the_same_ends_it(store: Store) -> None:
    one = intent()
    await begun(store, one)
    await store.intents.end(one.id)
    assert await listed(store, NOW + 2 * IN_FLIGHT_SECONDS) == []


async def test_at_the_start_of_the_only_node_all_in_flight_were_cut_off(store: Store) -> None:
    in_flight, known = intent(), intent()
    await begun(store, in_flight)
    await unknown(store, known, reason="server_error")
    await store.recover_from_crash(NOW)
    assert {one.id: one.reason for one in await listed(store)} == {in_flight.id: CUT_OFF, known.id: "server_error"}


# --- off the list


async def test_create_in_flight_cannot_be_dismissed_until_it_is_listed(store: Store) -> None:
    one = intent()
    await begun(store, one)
    assert await store.intents.dismiss(one.id, NOW + IN_FLIGHT_SECONDS) is None
    assert await left(store) == {one.id}
    assert await store.intents.dismiss(one.id, NOW + IN_FLIGHT_SECONDS + 1) == replace(one, reason=CUT_OFF)
    assert await left(store) == set()


async def test_retention_deletes_old_unresolved_creates(store: Store) -> None:
    old, old_in_flight, young = intent(NOW - 2), intent(NOW - 1), intent(NOW)
    await unknown(store, old, young)
    await begun(store, old_in_flight)
    assert await store.upkeep.delete_old("intents", NOW) == 2
    assert await left(store) == {young.id}
    assert await store.upkeep.delete_old("intents", NOW) == 0


# --- a job that is registered ends the intent of the create that made it


async def test_the_job_and_the_end_of_its_intent_are_one(store: Store) -> None:
    one, other = intent(), intent()
    await begun(store, one, other)
    assert (await store.jobs.register(registration("made", intent=one))).created
    assert await left(store) == {other.id}


async def test_the_intent_ends_also_when_the_job_is_tracked_already(store: Store) -> None:
    await track(store, "made")
    one = intent()
    await begun(store, one)
    assert not (await store.jobs.register(registration("made", intent=one))).created
    assert await left(store) == set()


async def test_a_registration_that_fails_keeps_the_intent_and_others_of_its_group_end_theirs(store: Store) -> None:
    bad, good = intent(), intent()
    await begun(store, bad, good)
    refused, made = await together(
        store,
        store.jobs.register(registration("bad", intent=bad, callback_subscription_id="sub_gone")),
        store.jobs.register(registration("good", intent=good)),
    )
    assert isinstance(refused, Conflict)
    assert made.created
    assert await left(store) == {bad.id}


# --- a repeat with the same Idempotency-Key tells the fate of what was sent before


async def test_a_repeat_that_is_answered_settles_what_was_sent_before_it(store: Store) -> None:
    before = [intent(NOW + n, idempotency_key="key") for n in range(3)]
    await unknown(store, *before[:2])
    await begun(store, before[2])  # the caller gave up on it, and it is in flight all the same
    repeat = intent(LATER, idempotency_key="key")
    await begun(store, repeat)
    await store.jobs.register(registration("made", intent=repeat))
    assert await left(store) == set()


@pytest.mark.parametrize(
    "other",
    [
        {"idempotency_key": "another"},
        {"idempotency_key": None},
        {"body_digest": "another"},
        {"account": "another"},
        {"source": "another"},
        {"path": "/api/v1/outreach/linkedin/post-likes"},
        {"sent_at": LATER + 1},
    ],
    ids=lambda other: next(iter(other)) + (" (none)" if None in other.values() else ""),
)
async def test_a_repeat_settles_nothing_else(store: Store, other: dict[str, object]) -> None:
    stays = intent(**{"sent_at": NOW, "idempotency_key": "key", **other})  # type: ignore[arg-type]
    repeat = intent(LATER, idempotency_key="key")
    await unknown(store, stays)
    await begun(store, repeat)
    await store.jobs.register(registration("made", intent=repeat))
    assert await left(store) == {stays.id}


# --- reported once

SAID = {
    "channel": "linkedin",
    "connect_account_id": "acc_1",
    "request": {"metadata": {"a": [1, "é"]}},
    "metadata": {"deal": 42},
}


async def reported(store: Store, now: float = LATER) -> list[str]:
    """Records an event for each unreported create. Returns their ids."""
    found = await store.intents.unreported(now, 100)
    results = await together(store, *(store.intents.report(one, event_of(one)) for one in found * 2))
    assert sum(results) == len(found)
    return [one.id for one in found]


def event_of(intent: Intent) -> Event:
    return relay_event("relay.create.unknown", subject=intent.id)


async def event_subjects(store: Store) -> list[str]:
    return [row["subject"] for row in await rows(store, "SELECT subject FROM events ORDER BY position")]


async def test_each_create_of_unknown_fate_is_reported_once(store: Store) -> None:
    lost, ended, flying, cut_off = intent(LATER), intent(LATER), intent(LATER), intent(LATER - IN_FLIGHT_SECONDS - 1)
    await begun(store, lost, ended, flying, cut_off)
    await store.intents.unknown(lost.id, "no_answer")
    await store.intents.end(ended.id)
    assert await reported(store) == [cut_off.id, lost.id]
    assert await reported(store) == []
    assert not await store.intents.report(lost, event_of(lost))
    assert not await store.intents.report(ended, event_of(ended))
    assert await reported(store, LATER + IN_FLIGHT_SECONDS + 1) == [flying.id]
    assert sorted(await event_subjects(store)) == sorted([cut_off.id, lost.id, flying.id])
    assert {one.reason for one in await listed(store)} == {"no_answer", CUT_OFF}


async def test_unstorable_text_of_an_intent_is_dropped_and_the_others_are_reported(store: Store) -> None:
    deep: dict[str, object] = {}
    for _ in range(252):  # with the event around it, it is deeper than JSON is written
        deep = {"a": deep}
    one, other = intent(LATER, metadata=deep), intent(LATER, metadata={"deal": 42})
    recorded: list[Event] = []
    creates = UnknownCreates(store.intents, clock=lambda: LATER, dataschema_base="", recorded=recorded.append)
    await unknown(store, one, other)
    await creates.announce()
    await creates.announce()
    metadata = {event.subject: event.document()["data"]["metadata"] for event in recorded}
    assert metadata == {one.id: {}, other.id: {"deal": 42}}
    assert len(recorded) == len(await event_subjects(store)) == 2


async def test_intents_cut_off_by_a_restart_are_reported(store: Store) -> None:
    one = intent(LATER)
    await begun(store, one)
    assert await reported(store) == []
    await store.recover_from_crash(NOW)
    assert await reported(store) == [one.id]
    await store.recover_from_crash(NOW)
    assert await reported(store) == []


# --- resolved


async def test_one_that_is_resolved_is_off_the_list_and_stays_so(store: Store) -> None:
    one, flying = intent(LATER), intent(LATER)
    await unknown(store, one)
    await begun(store, flying)
    assert await store.intents.resolve(flying.id, "sent", LATER) is None
    assert await store.intents.resolve("int_nothing", "sent", LATER) is None
    resolved = await store.intents.resolve(one.id, "not_sent", LATER)
    assert resolved is not None
    assert (resolved.fate, resolved.reason) == ("not_sent", "no_answer")
    assert await store.intents.resolve(one.id, "sent", LATER) is None
    assert await store.intents.dismiss(one.id, LATER) is None
    assert await listed(store) == []
    assert await store.intents.count_unknown(LATER) == 0
    assert await reported(store) == []
    got = await store.intents.get(one.id)
    assert got is not None
    assert got.fate == "not_sent"
    assert store.intents.in_flight(flying, LATER)
    assert not store.intents.in_flight(got, LATER)
    assert not store.intents.in_flight(flying, LATER + IN_FLIGHT_SECONDS + 1)


async def test_the_job_that_it_made_and_its_end_are_one_transaction(store: Store) -> None:
    one, other = intent(**SAID), intent()
    await unknown(store, one, other)
    first = registration("made", resolves=one, metadata=one.metadata)
    assert (await store.jobs.register(first)).created
    got = await store.intents.get(one.id)
    assert got is not None
    assert (got.fate, got.job_id) == ("sent", "made")
    assert [each.id for each in await listed(store)] == [other.id]
    results = await together(
        store,
        *(store.jobs.register(registration(name, resolves=other)) for name in ("winner", "late")),
        store.jobs.register(registration("aside")),
    )
    assert [isinstance(result, Conflict) for result in results].count(True) == 1
    assert len(await store.jobs.find("winner")) + len(await store.jobs.find("late")) == 1
    assert len(await store.jobs.find("aside")) == 1
