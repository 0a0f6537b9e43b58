from typing import Any

import pytest

from relay.core.events.event import Hint
from relay.core.jobs.job import Problem
from relay.errors import Conflict
from tests.support.api_world import HOOK, ORIGIN
from tests.support.loop_watch import LoopWatch
from tests.support.store_kit import registration

FIELDS = [
    *("uid", "id", "source", "account", "resource", "status", "outcome", "open", "sequence", "metadata", "request"),
    *("connect_account_id", "group", "priority", "tracked_at"),
    *("last_polled_at", "next_poll_at", "closed_at", "poll_count", "last_error"),
    *("action", "channel", "scheduled_at", "started_at", "next_attempt_at"),
    *("result_status", "attempt_count", "deadline_at"),
    *("problem", "upstream"),
]


async def test_a_new_job_is_201_with_its_location(client, world):
    answer = await client.post("/v1/jobs", json={"id": "a/b c", "metadata": {"deal": 42}})
    job = answer.json()
    assert answer.status_code == 201
    assert list(job) == FIELDS
    assert answer.headers["location"] == f"/v1/jobs/{job['uid']}"
    assert job | {"uid": ""} == {
        "uid": "",
        "id": "a/b c",
        "source": "revor",
        "account": "default",
        "resource": "jobs",
        "status": None,
        "outcome": None,
        "open": True,
        "sequence": 0,
        "metadata": {"deal": 42},
        "request": {"metadata": {}},
        "connect_account_id": None,
        "group": None,
        "priority": "normal",
        "tracked_at": "2027-01-15T08:00:00.000Z",
        "last_polled_at": None,
        "next_poll_at": None,
        "closed_at": None,
        "poll_count": 0,
        "last_error": None,
        "action": None,
        "channel": None,
        "scheduled_at": None,
        "started_at": None,
        "next_attempt_at": None,
        "result_status": None,
        "attempt_count": 0,
        "deadline_at": "2027-01-22T08:00:00.000Z",
        "problem": None,
        "upstream": None,
    }
    assert (await client.get(answer.headers["location"])).json() == job


async def test_callback_whose_host_does_not_resolve_is_a_warning(client):
    body = {"id": "a", "callback_url": "https://hooks.typo.invalid/secret-path"}
    for status in (201, 200):
        answer = await client.post("/v1/jobs", json=body)
        assert answer.status_code == status
        (warning,) = answer.json()["warnings"]
        assert "the host hooks.typo.invalid of callback_url does not resolve (Name or service not known)" in warning
        assert "secret-path" not in warning
    answer = await client.post("/v1/jobs", json={"id": "b", "callback_url": HOOK})
    assert list(answer.json()) == FIELDS


async def test_callbacks_of_a_batch_whose_hosts_do_not_resolve_are_warnings(client):
    urls = [HOOK, None, *(f"https://typo{number % 12}.invalid/secret-path" for number in range(30))]
    jobs = [{"id": str(place), "callback_url": url} for place, url in enumerate(urls)]
    answer = await client.post("/v1/jobs/batch", json={"jobs": jobs}, headers={"Idempotency-Key": "one"})
    said = answer.json()["warnings"]
    assert said[0].startswith("the host typo0.invalid of callback_url does not resolve")
    assert (len(said), said[-1]) == (11, "2 more hosts of callback_url do not resolve")
    assert "secret-path" not in answer.text
    again = await client.post("/v1/jobs/batch", json={"jobs": jobs}, headers={"Idempotency-Key": "one"})
    assert again.json() == {"created": 32, "existing": 0, "rejected": []}
    answer = await client.post("/v1/jobs/batch", json={"jobs": jobs[:2]})
    assert answer.json() == {"created": 0, "existing": 2, "rejected": []}


async def test_a_job_that_is_already_tracked_is_200_and_keeps_its_metadata(client):
    await client.post("/v1/jobs", json={"id": "a", "metadata": {"deal": 42}})
    again = await client.post("/v1/jobs", json={"id": "a"})
    assert (again.status_code, again.json()["metadata"]) == (200, {"deal": 42})
    assert "location" not in again.headers
    changed = await client.post("/v1/jobs", json={"id": "a", "metadata": {"deal": 43}})
    assert (changed.status_code, changed.json()["metadata"]) == (200, {"deal": 43})


