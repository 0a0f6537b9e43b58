"""Groups, incidents, creates with an unknown fate, and the accounts: what their pages say and do."""

import pytest

from relay.core.events.event import SUBSCRIPTION_DISABLED, Hint
from relay.core.jobs.job import Problem, Recipient
from relay.core.polling.tracking import CreditsReading
from relay.web.pages import incidents
from tests.support.api_world import HOOK, NOW
from tests.support.store_kit import claim, intent, list_accounts, poll, relay_event, result_of, seen, track

EVIL = "<img src=x onerror=alert(1)>\"'{{7*7}}"


async def add(world, *ids, group="Q4 campaign", outcome=None):
    for id in ids:
        await track(world.store, id, group=group)
        (job,) = await world.store.jobs.find(id)
        if outcome:
            await world.store.jobs.record(poll(job.uid, job.progress.sequence, outcome, outcome=outcome, now=world.now))


async def unknown(world, **fields):
    one = intent(NOW, **{"channel": "email", **fields})
    await world.store.intents.begin(one)
    await world.store.intents.unknown(one.id, "no_answer")
    return one


# --- groups


async def test_a_group_shows_its_progress_and_its_failures(browser, world):
    await add(world, "a", "b")
    await add(world, "c", outcome="failed")
    (row,) = (await browser.get("/ui/groups")).soup.rows()
    assert (row["Progress"], row["Trouble"]) == ("1 of 3", "1 failed: Other causes")
    page = await browser.get("/ui/groups/Q4%20campaign")
    assert page.soup.texts("//p[@class='lead']")[0].startswith("1 of 3 jobs have ended, 1 of them failed.")
    assert "/ui/jobs?group=Q4+campaign" in page.html
    assert "relay groups show 'Q4 campaign'" in page.soup.texts("//code")[0]


async def hold_up(world):
    """A campaign whose jobs wait for an account, and failed because of it."""
    hint = Hint(meaning="The account needs reconnecting", fix="Reconnect it", who="account owner", repeat="safe")
    world.tracking.hints["code 1"] = hint
    await list_accounts(world.store, ("revor", "default"), "acc_1", channel="linkedin", name="Ada", now=NOW)
    bad = {"channel": "linkedin", "name": "Sales EMEA", "state": "needs_reconnect"}
    await list_accounts(world.store, ("revor", "default"), "acc_2", now=NOW + 1, **bad)
    for number in range(4):
        await track(world.store, f"job {number}", group="Q4 campaign", connect_account_id="acc_2")
    uid = await track(world.store, "failed", group="Q4 campaign", connect_account_id="acc_2")
    failed = seen("failed", NOW + 2, problem=Problem(code="code 1", message=""))
    await world.store.jobs.record(poll(uid, 0, "failed", outcome="failed", now=NOW + 2, seen=failed, hint=hint))
    world.now = NOW + 3


async def test_a_campaign_that_is_held_up_says_by_whom_and_what_to_do(browser, world):
    await hold_up(world)
    page = await browser.get("/ui/groups/Q4%20campaign")
    (card,) = page.soup.texts("//section[contains(@class, 'card bad')]")
    assert card.startswith("Reconnect the LinkedIn account Sales EMEA")
    assert "Whose turn: the owner of the sending account" in card
    assert "4 jobs of this campaign wait for it." in card
    overview = (await browser.get("/ui")).soup
    for part in ("h2|//section[contains(@class, 'card')]/h3", "p[@class='turn']", "div[@class='actions']/a"):
        path = f"//section[contains(@class, 'card')]/{part}"
        assert page.soup.texts(path) == overview.texts(path) != []
    (finish, *_) = page.soup.texts("//article[contains(@class, 'figure')]")
    note = "4 jobs wait for the LinkedIn account Sales EMEA, which needs reconnecting."
    assert finish == f"Expected finish Held up: account needs reconnecting{note}"
    (cause,), (account,) = page.soup.rows(), page.soup.rows(1)
    assert (cause["Cause"], cause["Jobs"], cause["Whose turn"], cause["Next step"]) == (
        *("The account needs reconnecting", "1"),
        *("the owner of the sending account", "Reconnect it, then send them again"),
    )
    assert (account["Account"], account["Open jobs"]) == ("LinkedIn account Sales EMEA", "4")
    assert "code 1" not in page.soup.text, "a word for programs"
    assert page.soup.all("//figure[@class='chart']//*[contains(@class, 'bar')]")
    (row,) = (await browser.get("/ui/groups")).soup.rows()
    what, turn = "Reconnect the LinkedIn account Sales EMEA in Revor", "the owner of the sending account"
    assert row["Trouble"] == f"{what}Whose turn: {turn}"
    assert row["Expected finish"] == "Held up: account needs reconnecting"
    (listed,) = (await browser.get("/ui")).soup.rows()[:1]
    assert listed["Expected finish"] == row["Expected finish"]


