import pytest

from relay.clock import from_rfc3339
from relay.core.events.event import Hint
from relay.core.jobs.groups import MAX_EXPECTED
from relay.core.jobs.job import Problem
from tests.support.store_kit import list_accounts, poll, seen

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


async def test_failures_say_their_cause_and_who_can_fix_it(client, world):
    hint = Hint(meaning="It needs reconnecting", fix="Reconnect it", who="account owner", repeat="safe")
    world.tracking.hints["reconnect"] = hint
    await add(client, "a", "b", "c")
    for id, code in (("a", "reconnect"), ("b", "reconnect"), ("c", "odd")):
        (job,) = await world.store.jobs.find(id)
        failed = seen("failed", world.now, problem=Problem(code=code, message=""))
        await world.store.jobs.record(poll(job.uid, 0, "failed", outcome="failed", now=world.now, seen=failed))
    expected = [
        {"code": "reconnect", "count": 2, **hint.document()},
        {"code": "odd", "count": 1, "meaning": None, "fix": None, "who": None, "repeat": None},
    ]
    assert (await client.get(PATH)).json()["failures"] == expected
    assert (await client.get("/v1/groups")).json()["items"][0]["failures"] == expected


async def test_a_group_shows_the_accounts_it_is_sent_from(client, world):
    await list_accounts(world.store, ("revor", "default"), "acc_1", name="Ada", state="needs_reconnect", now=world.now)
    await list_accounts(world.store, ("revor", "default"), "acc_2", name="New", state="new", now=world.now + 1)
    await add(client, "a", "b", "c", "d")
    for id, account in (("a", "acc_1"), ("b", "acc_1"), ("c", "acc_2"), ("d", "acc_2")):
        (job,) = await world.store.jobs.find(id)
        running = seen("running", world.now, connect_account_id=account, channel="linkedin")
        await world.store.jobs.record(poll(job.uid, 0, "running", now=world.now, seen=running))
    found = (await client.get(PATH)).json()
    assert [(one["id"], one["name"], one["state"], one["waiting"]) for one in found["connect_accounts"]] == [
        ("acc_1", "Ada", "needs_reconnect", 2),
        ("acc_2", "New", None, 2),
    ]
    assert found["expected_finish_note"] == "2 jobs wait for the account Ada, which needs reconnecting."
    assert found["last_ended_at"] is None
    world.now += 10
    await end(world, "d")
    found = (await client.get(PATH)).json()
    assert from_rfc3339(found["last_ended_at"]) == world.now


async def test_ends_of_a_round_over_time(client, world):
    await add(client, "a", "b", "c", "d")
    await end(world, "a")
    world.now += 3_600
    await end(world, "b")
    await end(world, "c")
    found = (await client.get(f"{PATH}/ends")).json()
    assert len(found["points"]) == 24
    ended = {from_rfc3339(one["time"]): one["ended"] for one in found["points"]}
    assert [at for at, count in ended.items() if count] == [world.now - 3_600, world.now]
    assert list(ended.values())[-1] == 2
    await end(world, "d")
    await client.post(f"{PATH}/close")
    world.now += 86_400
    found = (await client.get(f"{PATH}/ends")).json()
    assert [one["ended"] for one in found["points"] if one["ended"]] == [1, 3], "up to its finish"
    assert (await client.get("/v1/groups/unknown/ends")).status_code == 404


async def test_ends_of_an_earlier_round_are_not_counted(client, world):
    await add(client, "a")
    await client.post(f"{PATH}/close")
    await end(world, "a")
    world.now += 5
    await add(client, "b")
    await end(world, "b")
    found = (await client.get(f"{PATH}/ends")).json()
    assert sum(one["ended"] for one in found["points"]) == 1


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
