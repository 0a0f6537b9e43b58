"""Events: the newest ones with filters and live, and one whole."""

import pytest

from tests.support.api_world import HOOK

HOSTILE = "<script>alert(1)</script>\u202egnp.exe"


@pytest.fixture
async def two(world):
    """A job that has failed, and one that is queued. Returns the events, the oldest first."""
    failed = await world.job("job-1")
    found = [*await world.poll(failed, "queued")]
    world.now += 60
    found += await world.poll(failed, "failed")
    world.now += 60
    return [*found, *await world.poll(await world.job("job-2"), "queued")]


def ids(page):
    return page.soup.attributes("//tbody/tr", "id")


async def test_events_are_filtered(browser, two) -> None:
    for query, places in [
        ({}, [2, 1, 0]),
        ({"type": "failed"}, [1]),
        ({"type": "ai.revor.job.queued"}, [2, 0]),
        ({"type": "ai.revor.job.q*"}, [2, 0]),
        ({"type": "job.q*"}, [2, 0]),
        ({"type": "job.failed"}, [1]),
        ({"type": "*"}, [2, 1, 0]),
        ({"subject": "job-1"}, [1, 0]),
        ({"filter": '{"exact": {"/status": "failed"}}'}, [1]),
        ({"filter": '{"exact": {"subject": "job-2"}}'}, [2]),
        ({"filter": '[{"suffix": {"type": "queued"}}, {"not": {"exact": {"subject": "job-2"}}}]'}, [0]),
        ({"filter": '{"suffix": {"type": "queued"}}', "type": "relay.*"}, []),
        ({"since": "90s"}, [2, 1]),
        ({"since": "2027-01-15 08:02"}, [2]),
        ({"until": "2027-01-15T08:01:00Z"}, [0]),
        ({"until": "2027-01-15"}, []),
    ]:
        page = await browser.get("/ui/events", **query)
        assert page.status == 200
        assert ids(page) == [two[place].id for place in places]


async def test_a_wrong_filter_is_named_at_its_field(browser) -> None:
    for field, value in [
        ("type", "faild"),
        ("filter", "data.status == 1"),
        ("filter", "7"),
        ("filter", '{"exact": {"chanel": "email"}}'),
        ("filter", "[1"),
        ("since", "yesterday"),
        ("until", "2027-13-45"),
    ]:
        page = await browser.get("/ui/events", **{field: value})
        assert page.status == 422
        assert page.soup.attributes("//*[@aria-invalid='true']", "name") == [field]
        assert page.soup.attributes("//*[@aria-invalid='true']", "value") == [value]


async def test_an_event_is_shown_whole_with_where_it_went(browser, world):
    made = (await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "CRM sync"})).json()
    job = await world.job("job-1")
    (event,) = await world.poll(job, "queued")
    page = await browser.get(f"/ui/events/{event.id}")
    assert page.soup.rows() == [{"To": "CRM sync", "State": "Waiting", "Reason": "", "Attempts": "0"}]
    assert f"/ui/jobs/{job.uid}" in page.html
    code = page.soup.texts("//code")
    assert any('"specversion": "1.0"' in one for one in code)
    assert f"/v1/events/{event.id}" in next(one for one in code if one.startswith("curl"))
    await browser.client.delete(f"/v1/subscriptions/{made['id']}")
    assert (await browser.get(f"/ui/events/{event.id}")).soup.rows()[0]["State"] == "Skipped or cancelled"


async def test_events_from_outside_are_inert(browser, world):
    sent = {"specversion": "1.0", "id": "1", "source": "https://shop.example", "type": "shop.<b>sold</b>"}
    sent |= {"subject": HOSTILE, "data": {"summary": HOSTILE, HOSTILE: [HOSTILE]}}
    answer = await browser.client.post(
        "/v1/events", json=sent, headers={"content-type": "application/cloudevents+json"}
    )
    assert answer.json()["accepted"] == 1
    id = (await browser.client.get("/v1/events")).json()["ids"][0]
    listed, shown = await browser.get("/ui/events"), await browser.get(f"/ui/events/{id}")
    for page in (listed, shown):
        assert page.status == 200
        assert "\u202e" not in page.html
        assert "\\u202egnp.exe" in page.html
        assert page.soup.all("//script[not(@src)]") == []


async def test_a_bound_token_sees_the_events_of_its_account_only(browser, two, world, open_as):
    (mine,) = await world.poll(await world.job("job-3", account="emea"), "queued")
    bound = await open_as(scopes=["read"], account=("revor", "emea"))
    assert ids(await bound.get("/ui/events")) == [mine.id]
    assert (await bound.get(f"/ui/events/{two[0].id}")).status == 404


async def test_an_event_is_a_sentence_about_something_with_a_name(open_as, world):
    browser = await open_as(search_keys=("deal",))
    await world.poll(await world.job("job-1"), "queued")
    for id in ("a", "b", "c"):
        await world.fail(id)
    rows = (await browser.get("/ui/events")).soup.rows()
    assert list(rows[0]) == ["Time", "What happened", "About", "Type"]
    told = {row["Type"]: (row["What happened"], row["About"]) for row in rows}
    assert told["job.queued"] == ("Job for deal 42 is queued", "deal 42")
    assert told["job.failed"] == ("Job for deal 42 failed", "deal 42")
    assert "need" in told["incident.opened"][0]
    page = await browser.get(f"/ui/events/{ids(await browser.get('/ui/events', type='queued'))[0]}")
    assert page.soup.headings[0] == "Job for deal 42 is queued"


async def test_filters_are_folded_until_one_is_used(browser, two):
    for query, opened in ({}, 0), ({"subject": "job-1"}, 1), ({"since": "yesterday"}, 1):
        page = await browser.get("/ui/events", **query)
        assert len(page.soup.all("//form//details[@open]")) == opened