async def test_campaigns_are_chosen_by_state(browser, world):
    await add(world, "a")
    assert len((await browser.get("/ui/groups?state=open")).soup.rows()) == 1
    assert "No campaign matches." in (await browser.get("/ui/groups?state=finished")).soup.text


async def test_a_name_that_two_accounts_have_is_a_choice(browser, world):
    await add(world, "a")
    await track(world.store, "b", group="Q4 campaign", account="emea")
    page = await browser.get("/ui/groups/Q4%20campaign")
    assert (page.status, page.soup.texts("//p[@class='lead']")) == (
        200,
        ["2 accounts have a campaign of this name. Choose one."],
    )
    links = [str(one.get("href")) for one in page.soup.all("//ul[@class='choices']//a")]
    assert len(links) == 2
    pages = [await browser.get(link) for link in links]
    assert all("0 of 1 jobs have ended" in page.html for page in pages)
    assert sorted(text for page in pages for text in page.soup.texts("//h1")) == [
        "Q4 campaign · default",
        "Q4 campaign · emea",
    ]


async def test_a_token_of_one_account_sees_no_account_in_a_title(open_as, world):
    await add(world, "a")
    bound = await open_as(scopes=["read"], account=("revor", "default"))
    assert (await bound.get("/ui/groups/Q4%20campaign")).soup.texts("//h1") == ["Q4 campaign"]


@pytest.mark.parametrize("state", ["unauthorized", "down"])
async def test_a_source_that_does_not_work_comes_first(browser, world, state):
    world.tracking.states["emea"] = state
    page = await browser.get("/ui/sources")
    first, second = page.soup.texts("//main//section[contains(@class, 'card')]/h2")
    assert (first.startswith("Revor · emea"), second) == (True, "Revor · default works")
    assert ("sources.revor.accounts.emea.api_key" in page.html) == (state == "unauthorized")
    asked = "//div[@class='actions']/a[not(@class='secondary')]"
    assert page.soup.texts(asked) == (["Make a key in Revor"] if state == "unauthorized" else [])


async def test_an_empty_relay_says_how_a_campaign_begins(browser):
    page = await browser.get("/ui/groups")
    assert "No job belongs to a campaign yet." in page.soup.text
    assert page.soup.texts("//main//a[@role='button']") == ["See the jobs"]


async def test_a_group_is_closed_with_the_number_of_its_jobs(browser, world):
    await add(world, "a")
    done = await browser.post("/ui/groups/Q4%20campaign/close?source=revor&account=default", {"expected": "7"})
    assert done.said == "The group finishes with its last job."
    (group,) = await world.store.groups.find("Q4 campaign", None, None)
    assert (group.closed_at is not None, group.expected) == (True, 7)
    assert "7 jobs are expected in all." in done.html


async def test_a_token_that_may_only_read_closes_no_group(open_as, world):
    await add(world, "a")
    browser = await open_as(token="rl_read")
    assert "No more jobs come" not in (await browser.get("/ui/groups/Q4%20campaign")).html
    assert (await browser.post("/ui/groups/Q4%20campaign/close")).status == 403


# --- incidents


async def test_an_incident_says_whose_turn_it_is_what_to_do_and_who_was_not_reached(open_as, world):
    browser = await open_as(search_keys=("deal",))
    await list_accounts(world.store, ("revor", "default"), "acc_1", name="Ada Lovelace", now=NOW)
    await world.fail("safe 1", "code 1")
    world.now += 5
    await world.fail("other 1", "code 1")
    page = await browser.get("/ui/incidents?state=open")
    (row,) = page.soup.rows()
    assert (row["Whose turn"], row["Failures"]) == ("the owner of the sending account", "2")
    assert row["Next step"] == "Reconnect it"
    path = str(page.soup.all("//tbody//a")[0].get("href"))
    page = await browser.get(path)
    assert page.soup.texts("//h1") == ["2 jobs of Ada Lovelace failed: the account needs reconnecting"]
    assert page.soup.texts("//section//h2") == ["Reconnect the account Ada Lovelace"]
    assert page.soup.texts("//p[@class='turn']") == ["Whose turn: the owner of the sending account"]
    how = "The relay does not send them again: do it in Revor, with the list below."
    assert page.soup.texts("//dd")[1] == f"Yes, once the cause is gone: none of them was carried out. {how}"
    assert page.soup.texts("//a[@download]") == ["Download the list (CSV)"]
    assert [one["Person"] for one in page.soup.rows()] == ["deal 42", "deal 42"]
    assert "code 1" not in page.soup.text
    assert [one["Send again?"] for one in (await browser.get(f"{path}?repeat=safe")).soup.rows()] == ["Yes"]
    csv = await browser.get(str(page.soup.all("//a[@download]")[0].get("href")))
    assert csv.html.splitlines()[1].startswith("deal 42,other 1,")


