"""`/v1/incidents`: failures with one cause, and their jobs."""

import pytest

from tests.support.api_world import NOW


async def test_an_incident_has_the_fields_of_its_events(client, world):
    await world.fail("a", "code 1")
    world.now += 5
    await world.fail("b", "code 1")
    (shown,) = (await client.get("/v1/incidents")).json()["items"]
    what = shown.pop("what")
    assert "2" in what
    assert shown == {
        **{"id": shown["id"], "kind": "jobs", "state": "open", "source": "revor", "account": "default"},
        **{"channel": None, "connect_account_id": "acc_1", "connect_account_name": None},
        **{"subscription": None, "sink": None, "code": "code 1", "who": "account owner", "fix": "Reconnect it"},
        **{"repeat": "safe", "failed": 2, "likely": 0},
        **{"first_failure_at": "2027-01-15T08:00:00.000Z", "last_failure_at": "2027-01-15T08:00:05.000Z"},
        **{"opened_at": "2027-01-15T08:00:00.000Z", "closed_at": None, "closed_because": None},
    }
    (event,) = (await client.get("/v1/events?type=relay.incident.opened")).json()["items"]
    assert (event["subject"], event["data"]["failed"]) == (shown["id"], 1)
    assert {"incident", *shown} - {"id"} == {*event["data"]} - {"what"}
    assert (await client.get(f"/v1/incidents/{shown['id']}")).json() == {**shown, "what": what}


async def test_lists_are_filtered_and_paged(client, world):
    for n in range(3):
        await world.fail(f"a {n}", f"code {n}")
        world.now += 1
    await world.fail("b", account="emea")
    world.now = NOW + 90_000
    await world.store.incidents.review(world.now)
    await world.fail("c")
    for query, count in (
        *(("", 5), ("?state=open", 1), ("?state=closed", 4)),
        *(("?account=emea", 1), ("?source=revor", 5), ("?source=other", 0)),
    ):
        assert len((await client.get(f"/v1/incidents{query}")).json()["items"]) == count, query
    first = (await client.get("/v1/incidents?limit=2")).json()
    second = await client.get("/v1/incidents", params={"limit": 3, "cursor": first["next_cursor"]})
    assert (len(second.json()["items"]), second.json()["next_cursor"]) == (3, None)
    closed = second.json()["items"][-1]
    assert (closed["closed_because"], closed["likely"]) == ("quiet", None)


async def test_jobs_say_whether_their_create_may_be_sent_again(client, world):
    for id in ("safe 1", "other 1", "safe 2", "other 2"):
        await world.fail(id, "code")
        world.now += 1
    (shown,) = (await client.get("/v1/incidents")).json()["items"]
    path = f"/v1/incidents/{shown['id']}/jobs"
    jobs = (await client.get(path)).json()["items"]
    assert [(job["id"], job["repeat"]) for job in jobs] == [
        *(("other 2", "may_send_twice"), ("safe 2", "safe"), ("other 1", "may_send_twice"), ("safe 1", "safe"))
    ]
    assert jobs[0]["outcome"] == "failed"
    safe = (await client.get(path, params={"repeat": "safe"})).json()
    assert ([job["id"] for job in safe["items"]], safe["next_cursor"]) == (["safe 2", "safe 1"], None)
    page = (await client.get(path, params={"repeat": "safe", "limit": 1})).json()
    assert [job["id"] for job in page["items"]] == ["safe 2"]
    rest = (await client.get(path, params={"repeat": "safe", "limit": 5, "cursor": page["next_cursor"]})).json()
    assert [job["id"] for job in rest["items"]] == ["safe 1"]
    assert (await client.get(path, params={"repeat": "useless"})).json()["items"] == []


async def test_a_page_of_certain_jobs_reads_a_bounded_number_of_others(client, world, monkeypatch):
    monkeypatch.setattr("relay.api.incidents.MAX_READS", 2)
    for n in range(6):
        await world.fail(f"other {n}", "code")
        world.now += 1
    (shown,) = (await client.get("/v1/incidents")).json()["items"]
    path = f"/v1/incidents/{shown['id']}/jobs"
    page = (await client.get(path, params={"repeat": "safe", "limit": 2})).json()
    assert (page["items"], page["next_cursor"] is None) == ([], False)
    end = (await client.get(path, params={"repeat": "safe", "limit": 2, "cursor": page["next_cursor"]})).json()
    assert (end["items"], end["next_cursor"]) == ([], None)


async def test_failures_that_are_only_watched_are_no_incident(client, world):
    job = await world.job("a")
    await world.poll(job, "failed")
    (row,) = await world.store.database.read(
        lambda connection: connection.exec_driver_sql("SELECT id FROM incidents").all()
    )
    assert (await client.get("/v1/incidents")).json()["items"] == []
    assert (await client.get(f"/v1/incidents/{row[0]}")).status_code == 404


@pytest.mark.parametrize(
    ("query", "code"), [("?state=watching", "invalid_parameter"), ("?cursor=eA", "invalid_cursor")]
)
async def test_a_wrong_query_is_refused(client, query, code):
    assert (await client.get(f"/v1/incidents{query}")).json()["code"] == code
