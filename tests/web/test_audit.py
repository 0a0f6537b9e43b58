"""The audit in the dashboard: filters, verification, CSV."""

import sqlite3
from contextlib import closing

from tests.support.api_world import HOOK, World
from tests.support.web_world import Browser


async def acted(browser: Browser, world: World) -> str:
    made = (await browser.client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    world.now += 1
    await browser.client.post(f"/v1/subscriptions/{made}/pause")
    return str(made)


async def test_entries_are_listed_and_filtered(browser: Browser, world: World) -> None:
    id = await acted(browser, world)
    rows = (await browser.get("/ui/audit")).soup.rows()
    who = "This machine"
    assert [(row["What happened"].partition(" Detail")[0], row["Result"]) for row in rows] == [
        (f"{who} paused the subscription {HOOK}", "done"),
        (f"{who} made the subscription {HOOK}", "done"),
    ]
    one = await browser.get("/ui/audit", action="subscriptions.pause")
    assert one.soup.attributes("//tbody//a[@title]", "title") == [id], "the id is on hover"
    assert one.soup.attributes("//tbody//span[@title]", "title") == ["subscriptions.pause"]
    assert one.soup.texts("//select[@name='action']/option[@selected]") == ["pause the subscription"]
    other = await browser.get("/ui/audit", action="of.a.newer.version")
    assert other.soup.texts("//select[@name='action']/option[@selected]") == ["of.a.newer.version"]
    assert "relay audit list --action subscriptions.pause" in one.soup.text
    assert (await browser.get("/ui/audit", actor="somebody")).soup.texts("//*[@class='empty']/p") == [
        "No entries match."
    ]
    assert "No entries match." in (await browser.get("/ui/audit", until="2001-01-01T00:00:00Z")).soup.text
    assert (await browser.get("/ui/audit", since="yesterday")).status == 422


async def test_audit_is_verified(browser: Browser, world: World) -> None:
    await acted(browser, world)
    page = await browser.post("/ui/audit/verify")
    assert "The audit is intact: 4 entries." in page.soup.text
    with closing(sqlite3.connect(world.store.database.path)) as connection:  # type: ignore[attr-defined]
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE audit SET actor = 'mallory' WHERE number = 2")
        connection.commit()
    page = await browser.post("/ui/audit/verify")
    assert "The audit is not intact." in page.soup.text
    assert page.soup.texts("//main//li") == ["entry 2 was changed or inserted: its MAC is wrong"]


async def test_time_is_also_an_age_or_a_day(browser: Browser, world: World) -> None:
    await acted(browser, world)
    assert len((await browser.get("/ui/audit", since="1d")).soup.rows()) == 2
    assert "No entries match." in (await browser.get("/ui/audit", until="1d")).soup.text
    assert "No entries match." in (await browser.get("/ui/audit", until="2001-01-01")).soup.text


async def test_time_that_cannot_be_read_leads_back_to_the_page(browser: Browser) -> None:
    refused = await browser.get("/ui/audit", since="yesterday")
    assert refused.status == 422
    assert refused.soup.attributes("//main//a[text()='Show this page without its filters']", "href") == ["/ui/audit"]
    assert refused.soup.text.count("'yesterday'") == 1, "the mistake is told once"