async def test_an_incident_of_a_sink_says_what_waits_and_what_is_for_after_the_fix(browser, world):
    sink = await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "Data warehouse"})
    id = sink.json()["id"]
    await world.poll(await world.job("a"), "running")
    (claimed,) = await claim(world.store, id, now=world.now)
    events = (relay_event(SUBSCRIPTION_DISABLED, subject=id, now=world.now),)
    ended = result_of(
        claimed, "dead", now=world.now, reason="http_410", disable="http_410", events=events, sink="https://x.example"
    )
    await world.store.deliveries.record(ended)
    (row,) = (await browser.get("/ui/incidents")).soup.rows()
    assert row["What happened"] == "Open The Data warehouse receiver is gone (410)"
    assert row["Whose turn"] == "whoever runs the receiver"
    assert row["Next step"].startswith("Fix the receiver, then ")
    path = str((await browser.get("/ui/incidents")).soup.all("//tbody//a")[0].get("href"))
    page = await browser.get(path)
    links = page.soup.links()
    assert page.soup.texts("//section/h2") == [
        "The Data warehouse receiver is gone (410), so the relay switched it off"
    ]
    assert links["Show the subscription"] == f"/ui/subscriptions/{id}"
    assert links["Send 1 again"] == f"/ui/deliveries/retry?state=dead&subscription={id}"
    assert page.soup.texts("//span[@class='then']/following-sibling::*") == ["Resume the subscription", "Send 1 again"]
    assert page.soup.all("//div[@class='actions']//*[(self::a or self::button) and not(@class='secondary')]") == []
    main = page.soup.texts("//div[@id='live']")[0]
    assert ("relay subscriptions" in main, "http_410" in main, main.count("Data warehouse")) == (False, False, 1)


async def test_without_an_incident_the_page_shows_what_else_needs_someone(browser, world):
    empty = (await browser.get("/ui/incidents")).soup
    assert "No incident." in empty.text
    sink = await browser.client.post("/v1/subscriptions", json={"sink": HOOK, "description": "Data warehouse"})
    await world.store.subscriptions.set_sink_health(
        sink.json()["id"], failing_since=world.now, failing_reason="http_503", paused_until=None
    )
    page = (await browser.get("/ui/incidents")).soup
    assert page.texts("//section/h2") == ["One thing needs someone"]
    assert page.texts("//section//h3") == ["The Data warehouse receiver has errors (503)"]
    assert (await browser.get("/ui/incidents?state=closed")).soup.texts("//section//h3") == []


async def test_open_jobs_of_the_incidents_account_are_polled_again_once_asked(browser, open_as, world, monkeypatch):
    await world.fail("failed")
    for number in range(5):
        await world.poll(await world.job(f"open {number}"), "running", connect="acc_1")
    monkeypatch.setattr(incidents, "MAX_REFRESHED", 4)
    monkeypatch.setattr(incidents, "MAX_BULK", 3)
    (path,) = [str(one.get("href")) for one in (await browser.get("/ui/incidents")).soup.all("//tbody//a")]
    page = await browser.get(path)
    assert "the newest 4 of its 5 open jobs" in page.html
    assert world.tracking.refreshed == []
    done = await browser.post(f"{path}/refresh")
    assert done.said == "4 jobs are polled again now."
    assert len(set(world.tracking.refreshed)) == 4
    reader = await open_as(token="rl_read")
    assert "Check its open jobs again" not in (await reader.get(path)).html
    assert (await reader.post(f"{path}/refresh")).status == 403


# --- creates with an unknown fate


