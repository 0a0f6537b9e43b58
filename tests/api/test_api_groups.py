import pytest

from relay.core.jobs.groups import MAX_EXPECTED
from tests.support.store_kit import poll

NAME = "Q4 campaign"
PATH = "/v1/groups/Q4%20campaign"


async def add(client, *ids, group=NAME, **fields):
    for id in ids:
        answer = await client.post("/v1/jobs", json={"id": id, "group": group, **fields})
        assert answer.status_code == 201, answer.text


async def end(world, id, outcome="succeeded"):
    (job,) = await world.store.jobs.find(id)
    await world.store.jobs.record(poll(job.uid, job.progress.sequence, outcome, outcome=outcome, now=world.now))


async def test_a_group_counts_its_jobs(client, world):
    await add(client, "a", "b")
    job = (await client.get("/v1/jobs/a")).json()
    assert job["group"] == NAME
    await end(world, "a", "failed")
    answer = await client.get(PATH)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["name"], found["state"], found["round"], found["closed"]) == (NAME, "open", 1, False)
    assert (found["counts"]["queued"], found["counts"]["failed"]) == (1, 1)
    (listed,) = (await client.get("/v1/groups", params={"state": "open"})).json()["items"]
    assert listed.items() <= found.items()
    assert (await client.get("/v1/groups", params={"state": "finished"})).json()["items"] == []


async def test_a_closed_group_finishes(client, world):
    await add(client, "a")
    closed = await client.post(f"{PATH}/close")
    assert (closed.status_code, closed.json()["closed"], closed.json()["state"]) == (200, True, "open")
    await end(world, "a")
    assert (await client.get(PATH)).json()["state"] == "finished"
    again = await client.post(f"{PATH}/close", json={"expected": 7})
    assert (again.status_code, again.json()["expected"]) == (200, None)


@pytest.mark.parametrize("expected", [-1, MAX_EXPECTED + 1, "7", 1.5, True])
async def test_an_impossible_size_is_refused(client, expected):
    await add(client, "a")
    answer = await client.post(f"{PATH}/close", json={"expected": expected})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/expected"


async def test_a_wait_ends_when_the_group_finishes(client, world):
    await add(client, "a")
    await client.post(f"{PATH}/close")

    async def ended():
        await end(world, "a")
        return True

    world.signals.steps = [ended]
    answer = await client.get(PATH, headers={"Prefer": "wait=10"})
    assert (answer.json()["state"], answer.headers["preference-applied"]) == ("finished", "wait=10")
    assert world.signals.open_watches == 0
    await client.get(PATH, headers={"Prefer": "wait=10"})
    assert len(world.signals.waits) == 1


async def test_a_group_of_two_accounts_is_ambiguous(client):
    await add(client, "a")
    await add(client, "a", account="emea")
    for method, path in (("GET", PATH), ("POST", f"{PATH}/close")):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_group")
        assert "?source=revor&account=emea" in answer.json()["detail"]
        chosen = await client.request(method, path, params={"account": "emea"})
        assert chosen.json()["account"] == "emea"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "x" * 201, "a\nb", "a\x00b", "\x7f", "\u2028", 7, ["a"]])
async def test_a_name_that_no_path_can_have_is_refused(client, name):
    answer = await client.post("/v1/jobs", json={"id": "a", "group": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/group"
    batch = await client.post("/v1/jobs/batch", json={"jobs": [{"id": "a", "group": name}, {"id": "b", "group": "ok"}]})
    assert (batch.json()["created"], [one["index"] for one in batch.json()["rejected"]]) == (1, [0])
