"""Groups, incidents, creates with an unknown fate, and the accounts: what their pages say and do."""

import pytest

from relay.core.polling.tracking import CreditsReading
from tests.support.api_world import NOW
from tests.support.store_kit import intent, list_accounts, poll, track

EVIL = "<img src=x onerror=alert(1)>\"'{{7*7}}"


async def add(world, *ids, group="Q4 campaign", outcome=None):
    for id in ids:
        await track(world.store, id, group=group)
        (job,) = await world.store.jobs.find(id)
        if outcome:
            await world.store.jobs.record(poll(job.uid, job.progress.sequence, outcome, outcome=outcome, now=world.now))


async def unknown(world, **fields):
    one = intent(NOW, channel="email", **fields)
    await world.store.intents.begin(one)
    await world.store.intents.unknown(one.id, "no_answer")
    return one


# --- groups


async def test_a_group_shows_its_progress_and_its_failures(browser, world):
    await add(world, "a", "b")
    await add(world, "c", outcome="failed")
    (row,) = (await browser.get("/ui/groups")).soup.rows()
    assert row["Failed"] == "1"
    page = await browser.get("/ui/groups/Q4%20campaign")
    assert page.soup.texts("//p[@class='lead']")[0].startswith("1 of 3 jobs have ended, 1 of them failed.")
    assert "/ui/jobs?group=Q4+campaign" in page.html
    assert "relay groups show 'Q4 campaign'" in page.soup.texts("//code")[0]


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


async def test_an_incident_says_what_to_do_and_which_jobs_failed(browser, world):
    await world.fail("safe 1", "code 1")
    world.now += 5
    await world.fail("other 1", "code 1")
    (row,) = (await browser.get("/ui/incidents?state=open")).soup.rows()
    assert row["Failures"] == "2"
    path = str((await browser.get("/ui/incidents")).soup.all("//tbody//a")[0].get("href"))
    page = await browser.get(path)
    assert "Reconnect it" in page.html
    assert [one["Job"] for one in page.soup.rows()] == ["other 1", "safe 1"]
    assert [one["Job"] for one in (await browser.get(f"{path}?repeat=safe")).soup.rows()] == ["safe 1"]
    csv = await browser.get(f"{path}?format=csv")
    assert csv.html.splitlines()[1].startswith("other 1,")


# --- creates with an unknown fate


async def test_a_create_is_resolved_with_the_job_it_made(browser, world):
    one = await unknown(world)
    page = await browser.get("/ui/intents")
    assert "Email create" in page.html
    assert "No answer arrived." in page.html
    assert "I have checked in Revor" in page.html
    done = await browser.post(f"/ui/intents/{one.id}/resolve", {"fate": "sent", "job_id": "made"})
    assert done.said == "Recorded. The create has left the list."
    assert [job.external_id for job in await world.store.jobs.find("made")] == ["made"]


# --- sources


async def test_accounts_that_cannot_send_stand_with_their_jobs(browser, world):
    fields = {"channel": "linkedin", "name": "Ada", "status": "credentials", "can_send": False}
    await list_accounts(world.store, ("revor", "default"), "acc_1", state="needs_reconnect", now=NOW, **fields)
    await list_accounts(world.store, ("revor", "default"), "acc_2", now=NOW)
    page = await browser.get("/ui/sources")
    assert "With today's budget" in page.soup.text
    assert "Ada" in page.html
    only = await browser.get("/ui/sources?state=needs_reconnect")
    assert ("Ada" in only.html, "acc_2" in only.html) == (True, False)


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


# --- the overview


async def test_a_bound_token_sees_the_overview_of_its_account(open_as, world):
    await world.job("job_1")
    browser = await open_as(scopes=["read"], account=("revor", "emea"))
    page = await browser.get("/ui")
    assert page.status == 200
    (health,) = page.soup.texts("//p[contains(@class, 'health')]")
    assert health.startswith("All is well.")
