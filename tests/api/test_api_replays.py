"""Replays over HTTP: accepted and refused bodies, progress, and stopping."""

import pytest

from tests.support.api_world import HOOK
from tests.support.store_kit import claim, deliver_all, result_of

SINCE = "2027-01-15T07:00:00Z"


async def dead(world, client, count=2, **body):
    """A subscription with only dead deliveries."""
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK, **body})).json()
    for name in range(count):
        await world.poll(await world.job(f"{made['id']} {name}"), "queued")
    world.now += 1
    for one in await claim(world.store, made["id"], now=world.now):
        await world.store.deliveries.record(result_of(one, "dead", now=world.now, reason="http_500"))
    return made["id"]


async def test_a_replay_runs_from_start_to_done(client, world):
    id = await dead(world, client)
    answer = await client.post(f"/v1/subscriptions/{id}/replay", json={"since": SINCE})
    started = answer.json()
    assert (answer.status_code, started["matched"]) == (202, 2)
    assert answer.headers["location"] == f"/v1/replays/{started['replay_id']}"
    path = answer.headers["location"]
    assert (await client.get(path)).json() == {
        "id": started["replay_id"],
        "subscription_id": id,
        "state": "running",
        "matched": 2,
        "queued": 0,
        "delivered": 0,
        "dead": 0,
        "left": 2,
        "since": "2027-01-15T07:00:00.000Z",
        "until": "2027-01-15T08:00:01.000Z",
        "types": None,
        "only": "undelivered",
        "reason": None,
        "created_at": "2027-01-15T08:00:01.000Z",
        "ended_at": None,
    }
    await world.store.replays.advance(started["replay_id"], "node", world.now)
    await deliver_all(world.store, id, now=world.now)
    shown = (await client.get(path)).json()
    assert (shown["state"], shown["queued"], shown["delivered"], shown["left"]) == ("running", 2, 2, 0)
    await world.store.replays.advance(started["replay_id"], "node", world.now)
    ended = (await client.get(path)).json()
    assert (ended["state"], ended["ended_at"]) == ("done", "2027-01-15T08:00:01.000Z")
    assert (await client.delete(path)).json() == ended
    nothing = (await client.post(f"/v1/subscriptions/{id}/replay", json={"since": SINCE})).json()
    assert nothing["matched"] == 0
    again = {"since": SINCE, "only": "all", "types": ["ai.revor.job.queued", "ai.revor.job.queued"]}
    again["until"] = "2027-01-15T08:00:00.500Z"
    everything = (await client.post(f"/v1/subscriptions/{id}/replay", json=again)).json()
    assert everything["matched"] == 2
    shown = (await client.get(f"/v1/replays/{everything['replay_id']}")).json()
    assert (shown["types"], shown["only"], shown["until"]) == (
        ["ai.revor.job.queued"],
        "all",
        "2027-01-15T08:00:00.500Z",
    )


async def test_an_invalid_replay_is_refused(client, world) -> None:
    for body, pointer, code, words in [
        ({}, "/since", "missing", ""),
        ({"since": "yesterday"}, "/since", "invalid_time", "2026-05-20T10:00:08Z"),
        ({"since": 5}, "/since", "wrong_type", ""),
        ({"since": "2027-01-15T09:00:00Z"}, "/since", "out_of_range", "past"),
        ({"since": SINCE, "until": "2027-01-15T06:00:00Z"}, "/until", "out_of_range", "after since"),
        ({"since": SINCE, "until": "soon"}, "/until", "invalid_time", ""),
        ({"since": SINCE, "only": "delivered"}, "/only", "unknown_value", "undelivered"),
        ({"since": SINCE, "type": ["x"]}, "/type", "unknown_field", "did you mean types?"),
        ({"since": SINCE, "types": []}, "/types", "too_short", ""),
        ({"since": SINCE, "types": ["ai.revor.job.faild"]}, "/types/0", "unknown_type", "did you mean"),
        ({"since": SINCE, "types": ["relay.test"]}, "/types/0", "unknown_type", "does not get"),
    ]:
        id = await dead(world, client)
        answer = await client.post(f"/v1/subscriptions/{id}/replay", json=body)
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
        assert words in error["detail"]


