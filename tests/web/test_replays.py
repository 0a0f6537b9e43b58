"""A range of events is counted, sent again, followed and stopped."""

from tests.support.api_world import HOOK
from tests.support.store_kit import claim, result_of


async def dead(world, browser, count=2):
    """A subscription whose deliveries have failed for good."""
    made = (await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "CRM sync"})).json()
    for name in range(count):
        await world.poll(await world.job(f"job {name}"), "queued")
    world.now += 1
    for one in await claim(world.store, made["id"], now=world.now):
        await world.store.deliveries.record(result_of(one, "dead", now=world.now, reason="http_500"))
    return made["id"]


async def start(world, browser, **fields):
    """The path of a replay that has just begun."""
    given = {"subscription": await dead(world, browser), "since": "1d", "only": "undelivered", **fields}
    counted = await browser.post("/ui/replays/new", given)
    (form,) = [one for one in counted.soup.forms() if one.action == "/ui/replays"]
    return (await browser.post(form.action, form.fields)).path.partition("?")[0]


async def test_a_range_is_counted_and_then_sent_again(world, browser):
    id = await dead(world, browser)
    form = await browser.get("/ui/replays/new", subscription=id)
    assert form.soup.attributes("//option[@selected]", "value") == [id]
    since = "--since 2027-01-14T08:00:01.000Z"
    assert f"relay subscriptions replay {id} {since} --only undelivered" in form.html
    for unknown in ("", "..", "a/b"):
        other = await browser.get("/ui/replays/new", subscription=unknown)
        assert f"relay subscriptions replay SUBSCRIPTION {since}" in other.html
        assert "/v1/subscriptions/SUBSCRIPTION/replay" in other.html
    counted = await browser.post("/ui/replays/new", {"subscription": id, "since": "1d", "types": "queued, failed"})
    assert "2 events would be sent again." in counted.html
    assert "CRM sync" in counted.html
    assert f"relay subscriptions replay {id} --since 2027-01-14T08:00:01.000Z --types queued,failed" in counted.html
    assert (await browser.client.get("/v1/audit", params={"action": "subscriptions.replay"})).json()["items"] == []
    (start,) = [one for one in counted.soup.forms() if one.action == "/ui/replays"]
    world.now += 3600
    started = await browser.post(start.action, start.fields)
    assert started.said == "Started. 2 events are sent again."
    assert started.soup.attributes("//progress", "max") == ["2"]
    replay = (await browser.client.get(f"/v1{started.path[3:].partition('?')[0]}")).json()
    assert (replay["since"], replay["until"]) == ("2027-01-14T08:00:01.000Z", "2027-01-15T09:00:01.000Z")
    assert replay["types"] == ["ai.revor.job.queued", "ai.revor.job.failed"]


async def test_what_is_wrong_is_said_at_its_field(world, browser) -> None:
    for path in ["/ui/replays/new", "/ui/replays"]:
        for field, value in [
            ("since", "yesterday"),
            ("since", "2040-01-01"),
            ("types", "unheard_of"),
            ("only", "some"),
            ("subscription", ""),
        ]:
            id = await dead(world, browser, count=0)
            page = await browser.post(path, {"subscription": id, "since": "1d", "until": "", "types": "", field: value})
            assert page.status in (404, 422)
            marked = [] if field == "only" else [field]  # a group of buttons has no such mark
            assert page.soup.attributes("//*[@aria-invalid='true']", "name") == marked
            assert page.soup.all(f"//*[@id='wrong-{field}']")


async def test_a_token_that_may_only_read_sees_progress_and_starts_nothing(world, browser, open_as):
    path = await start(world, browser)
    reader = await open_as(token="rl_read")
    page = await reader.get(path)
    assert (page.status, page.soup.all("//main//form")) == (200, [])
    for action, fields in ((f"{path}/stop", {}), ("/ui/deliveries/retry", {"state": "dead"})):
        assert (await reader.post(action, fields)).status == 403


async def test_a_bound_token_does_not_see_the_replays_of_others(world, browser, open_as):
    path = await start(world, browser)
    bound = await open_as(scopes=["read", "subscriptions:write"], account=("revor", "emea"))
    assert (await bound.get(path)).status == 404
    assert (await bound.post(f"{path}/stop")).status == 404
