"""Replays over HTTP: accepted and refused bodies, progress, and stopping."""

import pytest

from tests.support.api_world import HOOK, SLACK
from tests.support.store_kit import claim, deliver_all, result_of

SINCE = "2027-01-15T07:00:00Z"


async def dead(world, client, count=2, **body):
    """A subscription with only dead deliveries."""
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK, **body})).json()
    for name in range(count):
        await world.poll(await world.job(f"{made['id']} {name}"), "queued")
    world.now += 1
    for one in await claim(world.store, made["id"], now=world.now):
        await world.store.deliveries.record_attempt(result_of(one, "dead", now=world.now, reason="http_500"))
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


async def test_a_replay_can_be_stopped(client, world):
    id = await dead(world, client)
    started = (await client.post(f"/v1/subscriptions/{id}/replay", json={"since": SINCE})).json()
    await world.store.replays.advance(started["replay_id"], "node", world.now)
    stopped = await client.delete(f"/v1/replays/{started['replay_id']}")
    assert (stopped.status_code, stopped.json()["state"], stopped.json()["left"]) == (200, "stopped", 2)
    states = [one["state"] for one in (await client.get("/v1/deliveries?state=dead")).json()["items"]]
    assert states == ["dead", "dead"]


@pytest.mark.parametrize(
    ("body", "pointer", "code", "words"),
    [
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
    ],
)
async def test_an_invalid_replay_is_refused(client, world, body, pointer, code, words):
    id = await dead(world, client)
    answer = await client.post(f"/v1/subscriptions/{id}/replay", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert words in error["detail"]


async def test_a_replay_is_limited_to_the_types_of_its_subscription(client, world):
    id = await dead(world, client, sink=SLACK)
    path = f"/v1/subscriptions/{id}/replay"
    assert (await client.post(path, json={"since": SINCE, "types": ["ai.revor.job.failed"]})).status_code == 202
    assert (await client.post(path, json={"since": SINCE, "types": ["ai.revor.job.queued"]})).status_code == 422


async def test_a_callback_can_be_replayed(client, world):
    await world.poll(await world.job("a", callback_url=HOOK), "queued")
    (callback,) = (await client.get("/v1/subscriptions?callbacks=true")).json()["items"]
    world.now += 1
    (one,) = await claim(world.store, callback["id"], now=world.now)
    await world.store.deliveries.record_attempt(result_of(one, "dead", now=world.now))
    path = f"/v1/subscriptions/{callback['id']}/replay"
    for types, status in (["ai.revor.job.queued"], 202), (["relay.source.down"], 422):
        answer = await client.post(path, json={"since": SINCE, "types": types})
        assert answer.status_code == status
        assert answer.json().get("matched") == (1 if status == 202 else None)


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


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/filter", "missing"),
        ({"filter": {"stat": "dead"}}, "/filter/stat", "unknown_field"),
        ({"filter": {"state": "sent"}}, "/filter/state", "unknown_value"),
        ({"filter": {"type": "faild"}}, "/filter/type", "unknown_type"),
        ({"filter": {"since": "x"}}, "/filter/since", "invalid_time"),
        ({"filter": {"since": SINCE, "until": SINCE}}, "/filter/until", "out_of_range"),
        ({"filter": {"subscription": "\0"}}, "/filter/subscription", "invalid_text"),
        ({"filter": {}, "limit": 5}, "/limit", "unknown_field"),
    ],
)
async def test_an_invalid_filter_of_a_retry_is_refused(client, body, pointer, code):
    answer = await client.post("/v1/deliveries/retry", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)


async def test_an_unknown_replay_is_404(client):
    for method, path, code in (
        ("POST", "/v1/subscriptions/sub_x/replay", "subscription_not_found"),
        ("GET", "/v1/replays/rpl_x", "replay_not_found"),
        ("DELETE", "/v1/replays/rpl_x", "replay_not_found"),
    ):
        answer = await client.request(method, path, json={"since": SINCE} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, code)


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


async def test_a_dry_run_of_a_large_range_says_that_there_may_be_more(client, world, monkeypatch):
    monkeypatch.setattr("relay.store.deliveries.replays.COUNT_SLICE", 1)
    monkeypatch.setattr("relay.store.deliveries.replays.DRY_SLICES", 2)
    id = await dead(world, client, count=4)
    counted = (await client.post(f"/v1/subscriptions/{id}/replay?dry_run=true", json={"since": SINCE})).json()
    assert counted == {"matched": 2, "complete": False}
    monkeypatch.setattr("relay.store.deliveries.counts.SCANNED", 3)
    counted = (await client.post("/v1/deliveries/retry?dry_run=true", json={"filter": {}})).json()
    assert counted == {"matched": 3, "complete": False}