async def test_a_priority_is_kept_unless_sent(client):
    first = await client.post("/v1/jobs", json={"id": "a", "priority": "high"})
    assert (first.status_code, first.json()["priority"]) == (201, "high")
    for body, shown in (({}, "high"), ({"priority": None}, "high"), ({"priority": "low"}, "low"), ({}, "low")):
        again = await client.post("/v1/jobs", json={"id": "a", **body})
        assert (again.status_code, again.json()["priority"]) == (200, shown)
    await client.delete("/v1/jobs/a")
    assert (await client.post("/v1/jobs", json={"id": "a"})).json()["priority"] == "low"
    batch = [
        {"id": "a", "priority": "normal"},
        {"id": "b"},
        {"id": "c", "priority": "high"},
        {"id": "b", "priority": "low"},
    ]
    await client.post("/v1/jobs/batch", json={"jobs": batch})
    jobs = (await client.get("/v1/jobs")).json()["items"]
    assert {job["id"]: job["priority"] for job in jobs} == {"a": "normal", "b": "low", "c": "high"}


async def test_every_field_of_a_registration_reaches_tracking(client, world):
    asked = []
    register = world.tracking.register

    async def spy(requests):
        asked.extend(requests)
        return await register(requests)

    world.tracking.register = spy
    body = {"id": "a", "source": "revor", "account": "emea", "callback_url": HOOK, "deadline_seconds": 60}
    assert (await client.post("/v1/jobs", json=body)).status_code == 201
    assert (asked[0].account, asked[0].callback_url, asked[0].deadline_seconds) == ("emea", HOOK, 60)


async def test_the_upstreams_answer_to_a_create_is_a_valid_body(client, world):
    asked = []
    register = world.tracking.register

    async def spy(requests):
        asked.extend(requests)
        return await register(requests)

    world.tracking.register = spy
    body = {"ok": True, "item": {"id": "job-9", "status": "scheduled"}, "request_id": "req_1", "metadata": {"a": 1}}
    answer = await client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["id"]) == (201, "job-9")
    assert asked[0].seen.status == "scheduled"
    assert asked[0].metadata == {"a": 1}


