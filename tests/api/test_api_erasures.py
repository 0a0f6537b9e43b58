"""`POST /v1/erasures`."""

import httpx2
import pytest

from relay.api import erasures
from relay.store.jobs import erasure
from tests.support.api_world import HOOK, TOKENS, World

Client = httpx2.AsyncClient

NOTHING = dict.fromkeys(("jobs", "events", "deliveries", "attempts", "intents", "in_flight"), 0)


async def a_job(client: Client, world: World, id: str, **fields: object) -> str:
    headers = {"Idempotency-Key": f"{id} of {fields.get('account')}"}
    answer = await client.post("/v1/jobs", json={"id": id, **fields}, headers=headers)
    assert answer.status_code == 201
    uid = str(answer.json()["uid"])
    job = await world.store.jobs.get(uid)
    assert job is not None
    await world.poll(job, "queued")
    return uid


async def test_what_is_known_of_a_person_is_erased(client: Client, world: World) -> None:
    await client.post("/v1/subscriptions", json={"sink": HOOK})
    await a_job(client, world, "a", metadata={"contact": {"email": "kim@example.com"}}, callback_url=HOOK)
    await a_job(client, world, "b", metadata={"email": "other@example.com"})
    answer = await client.post("/v1/erasures", json={"metadata": {"email": "kim@example.com"}})
    assert answer.json() == {**NOTHING, "jobs": 1, "events": 1, "deliveries": 2, "next_cursor": None}
    assert (await client.get("/v1/jobs/a")).status_code == 404
    assert len((await client.get("/v1/events")).json()["items"]) == 1
    assert len((await client.get("/v1/deliveries")).json()["items"]) == 1
    again = await client.post("/v1/erasures", json={"metadata": {"email": "kim@example.com"}})
    assert again.json() == {**NOTHING, "next_cursor": None}


async def test_anything_but_one_selection_is_refused(client: Client) -> None:
    for body in [
        {},
        {"metadata": {"a": "b"}, "job": "a"},
        {"group": "a", "job": "a"},
        {"metadata": {}},
        {"metadata": {"a": "b", "c": "d"}},
        {"metadata": {"a": ""}},
        {"metadata": {"a": "x" * 1001}},
        {"metadata": {"a": 1}},
        {"job": "a", "cursor": "am9i"},
        {"job": "a", "cursor": "!"},
        {"jobs": "a"},
    ]:
        assert (await client.post("/v1/erasures", json=body)).status_code == 422


async def test_a_long_erasure_goes_on_from_its_cursor(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "WORK_SECONDS", 0.0)
    monkeypatch.setattr(erasure, "SLICE", 2)
    for nth in range(5):
        await a_job(client, world, str(nth), metadata={"email": "kim@example.com"})
    body, total, requests = {"metadata": {"email": "kim@example.com"}}, 0, 0
    while True:
        answer = (await client.post("/v1/erasures", json=body)).json()
        total, requests = total + answer["jobs"], requests + 1
        if answer["next_cursor"] is None:
            break
        body["cursor"] = answer["next_cursor"]
    assert total == 5
    assert requests > 4


async def test_only_an_admin_erases(open_client: object, world: World) -> None:
    client = open_client(dev=False, tokens=TOKENS)  # type: ignore[operator]
    for token in ("rl_read", "rl_jobs"):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.post("/v1/erasures", json={"job": "a"}, headers=headers)).status_code == 403
