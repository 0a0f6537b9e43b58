"""Bundles: claimed with their followers, and ended in one transaction."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.delivery import Claimed, due_since
from relay.core.deliveries.replay import ReplayRequest
from relay.core.erasure import ErasureRequest
from relay.core.records import AttemptRecorded, Claim
from relay.store.deliveries.claims import ClaimRequest
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim_bundle,
    counts,
    deliveries,
    execute,
    job_event,
    lease,
    poll,
    relay_event,
    result_of,
    rows,
    states,
    subscription,
    track,
)

SUB = "sub_1"


@pytest.fixture(autouse=True)
async def _subscription(store: Store) -> None:
    await store.subscriptions.create(subscription(SUB))


def bundle(max_events: int = 100, wait_seconds: float = 5.0, max_bytes: int = 1_000_000) -> Bundle:
    return Bundle(max_events=max_events, wait_seconds=wait_seconds, max_bytes=max_bytes)


async def take(store: Store, made: Bundle | None = None, *, now: float = NOW + 5, **fields: Any) -> Claim:
    values: dict[str, Any] = {"priorities": (0, 1, 2), "room": Room(), "requests": 1, "lease": lease(until=now + 45)}
    request = ClaimRequest(subscription_id=SUB, bundle=made or bundle(), now=now, **{**values, **fields})
    return await store.deliveries.claim(request)


async def members(store: Store, made: Bundle | None = None, **fields: Any) -> tuple[Claimed, ...]:
    """The members of the one bundle that is claimed."""
    (found,) = (await take(store, made, **fields)).requests
    return found


async def jobs(store: Store, *lengths: int, now: float = NOW) -> list[str]:
    """The uids of jobs with so many events each, a second apart between jobs."""
    uids = []
    for nth, length in enumerate(lengths):
        uid = await track(store, f"job {now} {nth}")
        await store.jobs.record(poll(uid, 0, *["running"] * length, now=now + nth / 100))
        uids.append(uid)
    return uids


def places(claimed: tuple[Claimed, ...], uids: list[str]) -> list[tuple[int, int | None]]:
    """The job's number and the sequence of each."""
    return [(uids.index(str(one.order_key)), one.event.sequence) for one in claimed]


def places_of(row: dict[str, Any], uids: list[str]) -> tuple[int, int]:
    """The same of a row."""
    return uids.index(row["job_uid"]), row["sequence"]


async def end(
    store: Store, claimed: tuple[Claimed, ...], state: str = "delivered", *, now: float = NOW + 6, **fields: Any
) -> list[bool]:
    results = [result_of(one, state, now=now, **fields) for one in claimed]
    recorded: tuple[AttemptRecorded, ...] = await store.deliveries.record(*results)
    return [one.kept for one in recorded]


async def attempts(store: Store) -> list[int]:
    """The number of attempts of each delivery, by job and sequence."""
    found = await rows(
        store,
        "SELECT (SELECT COUNT(*) FROM attempts a WHERE a.delivery_id = d.id) AS made, made_count FROM deliveries d "
        "ORDER BY job_uid, sequence",
    )
    assert all(row["made"] == row["made_count"] for row in found)
    return [row["made"] for row in found]


async def test_bundle_waits_for_its_time_and_takes_heads_with_their_followers(store: Store) -> None:
    uids = await jobs(store, 3, 1, 2)
    early = await take(store, now=NOW + 4.9)
    assert early == Claim(next_at=NOW + 5)
    claimed = await members(store)
    assert sorted(places(claimed, uids)) == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2)]
    assert [place for place in places(claimed, uids) if place[0] == 0] == [(0, 1), (0, 2), (0, 3)]
    assert len({one.lease_token for one in claimed}) == 1
    assert {one.lease_until for one in claimed} == {NOW + 50}
    assert (await take(store, now=NOW + 6)).requests == ()
    assert sorted(await states(store)) == ["blocked"] * 3 + ["pending"] * 3
    assert all(await end(store, claimed))
    assert await states(store) == ["delivered"] * 6
    assert await attempts(store) == [1] * 6