async def test_an_upstreams_answer_without_a_job_is_refused(client) -> None:
    for body in [
        {"ok": False, "item": {"id": "x"}},
        {"ok": True, "item": {}},
        {"ok": True, "item": {"id": "x\ny"}},
        {"ok": True, "item": {"id": "x"}, "metadata": 5},
        {"ok": True, "item": {"id": "x"}, "source": "other"},
    ]:
        answer = await client.post("/v1/jobs", json=body)
        assert answer.status_code == 422
        assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_a_batch_counts_its_jobs_and_lists_the_rejected_ones(client, world):
    world.tracking.refusals["x"] = Conflict("not now", code="busy")
    jobs: list[Any] = [
        {"id": "a"},
        {"id": "a"},
        {"id": ""},
        7,
        {"id": "x"},
        {"id": "b", "urgency": "high"},
        {"id": "c"},
    ]
    answer = await client.post("/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 200
    result = answer.json()
    assert (result["created"], result["existing"]) == (2, 1)
    assert [(one["index"], one["code"]) for one in result["rejected"]] == [
        (2, "invalid_text"),
        (3, "wrong_type"),
        (4, "busy"),
        (5, "unknown_field"),
    ]


async def test_a_batch_is_registered_in_chunks_and_10_001_jobs_are_refused(client, world):
    jobs = [{"id": f"job-{number}"} for number in range(2_500)]
    answer = await client.post("/v1/jobs/batch", json={"jobs": jobs})
    assert answer.json() == {"created": 2500, "existing": 0, "rejected": []}
    assert world.tracking.chunks == [250] * 10
    refused = await client.post("/v1/jobs/batch", json={"jobs": [{"id": "x"}] * 10_001})
    assert (refused.status_code, refused.json()["code"]) == (422, "batch_too_long")


async def test_an_id_in_two_accounts_needs_the_account_or_the_uid(client, world):
    first, second = await world.job("same"), await world.job("same", account="emea")
    answer = await client.get("/v1/jobs/same")
    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_job")
    assert "?source=revor&account=emea" in answer.json()["detail"]
    assert (await client.get("/v1/jobs/same?account=emea")).json()["uid"] == second.uid
    assert (await client.get(f"/v1/jobs/{first.uid}")).json()["account"] == "default"
    assert (await client.get(f"/v1/jobs/{first.uid}?account=emea")).status_code == 404
    assert (await client.post("/v1/jobs/same/refresh")).json()["code"] == "ambiguous_job"
    assert (await client.delete("/v1/jobs/same?account=emea")).status_code == 200


async def test_a_job_is_of_the_first_resource_unless_another_is_named(several, world):
    first = await several.post("/v1/jobs", json={"id": "same"})
    named = await several.post("/v1/jobs", json={"id": "same", "resource": "jobs"})
    second = await several.post("/v1/jobs", json={"id": "same", "resource": "websets"})
    assert [one.status_code for one in (first, named, second)] == [201, 200, 201]
    assert [one.json()["resource"] for one in (first, named, second)] == ["jobs", "jobs", "websets"]
    assert first.json()["uid"] == named.json()["uid"] != second.json()["uid"]
    stored = [await world.store.jobs.get(one.json()["uid"]) for one in (first, second)]
    assert [job.resource for job in stored] == ["", "websets"]


@pytest.mark.parametrize(
    ("given", "pointer", "code", "detail"),
    [
        (
            {"resource": "webset"},
            "/resource",
            "unknown_resource",
            "revor has no resource 'webset': did you mean websets?",
        ),
        ({"resource": "x" * 500}, "/resource", "unknown_resource", "known are jobs, websets"),
        ({"resource": ""}, "/resource", "unknown_resource", "known are jobs, websets"),
        ({"resource": 5}, "/resource", "wrong_type", ""),
        ({"resource": "websets", "source": "other"}, "/source", "unknown_source", ""),
    ],
)
async def test_an_unknown_resource_is_refused_with_the_known_ones(several, given, pointer, code, detail):
    answer = await several.post("/v1/jobs", json={"id": "a", **given})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert detail in error["detail"]
    batch = (await several.post("/v1/jobs/batch", json={"jobs": [{"id": "a", **given}, {"id": "b"}]})).json()
    assert (batch["created"], [one["code"] for one in batch["rejected"]]) == (1, [code])


async def test_an_id_in_two_resources_needs_the_resource_or_the_uid(several):
    first, second = [
        (await several.post("/v1/jobs", json={"id": "same", "resource": name})).json() for name in ("jobs", "websets")
    ]
    answer = await several.get("/v1/jobs/same")
    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous_job")
    assert "2 jobs have the id 'same'" in answer.json()["detail"]
    assert "?source=revor&account=default&resource=websets" in answer.json()["detail"]
    for job in (first, second):
        found = await several.get(f"/v1/jobs/same?resource={job['resource']}")
        assert found.json()["uid"] == job["uid"]
        assert (await several.get(f"/v1/jobs/{job['uid']}")).json()["resource"] == job["resource"]
    assert (await several.get(f"/v1/jobs/{first['uid']}?resource=websets")).status_code == 404
    assert (await several.get("/v1/jobs/same?resource=others")).status_code == 404
    assert (await several.delete("/v1/jobs/same?resource=websets")).json()["uid"] == second["uid"]


async def test_jobs_are_found_by_the_name_of_their_resource(several):
    for id, name in (("a", "jobs"), ("b", "websets"), ("c", "websets")):
        await several.post("/v1/jobs", json={"id": id, "resource": name})
    for query, ids in (("resource=jobs", "a"), ("resource=websets", "bc"), ("resource=websets&open=false", "")):
        found = (await several.get(f"/v1/jobs?{query}")).json()["items"]
        assert "".join(sorted(job["id"] for job in found)) == ids
    answer = await several.get("/v1/jobs?resource=webset")
    assert answer.status_code == 422
    assert "did you mean websets?" in answer.json()["detail"]


async def test_the_types_of_a_callback_are_those_of_its_resource(several):
    given = {"id": "a", "resource": "websets", "callback_url": HOOK}
    assert (await several.post("/v1/jobs", json={**given, "callback_types": ["failed"]})).status_code == 201
    answer = await several.post("/v1/jobs", json={**given, "callback_types": ["ai.revor.job.failed"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/callback_types/0")
    made = await several.post("/v1/subscriptions", json={"sink": HOOK, "types": ["failed", "webset.running"]})
    assert made.json()["types"] == ["ai.revor.job.failed", "ai.revor.webset.failed", "ai.revor.webset.running"]


async def test_an_id_with_odd_characters_is_found_percent_encoded(client, world):
    job = await world.job("ä ?#%+é")
    assert (await client.get("/v1/jobs/%C3%A4%20%3F%23%25%2B%C3%A9")).json()["uid"] == job.uid


@pytest.mark.parametrize("path", ["/v1/jobs/a%2Fb", "/v1/jobs/a%2fevents", "/v1/jobs/a%2Fexplain"])
async def test_an_encoded_slash_never_selects_another_job(client, world, path):
    await world.job("a")
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "slash_in_path")
    assert "uid" in answer.json()["detail"]


async def test_lists_are_filtered_and_paged(client, world):
    for number in range(5):
        await world.job(f"job-{number}")
    await world.job("elsewhere", account="emea")
    await world.poll(await world.job("done"), "succeeded")
    assert len((await client.get("/v1/jobs")).json()["items"]) == 7
    assert [job["id"] for job in (await client.get("/v1/jobs?open=false")).json()["items"]] == ["done"]
    assert [job["id"] for job in (await client.get("/v1/jobs?status=succeeded")).json()["items"]] == ["done"]
    seen, url = [], "/v1/jobs?account=default&limit=2&open=true"
    while url:
        answer = await client.get(url)
        page = answer.json()
        seen += [job["id"] for job in page["items"]]
        link = answer.headers.get("link")
        assert (link is None) == (page["next_cursor"] is None)
        url = link[1 : link.index(">")] if link else None
        assert link is None or link.endswith('; rel="next"')
    assert sorted(seen) == [f"job-{number}" for number in range(5)]


async def test_refresh_requests_a_poll_unless_the_job_is_closed(client, world):
    job = await world.job("a")
    assert (await client.post("/v1/jobs/a/refresh")).status_code == 202
    assert (await client.post("/v1/jobs/a/refresh", json={})).status_code == 202
    assert world.tracking.refreshed == [job.uid, job.uid]
    await world.poll(job, "failed")
    answer = await client.post("/v1/jobs/a/refresh")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_closed")


async def test_explain_answers_with_a_sentence_and_fields(client, world):
    await world.job("a")
    answer = (await client.get("/v1/jobs/a/explain")).json()
    assert answer["reason"] == "between_looks"
    assert answer["next_poll_at"] == "2027-01-15T08:00:05.000Z"
    assert answer["expected_delay_seconds"] == 1.2
    assert answer["last_request_id"] == "req_1"


async def test_untrack_keeps_the_job_and_purge_erases_it(client, world):
    job = await world.job("a")
    await world.poll(job, "queued")
    answer = await client.delete("/v1/jobs/a")
    assert (answer.status_code, answer.json()["outcome"], answer.json()["open"]) == (200, "untracked", False)
    assert (await client.delete("/v1/jobs/a")).status_code == 200
    resumed = await client.post("/v1/jobs", json={"id": "a"})
    assert (resumed.status_code, resumed.json()["open"], resumed.json()["sequence"]) == (200, True, 1)
    assert (await client.delete("/v1/jobs/a?purge=true")).status_code == 200
    assert (await client.get("/v1/jobs/a")).status_code == 404
    assert (await client.get("/v1/events")).json()["items"] == []


@pytest.mark.parametrize(
    ("types", "asked_for"),
    [
        (["succeeded", "job.failed"], ("ai.revor.job.succeeded", "ai.revor.job.failed")),
        (["ai.revor.job.failed", "failed"], ("ai.revor.job.failed",)),
        (None, None),
    ],
)
async def test_a_callback_can_select_types(client, world, types, asked_for):
    asked = []
    register = world.tracking.register

    async def spy(requests):
        asked.extend(requests)
        return await register(requests)

    world.tracking.register = spy
    given = {"callback_url": HOOK, "callback_types": types}
    assert (await client.post("/v1/jobs", json={"id": "a", **given})).status_code == 201
    answer = {"ok": True, "item": {"id": "b", "status": "queued"}, **given}
    batch = await client.post("/v1/jobs/batch", json={"jobs": [answer, {"id": "c", **given}]})
    assert batch.json() == {"created": 2, "existing": 0, "rejected": []}
    assert [one.callback_types for one in asked] == [asked_for] * 3


async def test_a_callback_creates_a_hidden_subscription(client, world):
    answer = await client.post("/v1/jobs", json={"id": "a", "callback_url": HOOK})
    assert answer.status_code == 201
    assert (await client.get("/v1/subscriptions")).json()["items"] == []
    shown = (await client.get("/v1/subscriptions?callbacks=true")).json()["items"]
    assert [one["sink"] for one in shown] == [HOOK]


async def test_jobs_are_found_by_channel_connect_account_and_time(client, world):
    first, second = await world.job("a"), await world.job("b")
    await world.poll(first, "failed", connect="acc_1")
    world.now += 60
    await world.job("later")
    cases = {
        "connect_account=acc_1": ["a"],
        "connect_account=acc_2": [],
        "channel=linkedin": [],
        "since=2027-01-15T08:00:30Z": ["later"],
        "until=2027-01-15T08:00:30Z": [second.external_id, "a"],
        "since=2027-01-15T08:00:00Z&until=2027-01-15T08:00:30Z&status=failed": ["a"],
    }
    for query, ids in cases.items():
        answer = await client.get(f"/v1/jobs?{query}")
        assert sorted(job["id"] for job in answer.json()["items"]) == sorted(ids), query


async def test_bulk_change_answers_for_each_job(client, world):
    first, second = await world.job("a"), await world.job("b")
    await world.job("same")
    await world.job("same", account="emea")
    await world.poll(second, "failed")
    ids = ["a", second.uid, "same", "nothing", "a"]
    refreshed = (await client.post("/v1/jobs/bulk", json={"action": "refresh", "ids": ids})).json()["items"]
    assert [item["id"] for item in refreshed] == ids
    assert [(item["status"], item["code"]) for item in refreshed] == [
        (202, None),
        (409, "job_closed"),
        (409, "ambiguous_job"),
        (404, "job_not_found"),
        (202, None),
    ]
    assert [item["error"] is None for item in refreshed] == [True, False, False, False, True]
    assert world.tracking.refreshed == [first.uid, first.uid]
    untracked = (await client.post("/v1/jobs/bulk", json={"action": "untrack", "ids": ids})).json()["items"]
    assert [item["status"] for item in untracked] == [200, 200, 409, 404, 200]
    assert (await client.get("/v1/jobs/a")).json()["outcome"] == "untracked"
    assert (await client.get("/v1/jobs/b")).json()["outcome"] == "failed"


async def test_bulk_change_is_done_once_with_its_idempotency_key(client, world):
    await world.job("a")
    headers = {"Idempotency-Key": "k"}
    for _ in range(2):
        answer = await client.post("/v1/jobs/bulk", json={"action": "refresh", "ids": ["a"]}, headers=headers)
        assert answer.status_code == 200
    assert len(world.tracking.refreshed) == 1


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"action": "purge", "ids": ["a"]}, "/action", "unknown_value"),
        ({"action": "refresh", "ids": []}, "/ids", "too_short"),
        ({"action": "refresh", "ids": ["a"] * 101}, "/ids", "too_long"),
        ({"action": "refresh", "ids": ["a\0"]}, "/ids/0", "invalid_text"),
        ({"action": "refresh"}, "/ids", "missing"),
        ({"action": "refresh", "ids": ["a"], "all": True}, "/all", "unknown_field"),
    ],
)
async def test_invalid_bulk_change_is_refused_whole(client, world, body, pointer, code):
    await world.job("a")
    answer = await client.post("/v1/jobs/bulk", json=body)
    assert answer.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [(pointer, code)]
    assert world.tracking.refreshed == []


