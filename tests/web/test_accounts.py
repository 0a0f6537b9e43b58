"""The sending accounts: which can send, what waits for each, whose turn it is, and where to press."""

import pytest

from tests.support.api_world import NOW
from tests.support.store_kit import fail_for, list_accounts, track

PLACE = ("revor", "default")
OWNER = "the owner of the sending account"


@pytest.fixture
async def listed(world):
    """One that needs reconnecting, with jobs that wait, and one that can send."""
    await list_accounts(world.store, PLACE, "acc_ok", channel="email", name="Grace", now=NOW)
    bad = {"channel": "linkedin", "name": "Sales EMEA", "status": "credentials", "can_send": False}
    await list_accounts(world.store, PLACE, "acc_bad", state="needs_reconnect", now=NOW + 1, **bad)
    for number in range(3):
        await track(world.store, f"job {number}", connect_account_id="acc_bad")


async def test_the_page_names_the_account_that_holds_jobs_up(browser, world, listed):
    await fail_for(world.store, "acc_bad", now=NOW + 2)
    page = await browser.get("/ui/accounts")
    (card,) = page.soup.texts("//section[contains(@class, 'card bad')]")
    assert card.startswith("Reconnect the LinkedIn account Sales EMEA")
    assert f"Whose turn: {OWNER}" in card
    (overview,) = (await browser.get("/ui")).soup.texts("//section[contains(@class, 'card bad')]")
    assert card == overview
    bad, well = page.soup.rows()
    assert bad["Account"] == "LinkedIn account Sales EMEA"
    assert (bad["Failed"], bad["Waiting"], bad["Whose turn"]) == ("1", "3", OWNER)
    assert bad["State"].startswith("needs reconnectingfor ")
    assert (bad["Next step"], bad["Links"]) == ("Reconnect it in Revor", "IncidentJobs")
    assert (well["Account"], well["Whose turn"], well["Next step"]) == ("Email account Grace", "", "")
    assert (well["State"], well["Failed"], well["Waiting"]) == ("connected", "—", "—")
    assert "/ui/jobs?connect_account=acc_bad&amp;source=revor&amp;account=default" in page.html
    assert page.soup.texts("//nav[@class='tabs']/a") == ["All 2", "Needs reconnecting 1", "Connected 1"]


async def test_accounts_are_chosen_by_state(browser, listed):
    only = await browser.get("/ui/accounts?state=needs_reconnect")
    assert [row["Account"] for row in only.soup.rows()] == ["LinkedIn account Sales EMEA"]
    none = await browser.get("/ui/accounts?state=removed")
    assert "No sending account matches." in none.soup.text


async def test_an_incident_shows_before_a_listing_that_jobs_fail(browser, world):
    await list_accounts(world.store, PLACE, "acc_1", "acc_2", channel="linkedin", now=NOW)
    page = await browser.get("/ui/accounts")
    assert page.soup.texts("//p[@class='lead']") == ["connected All 2 sending accounts can send."]
    await fail_for(world.store, "acc_2", now=NOW + 1)
    page = await browser.get("/ui/accounts")
    assert page.soup.texts("//section/h2") == ["Reconnect the LinkedIn account"]
    first, _ = page.soup.rows()
    assert (first["Account"], first["Whose turn"]) == ("LinkedIn account acc_2", OWNER)
    assert first["State"].startswith("its jobs fail")


async def test_an_empty_relay_says_where_accounts_come_from(browser):
    page = await browser.get("/ui/accounts")
    assert "No sending account is known yet. Connect one in Revor" in page.soup.text
    assert page.soup.texts("//main//a[@role='button']") == ["See the sources"]


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("ok", ("connected", "", "")),
        ("unauthorized", ("key refused", "an administrator", "Make a key in Revor")),
        ("down", ("no answer", "Revor", "")),
    ],
)
async def test_an_account_of_a_source_that_does_not_work_says_whose_turn_it_is(browser, world, state, shown):
    await list_accounts(world.store, PLACE, "acc_ok", channel="email", name="Grace", now=NOW)
    world.tracking.states["default"] = state
    page = await browser.get("/ui/accounts")
    (row,) = page.soup.rows()
    assert (row["State"], row["Whose turn"], row["Next step"]) == shown
    assert "can send" not in page.soup.text.lower() or state == "ok"


@pytest.mark.parametrize(("with_jobs", "filled"), [(True, ["Reconnect in Revor"]), (False, [])])
async def test_only_what_is_urgent_has_a_filled_button(browser, world, with_jobs, filled):
    bad = {"channel": "linkedin", "name": "Sales EMEA", "status": "credentials", "can_send": False}
    await list_accounts(world.store, PLACE, "acc_bad", state="needs_reconnect", now=NOW, **bad)
    if with_jobs:
        await track(world.store, "job 1", connect_account_id="acc_bad")
    soup = (await browser.get("/ui")).soup
    assert soup.texts("//div[@class='actions']/a[not(@class='secondary')]") == filled
    assert "Reconnect in Revor" in soup.texts("//div[@class='actions']/a")


async def test_next_step_leads_to_the_page_of_sources_where_an_upstream_has_no_address(browser, world, monkeypatch):
    monkeypatch.setattr("relay.web.concerns._opens", lambda *_: ())
    await list_accounts(world.store, PLACE, "acc_ok", channel="email", name="Grace", now=NOW)
    world.tracking.states["default"] = "unauthorized"
    page = await browser.get("/ui/accounts")
    assert page.soup.texts("//table//td/a[@href='/ui/sources']") == ["Where to put it"]
    assert 'href=""' not in page.html