async def test_members_that_are_tried_again_are_due_together_and_stay_in_order(store: Store) -> None:
    uids = await jobs(store, 2, 1)
    claimed = await members(store)
    assert all(await end(store, claimed, "pending", due_at=NOW + 30, reason="http_500"))
    found = await deliveries(store)
    assert sorted(row["state"] for row in found) == ["blocked", "pending", "pending"]
    assert {(row["due_at"], row["attempt_count"], row["priority"]) for row in found} == {(NOW + 30, 1, 1)}
    assert {row["lease_token"] for row in found} == {None}
    assert (await take(store, now=NOW + 29)).requests == ()
    fresh = await jobs(store, 1, now=NOW + 30)
    again = await members(store, now=NOW + 30)  # at once: they have waited. What is fresh waits for others
    assert places(again, uids) == places(claimed, uids)
    assert await end(store, again) == [True] * 3
    assert places(await members(store, now=NOW + 35), fresh) == [(0, 1)]


@pytest.mark.parametrize("events", [1, 3])
async def test_replay_is_bundled_in_its_own_order(store: Store, events: int) -> None:
    uids = await jobs(store, *[events] * (6 // events))
    await end(store, await members(store))
    request = ReplayRequest(id="rpl_1", subscription_id=SUB, since=0.0, until=NOW + 60, only="all", now=NOW + 60)
    await store.replays.create(request)
    await store.replays.advance("rpl_1", "node", NOW + 60)
    fresh = await track(store, "fresh")
    await store.jobs.record(poll(fresh, 0, "running", now=NOW + 60))
    claimed = await members(store, now=NOW + 60)
    assert sorted(places(claimed, uids)) == [
        (nth, sequence) for nth in range(6 // events) for sequence in range(1, events + 1)
    ]
    assert {one.priority for one in claimed} == {2}
    for uid in range(6 // events):
        assert [place for place in places(claimed, uids) if place[0] == uid] == [
            (uid, sequence) for sequence in range(1, events + 1)
        ]
    await end(store, claimed, "pending", now=NOW + 61, due_at=NOW + 62)
    claimed = await members(store, now=NOW + 62, priorities=(1, 2))
    assert len(claimed) == 6
    await end(store, claimed, now=NOW + 62)
    await store.replays.advance("rpl_1", "node", NOW + 63)
    replay = await store.replays.get("rpl_1")
    assert replay is not None
    assert (replay.delivered, replay.left) == (6, 0)


async def test_stopped_replay_leaves_a_bundle_in_flight_to_its_end(store: Store) -> None:
    await jobs(store, 3)
    await end(store, await members(store), "dead")
    request = ReplayRequest(
        id="rpl_1", subscription_id=SUB, since=0.0, until=NOW + 60, only="undelivered", now=NOW + 60
    )
    await store.replays.create(request)
    await store.replays.advance("rpl_1", "node", NOW + 60)
    claimed = await members(store, bundle(max_events=2), now=NOW + 60)
    await store.replays.stop("rpl_1", NOW + 60)
    assert await end(store, claimed, now=NOW + 61) == [True, True]
    assert await states(store) == ["delivered", "delivered", "dead"]


async def test_taken_over_head_takes_its_followers_from_the_old_holder(store: Store) -> None:
    """Without it, a late result would deliver the second event while another node sends the first one."""
    uids = await jobs(store, 3, 1)
    claimed = await members(store)
    (head,) = (one for one in claimed if places((one,), uids) == [(0, 1)])
    await execute(store, "UPDATE deliveries SET lease_token = 'other' WHERE id = :id", id=head.id)
    kept = dict(zip(places(claimed, uids), await end(store, claimed, now=NOW + 61), strict=True))
    assert kept == {(0, 1): False, (0, 2): False, (0, 3): False, (1, 1): True}
    found = {places_of(row, uids): row["state"] for row in await deliveries(store)}
    assert found == {(0, 1): "pending", (0, 2): "blocked", (0, 3): "blocked", (1, 1): "delivered"}
    assert (await counts(store))["attempts"] == 1
    taken = result_of(replace(head, lease_token="other"), now=NOW + 62)
    assert (await store.deliveries.record(taken))[0].kept
    rest = await members(store, now=NOW + 62)
    assert places(rest, uids) == [(0, 2), (0, 3)]


async def test_result_whose_answer_was_lost_is_recorded_once(store: Store) -> None:
    await jobs(store, 2)
    claimed = await members(store)
    assert await end(store, claimed) == [True, True]
    assert await end(store, claimed) == [True, True]  # the same attempts
    assert await end(store, claimed, now=NOW + 7) == [False, False]
    assert await attempts(store) == [1, 1]


async def test_erased_head_leaves_its_followers_to_their_bundle(store: Store) -> None:
    uid = await track(store, "job")
    bodies = [
        orjson.dumps({"type": "test", "data": {"metadata": {"email": one}, "request": {"metadata": {}}}})
        for one in ("ada@lead.example", "other")
    ]
    events = [job_event(uid, nth, body=body) for nth, body in enumerate(bodies, 1)]
    await store.jobs.record(poll(uid, 0, "running", "running", events=events))
    claimed = await members(store)
    assert len(claimed) == 2
    sought, cursor, more = ErasureRequest(name="email", value="ada@lead.example"), None, True
    while more:
        step = await store.erasure.step(sought, cursor, NOW + 5)
        cursor = step.next_cursor
        more = cursor is not None
    assert await states(store) == ["pending"]
    assert (await take(store, now=NOW + 6)).requests == ()
    assert await end(store, claimed) == [False, True]
    assert await states(store) == ["delivered"]


async def test_bundle_in_flight_keeps_its_followers_when_ordering_is_lifted(store: Store) -> None:
    await jobs(store, 3)
    claimed = await members(store, bundle(max_events=2))
    await store.subscriptions.replace(subscription(SUB, ordering="none"), NOW + 6)
    taken = await take(store, now=NOW + 7)
    assert [[one.event.sequence for one in request] for request in taken.requests] == [[3]]
    assert await end(store, claimed, now=NOW + 8) == [True, True]
    assert await states(store) == ["delivered", "delivered", "pending"]


async def test_disabling_a_subscription_holds_the_whole_bundle_and_tells_it_once(store: Store) -> None:
    await jobs(store, 2)
    claimed = await members(store)
    events = [relay_event("relay.subscription.disabled", subject=SUB) for _ in claimed]
    results = [
        result_of(one, "pending", now=NOW + 6, disable="http_410", events=(event,))
        for one, event in zip(claimed, events, strict=True)
    ]
    await store.deliveries.record(*results)
    assert await states(store) == ["pending", "blocked"]
    found = await rows(store, "SELECT id FROM events WHERE type = 'relay.subscription.disabled'")
    assert len(found) == 1
    disabled = await store.subscriptions.get(SUB)
    assert disabled is not None
    assert (disabled.state, disabled.state_reason) == ("disabled", "http_410")


async def test_manual_retry_of_a_member_is_refused_while_it_is_sent(store: Store) -> None:
    await jobs(store, 2)
    claimed = await members(store)
    for one in claimed:
        with pytest.raises(Exception, match=r"is being attempted|waits for an earlier"):
            await store.deliveries.retry(one.id, NOW + 6)
    assert await end(store, claimed) == [True, True]


async def test_event_of_a_free_type_waits_for_no_other(store: Store) -> None:
    prefixed = ("ai.revor.job.running", "relay.incident.opened")
    await store.subscriptions.create(subscription("sub_people", types=prefixed))
    uids = await jobs(store, 2)
    await store.events.record(relay_event("relay.incident.opened", now=NOW + 1, id="evt_incident"))
    made = replace(bundle(wait_seconds=30.0), free_per_minute=4, free_types=frozenset({"relay.incident.opened"}))

    async def claim(now: float, room: Room) -> Claim:
        return await claim_bundle(store, "sub_people", (0,), made, room, 3, now, lease())

    none = await claim(NOW + 2, Room(next_at=NOW + 9))
    assert none == Claim(next_at=NOW + 30)
    ((incident,),) = (await claim(NOW + 2, Room(count=4))).requests
    assert incident.event.id == "evt_incident"
    assert await claim(NOW + 3, Room(count=3)) == Claim(next_at=NOW + 30)
    (together,) = (await claim(NOW + 30, Room(count=3))).requests
    assert places(together, uids) == [(0, 1), (0, 2)]


FATES = {"d": "delivered", "x": "dead"}


@pytest.mark.parametrize(
    ("outcomes", "left"),
    [
        (["ddd"], ["delivered delivered delivered"]),
        (["dpb", "dd"], ["delivered pending:20 blocked", "delivered delivered"]),
        (["pbb", "d"], ["pending:20 blocked blocked", "delivered"]),
        (
            ["ddp", "pb", "ddd"],
            ["delivered delivered pending:20", "pending:20 blocked", "delivered delivered delivered"],
        ),
        (["xd", "dxd"], ["dead delivered", "delivered dead delivered"]),
        (["xpb"], ["dead pending:20 blocked"]),
        (["dpx"], ["delivered pending:20 dead"]),
    ],
)
async def test_each_member_of_a_bundle_is_ended_by_its_own_result(
    store: Store, outcomes: list[str], left: list[str]
) -> None:
    uids = await jobs(store, *(len(one) for one in outcomes))
    claimed = await members(store)
    results = [
        result_of(
            one,
            FATES.get(fate := outcomes[job][int(sequence or 0) - 1], "pending"),
            now=NOW + 6,
            due_at=NOW + 20 if fate in "pb" else None,
            reason="nack" if fate in "pb" else None,
            behind=fate == "b",
        )
        for one, (job, sequence) in zip(claimed, places(claimed, uids), strict=True)
    ]
    await store.jobs.record(poll(uids[0], len(outcomes[0]), "running", now=NOW + 6))  # another one of the first key
    assert all(one.kept for one in await store.deliveries.record(*results))
    found = sorted(await deliveries(store), key=lambda row: places_of(row, uids))
    shown: dict[int, list[str]] = {}
    for row in found:
        due = f":{due_since(row['due_at']) - NOW:g}" if row["state"] == "pending" else ""
        shown.setdefault(places_of(row, uids)[0], []).append(f"{row['state']}{due}")
    last = shown[0].pop()
    assert [" ".join(states) for states in shown.values()] == left
    assert last == ("pending:6" if not {"p", "b"} & set(outcomes[0]) else "blocked")
    assert {row["lease_token"] for row in found} == {None}
    fates = {(job, nth + 1): fate for job, one in enumerate(outcomes) for nth, fate in enumerate(one)}
    for row in found:
        fate = fates.get(places_of(row, uids), " ")
        assert (row["attempt_count"], row["made_count"]) == (int(fate in "dxp"), int(fate != " "))
    if {"p", "b"} & set("".join(outcomes)):
        assert all(one.due_at[1] in (None, NOW + 20) for one in await store.deliveries.backlog())
        again = await members(store, now=NOW + 20, priorities=(1,))
        assert [place for place in sorted(fates) if fates[place] in "pb"] == [
            place for place in sorted(places(again, uids)) if place in fates
        ]


async def test_lost_lease_in_the_middle_leaves_the_rest_to_the_other_holder(store: Store) -> None:
    uids = await jobs(store, 3)
    claimed = await members(store)
    await execute(store, "UPDATE deliveries SET lease_token = 'other' WHERE sequence = 2")
    results = [
        result_of(claimed[0], now=NOW + 6),
        result_of(claimed[1], "pending", now=NOW + 6, due_at=NOW + 20),
        result_of(claimed[2], "pending", now=NOW + 6, due_at=NOW + 20, behind=True),
    ]
    assert [one.kept for one in await store.deliveries.record(*results)] == [True, False, False]
    found = {places_of(row, uids)[1]: (row["state"], row["lease_token"]) for row in await deliveries(store)}
    assert found[1] == ("delivered", None)
    assert found[2] == ("pending", "other")
    assert found[3][0] == "blocked"