async def test_a_list_of_messages_that_are_slow_to_redact_does_not_hold_up_others(client, world):
    problem = Problem(code="failed", message="https://a.example/?token=x " * 40)
    hint = Hint(repeat="safe", who="you", meaning="It failed.", fix="Fix it.")
    world.tracking.problems |= {f"job {number}": (problem, hint) for number in range(150)}
    await world.store.jobs.register_many([registration(f"job {number}") for number in range(150)])
    async with LoopWatch() as watch:
        for _ in range(2):  # the watch looks again while the second one is read
            page = (await client.get("/v1/jobs?limit=150")).json()
    assert {job["problem"]["fix"] for job in page["items"]} == {"Fix it."}
    assert watch.longest_cpu_seconds < 0.06


@pytest.mark.parametrize(
    ("accounts", "given", "place"),
    [
        ({"acme": ("main",)}, {}, ("acme", "main")),
        ({"acme": ("main", "default")}, {}, ("acme", "default")),
        ({"acme": ("main",)}, {"source": "acme"}, ("acme", "main")),
        ({"acme": ("a",), "revor": ("default",)}, {}, ("revor", "default")),
        ({"acme": ("a",), "revor": ("default",)}, {"source": "acme"}, ("acme", "a")),
    ],
)
async def test_the_only_source_and_account_need_not_be_named(open_client, accounts, given, place):
    origins = {(source, ""): ORIGIN for source in accounts}
    resources = dict.fromkeys(accounts, ("jobs",))
    client = open_client(accounts=accounts, origins=origins, resources=resources)
    job = (await client.post("/v1/jobs", json={"id": "a", **given})).json()
    assert (job["source"], job["account"]) == place