async def test_an_unknown_send_is_told_by_names_and_settled_with_the_job_it_made(browser, world):
    await list_accounts(world.store, ("revor", "default"), "acc_1", name="Ada Lovelace", now=NOW)
    metadata = {"recipient_name": "Alex", "deal": 42}
    one = await unknown(world, channel="linkedin", connect_account_id="acc_1", group="Q4 campaign", metadata=metadata)
    page = await browser.get("/ui/intents")
    (row,) = page.soup.rows()
    assert row["What"].startswith("LinkedIn message to Alex No answer arrived.")
    assert (row["Sending account"], row["Campaign"]) == ("Ada Lovelace", "Q4 campaign")
    assert page.soup.texts("//p[@class='turn']") == ["Whose turn: an administrator"]
    assert page.soup.texts("//tbody//summary[@role='button']") == [
        "It was sent",
        "It was not sent",
        "I cannot find out",
    ]
    done = await browser.post(f"/ui/intents/{one.id}/resolve", {"fate": "sent", "job_id": "made"})
    assert done.said == "Recorded as sent. It has left the list."
    assert [job.external_id for job in await world.store.jobs.find("made")] == ["made"]


KIM = Recipient(address="kim@example.com", profile_url="https://x.example/<b>kim")
LOOK = "Show whom it was for"


async def test_recipient_is_shown_by_a_button_of_its_own(open_as, world):
    one = await unknown(world, recipient=KIM)
    browser = await open_as(token="rl_jobs", recipients_shown=True)
    page = await browser.get("/ui/intents")
    assert (LOOK in page.html, "kim" in page.html) == (True, False)
    shown = await browser.post(f"/ui/intents/{one.id}/recipient")
    assert shown.soup.texts("//tbody//b") == [KIM.address, KIM.profile_url]
    assert "It was not sent" in shown.html
    assert LOOK not in shown.html
    assert "kim" not in (await browser.get("/ui/intents")).html
    nothing = await unknown(world)
    shown = await browser.post(f"/ui/intents/{nothing.id}/recipient")
    assert "Whom it was for was not kept." in shown.html


@pytest.mark.parametrize(
    ("token", "setting", "status"),
    [("rl_jobs", False, 409), ("rl_admin", False, 409), ("rl_read", True, 403), ("rl_subs", True, 403)],
)
async def test_recipient_is_not_offered_and_not_shown_without_setting_and_scope(open_as, world, token, setting, status):
    one = await unknown(world, recipient=KIM)
    browser = await open_as(token=token, recipients_shown=setting)
    listed = await browser.get("/ui/intents")
    refused = await browser.post(f"/ui/intents/{one.id}/recipient")
    csv = await browser.get("/ui/intents?format=csv")
    assert (refused.status, LOOK in listed.html) == (status, False)
    for page in (listed, refused, csv):
        assert "kim" not in page.html


# --- sources


@pytest.mark.parametrize(
    ("reading", "line"),
    [
        ({}, "Not enough data yet."),
        ({"available": 12_000}, "12,000, warning below 500"),
        ({"available": 120, "low_since": NOW}, "120: below 500. Buy credits"),
        ({"available": 120, "problem": "answered <404>"}, "Cannot be read: answered <404>"),
    ],
)
async def test_credits_of_an_account_are_one_line(browser, world, reading, line):
    page = await browser.get("/ui/sources")
    assert "Credits" not in page.soup.text
    world.tracking.credits["default"] = CreditsReading(threshold=500, **reading)
    page = await browser.get("/ui/sources")
    assert page.soup.texts("//dt[. = 'Credits']/following-sibling::dd[1]") == [line]


async def test_a_source_says_how_soon_ends_are_known_and_nothing_of_prices(browser):
    page = await browser.get("/ui/sources")
    assert page.soup.texts("//main//section/h2") == ["Revor · default works", "Revor · emea works"]
    assert "The relay knows of a job's end 1.2 s after it happens, on average." in page.soup.text
    assert page.soup.texts("//dt[. = 'API key']/following-sibling::dd[1]")[0].startswith("works")
    assert "rice" not in page.soup.text


# --- the overview


async def test_a_bound_token_sees_the_overview_of_its_account(open_as, world):
    await world.job("job_1")
    browser = await open_as(scopes=["read"], account=("revor", "emea"))
    page = await browser.get("/ui")
    assert page.status == 200
    (health,) = page.soup.texts("//p[contains(@class, 'health')]")
    assert health.startswith("All is well.")