async def test_many_deliveries_are_retried_by_filter(client, world):
    first = await dead(world, client)
    second = await dead(world, client, count=3)
    for filter, matched in (
        ({}, 5 + 3),  # the first one gets the events of the second one's jobs, and these are not dead
        ({"subscription": first}, 2),
        ({"subscription": second, "reason": "http_500"}, 3),
        ({"reason": "timeout"}, 0),
        ({"state": "delivered"}, 0),
        ({"type": "ai.revor.job.failed"}, 0),
        ({"since": "2027-01-15T08:00:00.500Z"}, 3),
        ({"until": "2027-01-15T08:00:00.500Z"}, 2),
    ):
        answer = await client.post("/v1/deliveries/retry", json={"filter": filter})
        assert answer.status_code == 202
        if filter:
            assert answer.json()["matched"] == matched, filter
    shown = (await client.get(answer.headers["location"])).json()
    assert (shown["subscription_id"], shown["only"], shown["since"]) == (None, "dead", "1970-01-01T00:00:00.000Z")


async def test_more_than_a_hundred_replays_are_refused(client, world, monkeypatch):
    monkeypatch.setattr("relay.store.deliveries.replay_statements.MAX_RUNNING", 1)
    id = await dead(world, client)
    path = f"/v1/subscriptions/{id}/replay"
    assert (await client.post(path, json={"since": SINCE})).status_code == 202
    refused = await client.post(path, json={"since": SINCE})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_replays")


@pytest.mark.parametrize(
    ("filter", "matched"),
    [
        ({}, 3),
        ({"reason": "http_500"}, 3),
        ({"reason": "timeout"}, 0),
        ({"state": "pending"}, 1),
        ({"type": "queued", "since": SINCE}, 3),
        ({"type": "failed"}, 0),
        ({"until": "2027-01-15T08:00:00Z"}, 0),
        ({"subscription": "sub_unknown"}, 0),
    ],
)
async def test_a_dry_run_counts_the_deliveries_and_starts_nothing(client, world, filter, matched):
    first, _ = await dead(world, client), await dead(world, client, count=1, types=["ai.revor.job.queued"])
    answer = await client.post("/v1/deliveries/retry?dry_run=true", json={"filter": filter})
    assert (answer.status_code, answer.json()) == (200, {"matched": matched, "complete": True})
    of_one = {"filter": {"subscription": first, **filter}}
    counted = (await client.post("/v1/deliveries/retry?dry_run=true", json=of_one)).json()
    started = (await client.post("/v1/deliveries/retry", json=of_one)).json()
    assert counted["matched"] == started["matched"]
    entries = (await client.get("/v1/audit", params={"action": "deliveries.retry_many"})).json()["items"]
    assert len(entries) == 1, "a dry run changes nothing, and has no entry"


@pytest.mark.parametrize("only", ["undelivered", "all"])
async def test_a_dry_run_of_a_range_counts_what_the_replay_sends(client, world, only):
    id = await dead(world, client)
    path, body = f"/v1/subscriptions/{id}/replay", {"since": SINCE, "only": only}
    counted = await client.post(f"{path}?dry_run=true", json=body)
    assert (counted.status_code, counted.json()["complete"]) == (200, True)
    assert (await client.post(path, json=body)).json()["matched"] == counted.json()["matched"]
    refused = await client.post(f"{path}?dry_run=true", json={**body, "since": "2040-01-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/since")


async def test_replays_are_listed_newest_first_in_pages(client, world):
    id = await dead(world, client)
    made = []
    for _ in range(3):
        world.now += 1
        started = await client.post(f"/v1/subscriptions/{id}/replay", json={"since": SINCE, "only": "all"})
        made.append(started.json()["replay_id"])
    first = (await client.get("/v1/replays", params={"limit": 2})).json()
    rest = (await client.get("/v1/replays", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    listed = [*first["items"], *rest["items"]]
    assert [one["id"] for one in listed] == made[::-1]
    assert rest["next_cursor"] is None
    assert listed[0] == (await client.get(f"/v1/replays/{made[-1]}")).json()