# --- one text, and counts


async def test_a_text_finds_jobs_and_says_what_it_was_found_as(open_client, world):
    client = open_client(search_keys=("deal",))
    for id, group, person in (("a1b2c3", "Q4 launch", "Ada Lovelace"), ("d4e5f6", "Q4 launch", "Grace Hopper")):
        await client.post("/v1/jobs", json={"id": id, "group": group, "metadata": {"deal": person}})
    for text, ids, matches in (
        ("ada", ["a1b2c3"], [{"by": "metadata", "value": "Ada Lovelace", "key": "deal", "name": None}]),
        ("launch", ["a1b2c3", "d4e5f6"], [{"by": "group", "value": "Q4 launch", "key": None, "name": None}]),
        ("d4e5", ["d4e5f6"], [{"by": "id", "value": "d4e5", "key": None, "name": None}]),
        ("%", [], []),
    ):
        answer = (await client.get("/v1/jobs", params={"search": text})).json()
        assert sorted(job["id"] for job in answer["items"]) == ids, text
        assert answer["search"] == {"matches": matches, "more": False}
        found = await client.get("/v1/jobs", params={"search": text, "status": "failed"})
        assert (found.status_code, found.json()["items"]) == (200, [])
    assert "search" not in (await client.get("/v1/jobs")).json()
    for text in ("", "a\0b", "x" * 257):
        assert (await client.get("/v1/jobs", params={"search": text})).status_code == 422


async def test_jobs_are_counted_by_state_within_the_other_filters(client):
    for id, group in (("a", "q4"), ("b", "q4"), ("c", None)):
        await client.post("/v1/jobs", json={"id": id, **({"group": group} if group else {})})
    await client.delete("/v1/jobs/a")
    for query, numbers in (
        ({}, {"all": 3, "open": 2, "failed": 0, "cancelled": 0, "succeeded": 0}),
        ({"group": "q4", "open": "true"}, {"all": 2, "open": 1, "failed": 0, "cancelled": 0, "succeeded": 0}),
    ):
        counts = (await client.get("/v1/jobs", params={**query, "counts": "true"})).json()["counts"]
        assert counts == {name: {"count": number, "more": False} for name, number in numbers.items()}
    assert "counts" not in (await client.get("/v1/jobs")).json()
